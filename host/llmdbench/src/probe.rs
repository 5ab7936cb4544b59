//! Questions to the target outside of the load: which models it has, how it counts tokens, whether
//! it answers at all.

use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::secrets::Secrets;
use load::Endpoint;
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often it is looked whether the user has interrupted.
const TICK: Duration = Duration::from_millis(50);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to ask a target.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    client: Client,
    endpoint: &'a Endpoint,
    secrets: &'a Secrets,
}

/// What a target says of its models.
#[derive(Debug)]
pub(crate) enum Models {
    /// It lists them.
    Listed(Vec<String>),
    /// It has no such list.
    NoList {
        /// What it said instead.
        answer: String,
    },
}

/// A completion that was asked for as a test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Completion {
    /// Where.
    pub(crate) url: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// Where it redirects to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) leads_to: Option<String>,
    /// The words of the answer.
    pub(crate) text: String,
    /// Tokens of the prompt by the server's count.
    pub(crate) input_tokens: Option<u64>,
    /// The beginning of the whole answer.
    pub(crate) body: String,
}

/// Patience for the control plane, and TLS as far as these URLs, the only ones that are asked, need it.
pub(crate) fn client(urls: &[&str], timeout: Duration) -> Result<Client> {
    client_of(&load::Tls::default(), urls, timeout)
}

/// The same, checking certificates as the user wants.
pub(crate) fn client_of(tls: &load::Tls, urls: &[&str], timeout: Duration) -> Result<Client> {
    let failed = || Error::unexpected("cannot set up HTTP");
    let mut builder =
        Client::builder().timeout(timeout).tls_danger_accept_invalid_certs(tls.insecure);
    if !urls.iter().any(|url| needs_tls(url)) {
        // The system's authorities take some 10 ms to read. No redirect is followed to where they would be needed, and
        // there nothing would be trusted.
        builder = builder.tls_certs_only([]);
    }
    if let Some(path) = &tls.ca_file {
        let pem = std::fs::read(path).map_err(|error| {
            Error::usage(format!("cannot read the CA file `{}`", path.display())).because(error)
        })?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed().because(error))?;
        if certificates.is_empty() {
            return Err(Error::usage(format!(
                "the CA file `{}` holds no certificate",
                path.display()
            ))
            .hint("it must be PEM: `-----BEGIN CERTIFICATE-----` and what follows"));
        }
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    // Another address might be somebody else's, and the headers hold secrets.
    builder.no_proxy().redirect(Policy::none()).build().map_err(|error| failed().because(error))
}

/// Whether a URL is, or may be, that of an encrypted connection.
fn needs_tls(url: &str) -> bool {
    let plain = "http://";
    !url.get(..plain.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(plain))
}

/// A request with the user's key and headers.
pub(crate) fn signed(mut request: RequestBuilder, secrets: &Secrets) -> RequestBuilder {
    let is_given = |(name, _): &(String, _)| name.eq_ignore_ascii_case("authorization");
    if let Some(key) = secrets.api_key.as_ref().filter(|_| !secrets.headers.iter().any(is_given)) {
        request = request.bearer_auth(key.expose_secret());
    }
    for (name, value) in &secrets.headers {
        request = request.header(name, value.expose_secret());
    }
    request
}

