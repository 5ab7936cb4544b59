//! [`Endpoint`]: where a model answers, however the user wrote its address.

use std::fmt;
use url::{Host, Url};

/// The base URL of an inference server, without the `/v1` of the OpenAI API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    secure: bool,
    host: Host,
    port: u16,
    prefix: String,
}

/// Why an address is not one of an endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// It is no URL.
    #[error("parse the endpoint `{url}`: {reason}; write it like http://host:8000")]
    Malformed {
        /// What was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Another protocol than HTTP.
    #[error("use the endpoint `{url}`: it must begin with http:// or https://")]
    Scheme {
        /// What was given.
        url: String,
    },
    /// Parts that a base URL has no use for.
    #[error(
        "use the endpoint `{url}`: {part} has no place in it; an API key is given by a setting"
    )]
    Surplus {
        /// What was given, without the password.
        url: String,
        /// The part that is too much.
        part: &'static str,
    },
}

impl Endpoint {
    /// Reads an address. A trailing `/`, `/v1`, and the whole path of a known call are taken as
    /// the same base: `http://h:8000`, `http://h:8000/v1/` and
    /// `http://h:8000/v1/chat/completions` are equal.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        // A password may hold an @ of its own.
        let given = || text.rsplit_once('@').map_or(text, |(_, rest)| rest).to_owned();
        let url = Url::parse(text.trim()).map_err(|error| EndpointError::Malformed {
            url: given(),
            reason: error.to_string(),
        })?;
        let secure = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(EndpointError::Scheme { url: given() }),
        };
        let surplus = |part| Err(EndpointError::Surplus { url: given(), part });
        if !url.username().is_empty() || url.password().is_some() {
            return surplus("a user name or password");
        }
        if url.query().is_some() {
            return surplus("a query (?...)");
        }
        if url.fragment().is_some() {
            return surplus("a fragment (#...)");
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(EndpointError::Malformed { url: given(), reason: "it has no host".into() });
        };
        let path = url.path().trim_end_matches('/');
        let path = ["/chat/completions", "/completions", "/models"]
            .iter()
            .find_map(|call| path.strip_suffix(call).filter(|base| base.ends_with("/v1")))
            .unwrap_or(path);
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
        Ok(Self { secure, host: host.to_owned(), port, prefix })
    }

    /// The URL of a call, for instance of `/v1/models`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Whether the connection is encrypted.
    pub(crate) fn secure(&self) -> bool {
        self.secure
    }

    /// The host as resolvers and certificates take it: an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What stands before a path in a request line.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The value of the `host` header.
    pub(crate) fn authority(&self) -> String {
        let default = if self.secure { 443 } else { 80 };
        if self.port == default {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_address_gives_the_url_of_the_call() {
        let check = |text: &str, url: &str| {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.url("/v1/chat/completions"), url, "{text}");
            assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint), "{text}");
        };
        check("http://h:8000", "http://h:8000/v1/chat/completions");
        check("http://h:8000/", "http://h:8000/v1/chat/completions");
        check("http://h:8000/v1", "http://h:8000/v1/chat/completions");
        check("http://h:8000/v1/", "http://h:8000/v1/chat/completions");
        check("http://h:8000/v1/chat/completions", "http://h:8000/v1/chat/completions");
        check("http://h:8000/v1/completions/", "http://h:8000/v1/chat/completions");
        check("http://h:8000/ns/model", "http://h:8000/ns/model/v1/chat/completions");
        check("http://h:8000/ns/model/v1", "http://h:8000/ns/model/v1/chat/completions");
        check("https://h", "https://h/v1/chat/completions");
        check("https://h:443/", "https://h/v1/chat/completions");
        check("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions");
        check("http://h:8000/completions", "http://h:8000/completions/v1/chat/completions");
    }

    #[test]
    fn an_address_of_something_else_is_refused_with_a_cure() {
        let check = |text: &str, part: &str| {
            let message = Endpoint::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("localhost:8000", "must begin with http://");
        check("h:port/x", "must begin with http://");
        check("", "write it like");
        check("http://", "write it like");
        check("ftp://h", "must begin with http://");
        check("http://h/?key=1", "a query");
        check("http://h/#x", "a fragment");
        check("http://u:secret@h/", "user name");
        for text in [
            "http://u:secret@h/",
            "http://u:p@secret@h/",
            "ftp://u:secret@secret@h",
            "http://u:sec@secret@h:x",
        ] {
            let message = Endpoint::parse(text).unwrap_err().to_string();
            assert!(!message.contains("sec"), "{message}");
        }
    }
}
