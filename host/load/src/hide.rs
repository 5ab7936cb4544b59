//! Keeps the user's secrets out of what servers say: some repeat the headers that they got.

use crate::plan::Target;
use secrecy::ExposeSecret;

/// Shorter values are no secrets, and blotting them out would spoil everything else.
const SHORTEST: usize = 6;

/// The text without values of headers and without the API key.
pub(crate) fn secrets(target: &Target, text: String) -> String {
    let headers = target.headers.iter().map(|(_, value)| value);
    let mut secrets: Vec<&str> = target
        .api_key
        .iter()
        .chain(headers)
        .map(|value| value.expose_secret())
        // "Bearer abc" is secret as a whole, and "abc" alone gives it away as well.
        .flat_map(|value| std::iter::once(value).chain(value.split_whitespace()))
        .filter(|secret| secret.len() >= SHORTEST && text.contains(secret))
        .collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(text, |text, secret| text.replace(secret, "(hidden)"))
}