impl<'a> Probe<'a> {
    /// A way to ask this endpoint, as the load will. No answer is waited for longer than the load would.
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        secrets: &'a Secrets,
        tls: &load::Tls,
        timeout: Duration,
    ) -> Result<Self> {
        let client = client_of(tls, &[&endpoint.to_string()], timeout.min(PATIENCE))?;
        Ok(Self { client, endpoint, secrets })
    }

    /// Asks for the models. An error: the target does not answer at all.
    pub(crate) fn models(&self) -> Result<Models> {
        let url = self.endpoint.url("/v1/models");
        let Answer { status, body, leads_to } = self.send(self.client.get(&url), &url)?;
        if let Some(address) = leads_to {
            return Err(Error::new(
                Exit::Run,
                format!("{url} answers {status}: it redirects to {address}"),
            )
            .hint(
                "give the address that it redirects to as the endpoint; load follows no redirects",
            ));
        }
        if status.as_u16() == 401 || status.as_u16() == 403 {
            return Err(Error::usage(format!(
                "{url} answers {status}: it wants other credentials"
            ))
            .cause(short(&body))
            .hint(
                "give the API key's variable with --api-key-env NAME, or a header with --header",
            ));
        }
        let listed = serde_json::from_str::<Value>(&body).ok().and_then(|value| {
            let data = value.get("data")?.as_array()?;
            Some(data.iter().filter_map(|m| m.get("id")?.as_str().map(str::to_owned)).collect())
        });
        Ok(match listed {
            Some(models) if status.is_success() => Models::Listed(models),
            _ => Models::NoList { answer: format!("{url} answers {status}: {}", short(&body)) },
        })
    }

    /// Asks for one short completion.
    pub(crate) fn completion(
        &self,
        api: load::Api,
        model: &str,
        extra: &serde_json::Map<String, Value>,
        prompt: &str,
    ) -> Result<Completion> {
        let (path, mut body) = match api {
            load::Api::Chat => (
                "/v1/chat/completions",
                json!({"model": model, "messages": [{"role": "user", "content": prompt}]}),
            ),
            load::Api::Completions => {
                ("/v1/completions", json!({"model": model, "prompt": prompt}))
            }
        };
        body["max_tokens"] = json!(8);
        for (key, value) in extra {
            body[key] = value.clone();
        }
        body["stream"] = json!(false);
        let url = self.endpoint.url(path);
        let answer = self.send(self.client.post(&url).json(&body), &url)?;
        let value: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        let choice = &value["choices"][0];
        let words = [
            &choice["message"]["content"],
            &choice["message"]["reasoning_content"],
            &choice["message"]["reasoning"],
            &choice["text"],
        ];
        Ok(Completion {
            url,
            status: answer.status.as_u16(),
            leads_to: answer.leads_to,
            text: words.iter().filter_map(|w| w.as_str()).collect(),
            input_tokens: value["usage"]["prompt_tokens"].as_u64(),
            body: short(&answer.body),
        })
    }

    /// Has the server count the tokens of a text. None: it has no `/tokenize` that we know.
    pub(crate) fn tokenize(&self, model: &str, text: &str) -> Option<usize> {
        let url = self.endpoint.url("/tokenize");
        // vLLM reads `prompt`, llama.cpp `content`; both leave the other alone.
        let body = json!({"model": model, "prompt": text, "content": text, "add_special_tokens": false, "add_special": false});
        let value = self.send(self.client.post(&url).json(&body), &url).ok()?.json()?;
        let counted = value["count"].as_u64().and_then(|n| usize::try_from(n).ok());
        counted.or_else(|| value["tokens"].as_array().map(Vec::len)).filter(|n| *n > 0)
    }

    /// Posts nothing to a path; gives the HTTP status.
    pub(crate) fn post(&self, path: &str) -> Result<u16> {
        let url = self.endpoint.url(path);
        Ok(self.send(self.client.post(&url), &url)?.status.as_u16())
    }

    /// What the server says of itself: its version, where it tells.
    pub(crate) fn version(&self) -> Option<String> {
        let url = self.endpoint.url("/version");
        let value = self.send(self.client.get(&url), &url).ok()?.json()?;
        value["version"].as_str().map(str::to_owned)
    }

    /// Sends a request and reads the answer, as long as the user does not interrupt it.
    fn send(&self, request: RequestBuilder, url: &str) -> Result<Answer> {
        let request = signed(request, self.secrets);
        let (answers, answer) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || {
                // Nobody waits any more when the user has interrupted.
                let _ = answers.send(request.send().and_then(Answer::read));
            })
            .map_err(|error| Error::unexpected("cannot start a thread").because(error))?;
        let answer = loop {
            match answer.recv_timeout(TICK) {
                Ok(answer) => break answer,
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::unexpected(format!("asking {url} ended without an answer")));
                }
            }
        };
        answer.map_err(|error| unanswered(&error, url))
    }
}

/// Why there is no answer.
fn unanswered(error: &reqwest::Error, url: &str) -> Error {
    // The outer errors only say again that it failed.
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let (what, hint) = if is_tls(error) {
        (
            format!("no TLS connection comes about with {url}"),
            "is it an http:// address? A certificate of one's own is trusted with --ca-file FILE, and none is checked with --insecure",
        )
    } else {
        let what = if error.is_connect() {
            format!("nothing answers at {url}")
        } else if error.is_timeout() {
            format!("{url} does not answer in time")
        } else {
            format!("cannot ask {url}")
        };
        (what, "is the server up, and is the endpoint right?")
    };
    Error::new(Exit::Run, what).cause(innermost.to_string()).hint(hint)
}

/// Whether TLS failed; its errors come within those of reading and writing, which hide them from
/// the chain of sources.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|inner| is_tls(inner))
        || error.source().is_some_and(is_tls)
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    body: String,
    /// Where it redirects to.
    leads_to: Option<String>,
}

impl Answer {
    fn read(response: Response) -> reqwest::Result<Self> {
        let status = response.status();
        let location = response.headers().get(LOCATION).filter(|_| status.is_redirection());
        let leads_to = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok(Self { status, leads_to, body: response.text()? })
    }

    /// The body of a success as JSON.
    fn json(&self) -> Option<Value> {
        self.status.is_success().then(|| serde_json::from_str(&self.body).ok())?
    }
}

fn short(body: &str) -> String {
    let mut text: String = body.trim().chars().take(500).collect();
    if text.len() < body.trim().len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// What is said of a server that answers its first connection with these bytes.
    fn said(scheme: &str, answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = Endpoint::parse(&format!("{scheme}://{address}")).unwrap();
        let secrets = Secrets::default();
        let tls = load::Tls { ca_file: None, insecure: false };
        let error = Probe::new(&endpoint, &secrets, &tls, PATIENCE).unwrap().models().unwrap_err();
        server.join().unwrap();
        error.to_string()
    }

    #[test]
    fn a_redirect_is_told_and_not_followed() {
        let error = said(
            "http",
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: http://elsewhere.invalid/v1\r\nContent-Length: 0\r\n\r\n",
        );
        assert!(error.contains("it redirects to http://elsewhere.invalid/v1"), "{error}");
    }

    #[test]
    fn a_server_without_tls_is_told_apart_from_none() {
        let error = said("https", "HTTP/1.1 400 Bad Request\r\n\r\n");
        assert!(error.contains("no TLS connection comes about"), "{error}");
        assert!(error.contains("is it an http:// address?"), "{error}");
    }
}
