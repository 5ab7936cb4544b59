//! Durations in settings: text with a unit, so that nobody has to guess between seconds and
//! milliseconds.

use serde::de::{self, Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// Units and their lengths in nanoseconds. `ms` must come before `m` and `s`, for it ends like one
/// and begins like the other.
const UNITS: [(&str, f64); 6] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// A length of time, read from "20s", "500ms", "1.5h" or "1m30s". In a JSON Schema it is a string
/// of the pattern `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Duration(u64);

impl Duration {
    /// This many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// This many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds * 1_000_000)
    }

    /// Its length in nanoseconds, the unit of the contract.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

impl From<Duration> for u64 {
    fn from(duration: Duration) -> Self {
        duration.nanos()
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoDuration(String);

impl fmt::Display for NoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no duration: write a number with a unit, such as \"20s\", \"500ms\" or \"1m30s\"",
            self.0
        )
    }
}

impl std::error::Error for NoDuration {}

impl FromStr for Duration {
    type Err = NoDuration;

    fn from_str(text: &str) -> Result<Self, NoDuration> {
        let wrong = || NoDuration(text.to_owned());
        let mut rest = text;
        let mut nanos = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, unit_and_more) = rest.split_at(digits);
            let number: f64 = number.parse().map_err(|_| wrong())?;
            let (unit, length) =
                UNITS.iter().find(|(unit, _)| unit_and_more.starts_with(unit)).ok_or_else(wrong)?;
            nanos += number * length;
            rest = &unit_and_more[unit.len()..];
        }
        // A century is more than any benchmark lasts, and far below the end of u64.
        if text.is_empty() || nanos > 3600e9 * 24.0 * 36525.0 {
            return Err(wrong());
        }
        Ok(Self(nanos.round() as u64))
    }
}

/// As short as it can be read back: "1m30s" reads as 90 s and shows as "90s".
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
        match whole.iter().find(|(_, length)| self.0.is_multiple_of(*length)) {
            Some((unit, length)) => write!(f, "{}{unit}", self.0 / length),
            None => write!(f, "{}ns", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"20s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, nanos) in [
            ("20s", Some(20_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("0s", Some(0)),
            ("10us", Some(10_000)),
            ("7ns", Some(7)),
            ("2m", Some(120_000_000_000)),
            ("", None),
            ("20", None),
            ("s", None),
            ("-1s", None),
            ("1 s", None),
            ("20sec", None),
            ("1..2s", None),
            ("9999999h", None),
        ] {
            assert_eq!(text.parse::<Duration>().ok().map(Duration::nanos), nanos, "{text}");
        }
    }

    #[test]
    fn a_number_is_refused_with_the_way_to_write_it() {
        let error = serde_json::from_str::<Duration>("20").unwrap_err().to_string();
        assert!(error.contains("a duration with its unit, such as \"20s\""), "{error}");
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["90s", "200ms", "10us", "7ns", "0s"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
    }
}
