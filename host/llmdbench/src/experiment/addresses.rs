//! Addresses in an experiment: servers that are up, and pages of metrics.

use super::{at, texts};
use crate::error::Problem;
use crate::settings::Settings;
use load::Endpoint;
use url::Url;

/// The base URLs of servers that are up, each once.
pub(super) fn endpoints(settings: &Settings, problems: &mut Vec<Problem>) -> Vec<String> {
    let mut found = Vec::new();
    let mut given = texts(settings.get("deploy.endpoint"));
    // Commas have cut a password into parts, which can be hidden only as a whole.
    if given.iter().any(|text| !text.contains("://") && text.contains('@')) {
        given = vec![given.join(",")];
    }
    for text in given {
        let wrong = match Endpoint::parse(&text).map(|endpoint| endpoint.to_string()) {
            _ if text.is_empty() => continue,
            Ok(url) if !found.contains(&url) => {
                found.push(url);
                continue;
            }
            Ok(url) => format!("the endpoint {url} is given twice, and would get twice the load"),
            Err(error) => format!("failed to {error}"),
        };
        problems.push(at(settings, "deploy.endpoint", &wrong));
        found.push(text);
    }
    found
}

/// Why a metrics page cannot be read from this address. None: it can be tried.
pub(super) fn wrong_page(text: &str) -> Option<String> {
    let hidden = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let hidden = hidden.split_once('?').map_or(hidden, |(front, _)| front);
    let said = format!("`target.metrics`: a page cannot be read from `{hidden}`");
    let Ok(url) = Url::parse(text) else {
        return Some(format!("{said}: it is no URL; write it like http://node:9400/metrics"));
    };
    if !["http", "https"].contains(&url.scheme()) {
        return Some(format!("{said}: it must begin with http:// or https://"));
    }
    // The address stands in files.
    if !url.username().is_empty() || url.password().is_some() {
        return Some(format!("{said}: a user name or password has no place in it"));
    }
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["token", "key", "secret", "password", "auth"].iter().any(|word| name.contains(word))
    };
    let (name, _) = url.query_pairs().find(|(name, _)| is_secret(name))?;
    Some(format!("{said}: a secret such as `{name}` has no place in it"))
}
