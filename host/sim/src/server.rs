//! Connections and routes.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::answer::{After, answer};
use crate::api::{self, ApiError, Dialect};
use crate::behavior::{Behavior, CacheReset};
use crate::clock::monotonic_ns;
use crate::engine::{Engine, Stats};
use crate::http::{Connection, Gone, NoRequest, Request, response};
use crate::quirk::Quirk;

/// Serves until `shutdown` completes or the behaviour ends the server; open connections are then
/// dropped. Fails if the behaviour is impossible (the error's inner one is a
/// [`BehaviorError`](crate::BehaviorError)), the truth log cannot be written, or a resource of the
/// system runs out. To be called in a Tokio runtime with I/O; works best alone in a
/// current-thread one.
pub async fn serve(
    listener: TcpListener,
    behavior: Behavior,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Stats> {
    let engine = Arc::new(Engine::new(behavior)?);
    let mut tasks = JoinSet::new();
    let clock = engine.clone();
    tasks.spawn(async move { clock.clock.run().await });

    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = engine.stopped() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = Connection::new(stream);
                    tasks.spawn(converse(engine.clone(), connection));
                }
                Err(error) if is_passing(&error) => {
                    let soon_ns = monotonic_ns() + ACCEPT_PAUSE_NS;
                    engine.clock.until(soon_ns).await;
                }
                Err(error) => return Err(error),
            },
            Some(ended) = tasks.join_next() => match ended {
                Ok(outcome) => outcome?,
                Err(error) => return Err(io::Error::other(error)),
            },
        }
    }
    tasks.shutdown().await;
    engine.outcome()
}

const ACCEPT_PAUSE_NS: u64 = 10_000_000;

/// Errors of `accept` after which it may well succeed: a client that gave up, or files in short
/// supply until some connection ends.
fn is_passing(error: &io::Error) -> bool {
    use nix::errno::Errno::{ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let passing = [ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM];
    error.raw_os_error().is_some_and(|code| passing.iter().any(|&errno| errno as i32 == code))
}

/// Answers the requests of one connection, one after the other.
async fn converse(engine: Arc<Engine>, mut connection: Connection) -> io::Result<()> {
    let number = engine.count_connection();
    let has = |quirk| engine.behavior.quirks.contains(&quirk);
    for answered in 0_u64.. {
        let mut request = match connection.read_request().await {
            Ok(request) => request,
            Err(NoRequest::Gone) => break,
            Err(NoRequest::Bad(status, message)) => {
                response(
                    &mut connection.out,
                    status,
                    "text/plain; charset=utf-8",
                    CLOSE_HEADER,
                    message.as_bytes(),
                );
                // The connection ends here, whether the client reads this or not.
                let _ = connection.send().await;
                break;
            }
        };
        if answered > 0 && has(Quirk::CloseReused) {
            break;
        }
        request.keep_alive &= !has(Quirk::Close) && !has(Quirk::UntilClose);
        let keep_alive = request.keep_alive;
        match respond(&engine, &mut connection, number, request).await {
            Ok(After::KeepIfAsked) if keep_alive => {}
            Ok(_) | Err(Gone) => break,
        }
    }
    Ok(())
}

const CLOSE_HEADER: &str = "connection: close\r\n";

async fn respond(
    engine: &Engine,
    connection: &mut Connection,
    number: u64,
    request: Request,
) -> Result<After, Gone> {
    let mut headers = String::new();
    if !request.keep_alive {
        headers.push_str(CLOSE_HEADER);
    }
    if let Some(id) = &request.request_id {
        headers.push_str(&format!("x-request-id: {id}\r\n"));
    }

    let key = engine.behavior.api_key.as_ref().filter(|_| request.path.starts_with("/v1"));
    let is_refused =
        key.is_some_and(|key| !key.is_borne_by(request.authorization.as_deref().unwrap_or("")));
    let routed = if is_refused { Err(ApiError::unauthorized()) } else { route(engine, &request) };
    let (status, content_type, body) = match routed {
        Ok(Route::Answer(dialect)) => {
            return answer(engine, connection, number, dialect, request, headers).await;
        }
        Ok(Route::Page(content_type, body)) => (200, content_type, body),
        Err(error) => (error.status, JSON, error.body.to_string()),
    };
    response(&mut connection.out, status, content_type, &headers, body.as_bytes());
    connection.send().await?;
    Ok(After::KeepIfAsked)
}

const JSON: &str = "application/json";

/// What a request is to get.
enum Route {
    Answer(Dialect),
    /// Content type and body.
    Page(&'static str, String),
}

fn route(engine: &Engine, request: &Request) -> Result<Route, ApiError> {
    let behavior = &engine.behavior;
    let json = |body: serde_json::Value| Ok(Route::Page(JSON, body.to_string()));
    let (method, path) = (request.method.as_str(), request.path.as_str());
    let reset_path = behavior.cache_reset.path();
    match (method, path) {
        ("POST", "/v1/chat/completions") => Ok(Route::Answer(Dialect::Chat)),
        ("POST", "/v1/completions") => Ok(Route::Answer(Dialect::Completion)),
        ("GET", "/v1/models") => json(models(engine)),
        ("GET", "/health") => Ok(Route::Page("text/plain", String::new())),
        ("GET", "/version") => json(json!({"version": concat!("sim-", env!("CARGO_PKG_VERSION"))})),
        ("GET", "/metrics") => {
            let page = engine.lock().metrics.page(&behavior.model, behavior.cache_blocks);
            Ok(Route::Page("text/plain; version=0.0.4; charset=utf-8", page))
        }
        ("POST", "/tokenize") => {
            let tokens = api::read_tokenize(&request.body, behavior)?;
            let (count, max_model_len) = (tokens.len(), behavior.max_model_len);
            json(json!({"count": count, "max_model_len": max_model_len, "tokens": tokens}))
        }
        ("POST", path) if Some(path) == reset_path => {
            let mut state = engine.lock();
            let is_busy = state.metrics.running + state.metrics.waiting > 0;
            match behavior.cache_reset {
                CacheReset::Sglang if is_busy => {
                    return Err(ApiError::no_route(400, "requests are running"));
                }
                CacheReset::Ignored => {}
                _ => state.cache.clear(),
            }
            Ok(Route::Page("text/plain", String::new()))
        }
        (
            _,
            "/v1/chat/completions"
            | "/v1/completions"
            | "/v1/models"
            | "/health"
            | "/version"
            | "/metrics"
            | "/tokenize",
        ) => Err(ApiError::no_route(405, "Method Not Allowed")),
        (_, path) if Some(path) == reset_path => Err(ApiError::no_route(405, "Method Not Allowed")),
        _ => Err(ApiError::no_route(404, "Not Found")),
    }
}

fn models(engine: &Engine) -> serde_json::Value {
    let behavior = &engine.behavior;
    let created = engine.started_unix_s;
    json!({"object": "list", "data": [{
        "id": behavior.model, "object": "model", "created": created, "owned_by": "vllm",
        "root": behavior.model, "parent": null, "max_model_len": behavior.max_model_len,
        "permission": [{
            "id": "modelperm-sim", "object": "model_permission", "created": created,
            "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
            "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false,
            "organization": "*", "group": null, "is_blocking": false,
        }],
    }]})
}
