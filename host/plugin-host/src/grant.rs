//! What a plugin asks for and what the user grants: the same words on both sides.

use std::fmt;
use std::str::FromStr;

use crate::wit::manifest::{ObjectVerbs, Permission};

/// One permission, asked for or granted. Its text is what `--grant` takes: "process=ollama",
/// "objects=apps/Deployment:apply,observe".
#[derive(Clone, Debug, PartialEq)]
pub enum Grant {
    /// HTTP calls to "host", "host:port", "*.example.org" or "target".
    Http(String),
    /// Objects of a kind in actions.
    Objects(Objects),
    /// This chart, or charts below this prefix when it ends with a slash; "*": the charts that the
    /// user's settings name.
    Helm(String),
    /// This program; "*": the program that the user's settings name.
    Process(String),
    /// This image; a trailing "*" matches the rest.
    Image(String),
    /// This secret of the user; "*": the secrets that the user's settings name.
    Secret(String),
    /// A permission that this host does not know; it cannot be used.
    Other(String),
}

/// Objects of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// API group; "" is the core group.
    pub group: String,
    /// "Deployment", or "*".
    pub kind: String,
    /// A namespace other than the run's.
    pub namespace: Option<String>,
    /// What may be done.
    pub verbs: ObjectVerbs,
}

const VERBS: [(&str, ObjectVerbs); 3] = [
    ("apply", ObjectVerbs::APPLY),
    ("observe", ObjectVerbs::OBSERVE),
    ("delete", ObjectVerbs::DELETE),
];

impl Grant {
    /// Reads a grant: "process=ollama".
    ///
    /// # Errors
    /// When there is no such permission.
    pub fn parse(text: &str) -> Result<Self, BadGrant> {
        let bad = |why: &'static str| BadGrant { text: text.to_owned(), why };
        let (name, value) = text.split_once('=').ok_or_else(|| bad("write it as NAME=VALUE"))?;
        let value = value.trim();
        if value.is_empty() {
            return Err(bad("it names nothing"));
        }
        let own = value.to_owned();
        match name.trim() {
            "http" => Ok(Self::Http(own)),
            "helm" => Ok(Self::Helm(own)),
            "process" => Ok(Self::Process(own)),
            "image" => Ok(Self::Image(own)),
            "secret" => Ok(Self::Secret(own)),
            "objects" => Ok(Self::Objects(Objects::parse(value).ok_or_else(|| {
                bad("objects are GROUP/KIND:VERB,..., like apps/Deployment:apply")
            })?)),
            _ => Err(bad("the permissions are http, objects, helm, process, image and secret")),
        }
    }

    /// Whether this grant contains the other one: `grants.iter().any(|grant| grant.allows(&wanted))`.
    pub fn allows(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Http(granted), Self::Http(wanted)) => allows_host(granted, wanted),
            (Self::Objects(granted), Self::Objects(wanted)) => granted.allows(wanted),
            (Self::Helm(granted), Self::Helm(wanted)) => {
                granted == "*"
                    || granted == wanted
                    || granted.ends_with('/') && wanted.starts_with(granted.as_str())
            }
            (Self::Process(granted), Self::Process(wanted)) => granted == "*" || granted == wanted,
            (Self::Image(granted), Self::Image(wanted)) => match granted.strip_suffix('*') {
                Some(prefix) => wanted.starts_with(prefix),
                None => granted == wanted,
            },
            (Self::Secret(granted), Self::Secret(wanted)) => granted == "*" || granted == wanted,
            _ => false,
        }
    }

    /// What both contain: the narrower of the two.
    pub(crate) fn meet(&self, other: &Self) -> Option<Self> {
        if other.allows(self) {
            Some(self.clone())
        } else if self.allows(other) {
            Some(other.clone())
        } else {
            None
        }
    }

    /// The lines of llmdbench.plugins.yaml that grant these: one for each kind of permission.
    pub(crate) fn to_yaml(grants: &[&Self]) -> Vec<String> {
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for grant in grants {
            let (name, item) = grant.entry();
            match lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, items)) => items.push(item),
                None => lines.push((name, vec![item])),
            }
        }
        lines.into_iter().map(|(name, items)| format!("{name}: [{}]", items.join(", "))).collect()
    }

    /// Key and item of a list in llmdbench.plugins.yaml.
    fn entry(&self) -> (String, String) {
        match self {
            Self::Objects(objects) => {
                let namespace =
                    objects.namespace.as_ref().map(|name| format!(", namespace: {name}"));
                let item = format!(
                    "{{group: {:?}, kind: {:?}{}, verbs: [{}]}}",
                    objects.group,
                    objects.kind,
                    namespace.unwrap_or_default(),
                    objects.verb_names().join(", "),
                );
                ("objects".to_owned(), item)
            }
            other => {
                let text = other.to_string();
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                (name.to_owned(), format!("{value:?}"))
            }
        }
    }
}

/// "*.example.org" allows every host below it, "host" every port of it.
fn allows_host(granted: &str, wanted: &str) -> bool {
    if granted.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let (granted, wanted) = (granted.to_ascii_lowercase(), wanted.to_ascii_lowercase());
    let (granted_host, granted_port) = split_port(&granted);
    let (wanted_host, wanted_port) = split_port(&wanted);
    if granted_port.is_some() && granted_port != wanted_port {
        return false;
    }
    match granted_host.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => {
            wanted_host.len() > suffix.len() && wanted_host.ends_with(suffix)
        }
        _ => granted_host == wanted_host,
    }
}

/// "host:port" in two parts; an IPv6 address stands in brackets when it has a port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

