//! What can go wrong between here and a cluster.

use crate::answer::Unanswered;
use crate::diagnosis::{Diagnosis, explain};
use crate::object::{ObjectRef, Owner};
use crate::signals::Place;
use std::time::Duration;

/// What functions of this crate give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, on what, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no usable way to a cluster.
    #[error("failed to connect to {to}: {why}")]
    Connect {
        /// "the context `x` of the kubeconfig", a URL.
        to: String,
        /// The cause.
        why: String,
    },
    /// What was to be applied is no object.
    #[error("this is no Kubernetes object: {0}")]
    Object(String),
    /// The cluster has no such kind.
    #[error("the cluster does not know the kind `{kind}` of `{api_version}`")]
    UnknownKind {
        /// "apps/v1".
        api_version: String,
        /// "Deployment".
        kind: String,
    },
    /// An object is there already and belongs to somebody else.
    #[error("{object} is there already and belongs to {owner}")]
    Foreign {
        /// The object.
        object: Box<ObjectRef>,
        /// Who has it.
        owner: Owner,
    },
    /// A request was refused or not answered.
    #[error("failed to {verb} {what}: {}", cause(source))]
    Request {
        /// "apply", "get".
        verb: &'static str,
        /// The object, or the kind.
        what: String,
        /// What came instead of an answer.
        source: Box<kube::Error>,
    },
    /// An API that a server in the cluster serves is not available, and so are the objects of its kinds.
    #[error("the API {api} is not available: {why}")]
    Unavailable {
        /// "metrics.k8s.io/v1beta1".
        api: String,
        /// What the API server said.
        why: String,
    },
    /// A wait that could not succeed any more was ended.
    #[error("{what} cannot come up: {}", reasons(diagnoses))]
    Hopeless {
        /// What was waited for.
        what: String,
        /// Why, the decisive one first.
        diagnoses: Vec<Diagnosis>,
    },
    /// A wait took too long.
    #[error("{what} is not there after {} s: {state}", after.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// The last that was seen.
        state: String,
        /// What may be the cause.
        diagnoses: Vec<Diagnosis>,
    },
    /// Nothing that can take the traffic stands behind a Service.
    #[error("no pod behind {0} is ready")]
    NoPod(String),
    /// A stream from a pod broke.
    #[error("the connection to {to} broke: {why}")]
    Broken {
        /// The pod.
        to: String,
        /// The cause.
        why: String,
    },
}

impl Error {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKind { api_version, kind } => {
                let text = format!("no matches for kind \"{kind}\" in version \"{api_version}\"");
                explain(Place::Request, "", &text).map(|diagnosis| diagnosis.advice)
            }
            Self::Foreign { owner: Owner::Run(run), .. } => Some(format!(
                "take that run down first (`llmdbench teardown` in its folder), or use another namespace; its objects have the label {}={run}",
                crate::RUN_LABEL
            )),
            Self::Foreign { .. } => {
                Some("remove it, or use another namespace or another name".to_owned())
            }
            Self::Request { source, .. } => {
                explain(Place::Request, "", &cause(source)).map(|diagnosis| diagnosis.advice)
            }
            Self::Unavailable { .. } => Some(
                "`kubectl get apiservices` says which server it is that does not answer".to_owned(),
            ),
            Self::Hopeless { diagnoses, .. } | Self::TimedOut { diagnoses, .. } => {
                diagnoses.first().map(|diagnosis| diagnosis.advice.clone())
            }
            _ => None,
        }
    }

    /// Whether the cluster refused because of missing rights.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Request { source, .. } if matches!(&**source, kube::Error::Api(s) if s.code == 401 || s.code == 403))
    }

    /// Whether the account may not do it; it is known who asks.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Request { source, .. } if matches!(&**source, kube::Error::Api(s) if s.code == 403))
    }

    /// Whether nothing was done, for the cluster said no or was never asked. After any other error of a request it may
    /// have been carried out all the same.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Object(_) | Self::UnknownKind { .. } | Self::Foreign { .. } => true,
            Self::Request { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if (400..500).contains(&status.code))
            }
            _ => false,
        }
    }

    /// Why, without what failed.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Request { source, .. } => cause(source),
            other => other.to_string(),
        }
    }

    /// Whether nobody answered.
    pub(crate) fn is_unanswered(&self) -> bool {
        let Self::Request { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Service(_) | kube::Error::HyperError(_))
    }
}

/// What the API server said, or why it could not be asked.
pub(crate) fn cause(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => return status.message.clone(),
        kube::Error::Service(inner) if inner.is::<Unanswered>() => return inner.to_string(),
        _ => {}
    }
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(inner) = next {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = inner.source();
    }
    text
}

pub(crate) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn reasons(diagnoses: &[Diagnosis]) -> String {
    diagnoses.first().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn only_what_the_cluster_refused_is_certainly_not_there() {
        let refusal = |source: kube::Error| {
            Error::Request { verb: "apply", what: "x".into(), source: Box::new(source) }
                .is_refusal()
        };
        let said = |code| kube::Error::Api(Status::failure("no", "No").with_code(code).boxed());
        assert!(refusal(said(403)) && refusal(said(409)) && refusal(said(422)));
        // It may have been carried out all the same.
        assert!(!refusal(said(500)) && !refusal(said(504)));
        assert!(!refusal(kube::Error::Service("the connection broke".into())));
        assert!(Error::Object("none".into()).is_refusal());
    }
}
