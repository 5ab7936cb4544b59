//! Secrets: where they come from, and how they are kept out of everything that is written.

use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, BTreeSet};

/// The user's secrets. They live here and cannot be printed or serialised.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// Sent as bearer token.
    pub(crate) api_key: Option<SecretString>,
    /// HTTP headers of every request.
    pub(crate) headers: Vec<(String, SecretString)>,
    /// Secrets that plugins can name and never see.
    pub(crate) by_name: BTreeMap<String, SecretString>,
    /// The token of the cluster, which only the host uses.
    pub(crate) cluster_token: Option<SecretString>,
}

impl Secrets {
    /// The setting of the API key.
    pub(crate) const API_KEY: &str = "target.api_key";
    /// The variables by which agents get the API key and the headers, which are the settings' own.
    pub(crate) const API_KEY_VARIABLE: &str = "LLMDBENCH_API_KEY";
    pub(crate) const HEADERS_VARIABLE: &str = "LLMDBENCH_TARGET_HEADERS";

    /// The setting of a header.
    pub(crate) fn header(name: &str) -> String {
        format!("target.headers.{name}")
    }

    /// The setting of a secret that plugins can name.
    pub(crate) fn named(name: &str) -> String {
        format!("secrets.{name}")
    }

    /// The settings of those that are there and that servers and other pods may be given.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let key = self.api_key.iter().map(|_| Self::API_KEY.to_owned());
        let headers = self.headers.iter().map(|(name, _)| Self::header(name));
        let named = self.by_name.keys().map(|name| Self::named(name));
        key.chain(headers).chain(named).collect()
    }

    /// What must be blotted out of every text.
    pub(crate) fn redaction(&self) -> Redaction {
        let headers = self.headers.iter().map(|(_, value)| value);
        let own = self.api_key.iter().chain(&self.cluster_token);
        let all = own.chain(headers).chain(self.by_name.values());
        Redaction::default().and(all.cloned())
    }
}

/// Blots secrets out of texts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Redaction {
    texts: Vec<SecretString>,
}

impl Redaction {
    /// Shorter texts are no secrets, and blotting them out would spoil everything else.
    const SHORTEST: usize = 6;

    /// Blots these out as well.
    pub(crate) fn and(mut self, secrets: impl IntoIterator<Item = SecretString>) -> Self {
        for secret in secrets {
            // "Bearer abc" is a secret header, and "abc" alone gives it away as well.
            for part in std::iter::once(secret.expose_secret())
                .chain(secret.expose_secret().split_whitespace())
            {
                if part.len() >= Self::SHORTEST {
                    self.texts.push(SecretString::from(part.to_owned()));
                }
            }
        }
        self.texts.sort_by_key(|text| std::cmp::Reverse(text.expose_secret().len()));
        self
    }

    /// The text without secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.texts {
            if text.contains(secret.expose_secret()) {
                text = text.replace(secret.expose_secret(), "(hidden)");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blotted_out_whole_and_in_part() {
        let secrets = Secrets {
            api_key: Some("sk-topsecret".to_owned().into()),
            headers: vec![("authorization".into(), "Basic dXNlcjpwYXNz".to_owned().into())],
            by_name: [("hf-token".to_owned(), "hf_abcdef".to_owned().into())].into(),
            cluster_token: Some("eyJhbGciOi".to_owned().into()),
        };
        let redaction = secrets.redaction();
        let text =
            "key sk-topsecret, header Basic dXNlcjpwYXNz, part dXNlcjpwYXNz, hf_abcdef eyJhbGciOi";
        assert_eq!(
            redaction.clean(text),
            "key (hidden), header (hidden), part (hidden), (hidden) (hidden)"
        );
        assert!(!format!("{secrets:?} {redaction:?}").contains("topsecret"));
    }
}