impl Objects {
    /// "apps/Deployment:apply,observe" or "Pod@kube-system:observe".
    fn parse(text: &str) -> Option<Self> {
        let (what, verbs) = text.split_once(':')?;
        let (group, kind) = what.split_once('/').unwrap_or(("", what));
        let (kind, namespace) = match kind.split_once('@') {
            Some((kind, namespace)) => (kind, Some(namespace.to_owned())),
            None => (kind, None),
        };
        let mut set = ObjectVerbs::empty();
        for verb in verbs.split(',') {
            set |= VERBS.iter().find(|(name, _)| *name == verb.trim())?.1;
        }
        (!kind.is_empty()).then(|| Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace,
            verbs: set,
        })
    }

    fn allows(&self, wanted: &Self) -> bool {
        let same_kind = self.kind == "*" || self.kind == wanted.kind && self.group == wanted.group;
        same_kind && self.namespace == wanted.namespace && self.verbs & wanted.verbs == wanted.verbs
    }

    fn verb_names(&self) -> Vec<&'static str> {
        VERBS.iter().filter(|(_, verb)| self.verbs.contains(*verb)).map(|(name, _)| *name).collect()
    }
}

impl From<&Permission> for Grant {
    fn from(permission: &Permission) -> Self {
        match permission {
            Permission::Http(host) => Self::Http(host.clone()),
            Permission::Objects(objects) => Self::Objects(Objects {
                group: objects.group.clone(),
                kind: objects.kind.clone(),
                namespace: objects.namespace.clone(),
                verbs: objects.verbs,
            }),
            Permission::Helm(chart) => Self::Helm(chart.clone()),
            Permission::Process(program) => Self::Process(program.clone()),
            Permission::Image(image) => Self::Image(image.clone()),
            Permission::Secret(name) => Self::Secret(name.clone()),
            Permission::Other(extension) => Self::Other(extension.name.clone()),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(host) => write!(f, "http={host}"),
            Self::Objects(objects) => {
                write!(f, "objects=")?;
                if !objects.group.is_empty() {
                    write!(f, "{}/", objects.group)?;
                }
                write!(f, "{}", objects.kind)?;
                if let Some(namespace) = &objects.namespace {
                    write!(f, "@{namespace}")?;
                }
                write!(f, ":{}", objects.verb_names().join(","))
            }
            Self::Helm(chart) => write!(f, "helm={chart}"),
            Self::Process(program) => write!(f, "process={program}"),
            Self::Image(image) => write!(f, "image={image}"),
            Self::Secret(name) => write!(f, "secret={name}"),
            Self::Other(name) => write!(f, "other={name}"),
        }
    }
}

/// The text is no grant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{text}` is no grant: {why}")]
pub struct BadGrant {
    text: String,
    why: &'static str,
}

impl FromStr for Grant {
    type Err = BadGrant;

    fn from_str(text: &str) -> Result<Self, BadGrant> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_grant_are_the_same() {
        for text in [
            "http=*.example.org",
            "objects=apps/Deployment:apply,observe",
            "objects=Pod@kube-system:observe",
            "helm=oci://ghcr.io/llm-d/",
            "process=ollama",
            "image=ghcr.io/llm-d/*",
            "secret=hf-token",
        ] {
            assert_eq!(Grant::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn words_that_grant_nothing_are_refused() {
        for text in
            ["process", "process=", "teleport=home", "objects=apps/Deployment", "objects=Pod:eat"]
        {
            assert!(Grant::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_grant_allows_what_it_contains() {
        let check = |granted: &str, wanted: &str, is_allowed: bool| {
            let (grant, action) = (Grant::parse(granted).unwrap(), Grant::parse(wanted).unwrap());
            assert_eq!(grant.allows(&action), is_allowed, "{granted} for {wanted}");
        };
        check("process=ollama", "process=ollama", true);
        check("process=ollama", "process=bash", false);
        check("process=*", "process=bash", true);
        check("process=ollama", "secret=ollama", false);
        check("http=*.example.org", "http=a.example.org:443", true);
        check("http=*.example.org", "http=example.org", false);
        check("http=*.example.org", "http=evil-example.org", false);
        check("http=example.org", "http=EXAMPLE.org:8080", true);
        check("http=example.org:443", "http=example.org:80", false);
        check("http=[::1]:80", "http=[::1]:81", false);
        check("image=ghcr.io/llm-d/*", "image=ghcr.io/llm-d/x:1", true);
        check("helm=oci://a/", "helm=oci://a/b", true);
        check("helm=oci://a", "helm=oci://ab", false);
        check("objects=apps/Deployment:apply,observe", "objects=apps/Deployment:apply", true);
        check("objects=apps/Deployment:apply", "objects=apps/Deployment:delete", false);
        check("objects=Pod:observe", "objects=Pod@kube-system:observe", false);
    }

    #[test]
    fn grants_of_one_kind_are_one_line_of_the_file() {
        let grants =
            ["http=a.org", "objects=Pod:observe", "http=b.org", "objects=apps/Deployment:apply"];
        let grants = grants.map(|text| Grant::parse(text).unwrap());
        let lines = Grant::to_yaml(&grants.iter().collect::<Vec<_>>());
        let expected = [
            "http: [\"a.org\", \"b.org\"]",
            "objects: [{group: \"\", kind: \"Pod\", verbs: [observe]}, {group: \"apps\", kind: \"Deployment\", verbs: [apply]}]",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn two_sides_meet_in_the_narrower_one() {
        let meet = |wanted: &str, granted: &str| {
            Grant::parse(wanted)
                .unwrap()
                .meet(&Grant::parse(granted).unwrap())
                .map(|grant| grant.to_string())
        };
        assert_eq!(meet("process=*", "process=ollama").as_deref(), Some("process=ollama"));
        assert_eq!(meet("process=ollama", "process=*").as_deref(), Some("process=ollama"));
        assert_eq!(meet("process=ollama", "process=bash"), None);
    }
}
