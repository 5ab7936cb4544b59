//! Plain requests: made again while the API server is busy, and given up when no answer comes.
//!
//! Watches, logs that are followed, and what goes to and fro once a command runs or a port is open have no such end.

use std::future::Future;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// An answer that takes longer is done without. After a minute the API server itself gives a request up.
const LIMIT: Duration = Duration::from_secs(60);

/// After so long a request that could not be taken is made again.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(500)];

/// Nothing came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer came within {} s", LIMIT.as_secs())]
pub(crate) struct Unanswered;

/// The answer to a request.
pub(crate) async fn answered<T, F>(ask: impl Fn() -> F) -> kube::Result<T>
where
    F: Future<Output = kube::Result<T>>,
{
    let asking = async {
        for pause in PAUSES {
            match ask().await {
                Err(error) if is_busy(&error) => sleep(pause).await,
                answer => return answer,
            }
        }
        ask().await
    };
    timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(kube::Error::Service(Box::new(Unanswered))))
}

/// Whether the API server, or what it asks in turn, can answer later.
fn is_busy(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if [429, 503, 504].contains(&status.code))
}

#[cfg(test)]
mod tests {
    use crate::fake::{Fake, Reply};
    use crate::object::Selection;
    use serde_json::json;

    fn pod() -> Selection {
        Selection::named("v1", "Pod", "ns", "p")
    }

    #[tokio::test]
    async fn a_request_without_an_answer_is_given_up() {
        let mut fake = Fake::new(|path| match path {
            "/api/v1/namespaces/ns/pods/p" => Reply::Never,
            path => Fake::usual(path),
        })
        .await;
        let cluster = fake.connect().await;
        let asked = tokio::spawn(async move { cluster.get(&pod()).await });
        fake.wait_for("/api/v1/namespaces/ns/pods/p").await;
        // Nothing else is going on, so that time passes at once.
        tokio::time::pause();
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "failed to get Pod ns/p: no answer came within 60 s");
        assert!(error.hint().is_some() && !error.is_refusal());
    }

    #[tokio::test]
    async fn a_request_that_is_not_taken_is_made_again() {
        let times = std::sync::atomic::AtomicUsize::new(0);
        let fake = Fake::new(move |path| match path {
            "/api/v1/namespaces/ns/pods/p" => {
                if times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                    return Reply::status(429, "TooManyRequests");
                }
                let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
                Reply::of(200, object)
            }
            path => Fake::usual(path),
        })
        .await;
        let found = fake.connect().await.get(&pod()).await.unwrap();
        assert_eq!(found[0]["metadata"]["name"], "p");
    }
}
