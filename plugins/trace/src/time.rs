//! Timestamps: numbers of a unit, or a date with a time of day. Both are kept in whole nanoseconds,
//! without floating point, for a Unix time in nanoseconds has more digits than a double.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

const SECOND: i64 = 1_000_000_000;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    S,
    Ms,
    Us,
    Ns,
}

impl Unit {
    /// Its length in nanoseconds.
    pub(crate) fn nanos(self) -> i64 {
        match self {
            Self::S => SECOND,
            Self::Ms => 1_000_000,
            Self::Us => 1_000,
            Self::Ns => 1,
        }
    }

    /// As users write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::S => "s",
            Self::Ms => "ms",
            Self::Us => "us",
            Self::Ns => "ns",
        }
    }
}

/// Nanoseconds of a timestamp, from where its numbers count or from 1970. None: it is none, or more
/// than 292 years away.
pub(crate) fn parse(text: &str, unit: Unit) -> Option<i64> {
    if text.contains(':') { date(text) } else { number(text, unit) }
}

fn number(text: &str, unit: Unit) -> Option<i64> {
    if text.contains(['e', 'E']) {
        let nanos = text.parse::<f64>().ok()? * unit.nanos() as f64;
        return (nanos.abs() < i64::MAX as f64).then_some(nanos.round() as i64);
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let nanos =
        i128::from(whole_number(whole)?) * i128::from(unit.nanos()) + fraction(part, unit.nanos())?;
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

/// "2023-11-16 18:15:46.6805900", also with T between, and with Z or +01:00 after; without them it
/// is taken for UTC.
fn date(text: &str) -> Option<i64> {
    // A time of day has seconds; the parser would do without.
    text.splitn(3, ':').nth(2)?;
    let instant = text.parse::<Timestamp>().or_else(|_| {
        text.parse::<DateTime>()?.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    i64::try_from(instant.ok()?.as_nanosecond()).ok()
}

fn whole_number(digits: &str) -> Option<i64> {
    // Parsing would take a sign as well.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The digits behind a point, in units of `one`.
fn fraction(digits: &str, one: i64) -> Option<i128> {
    if digits.is_empty() {
        return Some(0);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // What lies behind 18 digits is less than a nanosecond of a year.
    let digits = &digits[..digits.len().min(18)];
    let scale = 10_i128.pow(digits.len() as u32);
    Some((i128::from(whole_number(digits)?) * i128::from(one) + scale / 2) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_their_unit_and_keep_their_digits() {
        for (text, unit, nanos) in [
            ("0", Unit::Ms, 0),
            ("5999", Unit::Ms, 5_999_000_000),
            ("7", Unit::S, 7 * SECOND),
            ("19440110.0", Unit::S, 19_440_110 * SECOND),
            ("0.25", Unit::Us, 250),
            ("-1.5", Unit::S, -1_500_000_000),
            ("1800000000100000363", Unit::Ns, 1_800_000_000_100_000_363),
            ("1800000000.100000363", Unit::S, 1_800_000_000_100_000_363),
            ("1e-05", Unit::S, 10_000),
            ("1.5e-05", Unit::S, 15_000),
            ("0.1234567890123456789012", Unit::S, 123_456_789),
        ] {
            assert_eq!(parse(text, unit), Some(nanos), "{text} {unit:?}");
        }
    }

    #[test]
    fn dates_count_from_1970() {
        // `date -d "... UTC" +%s` gives the same.
        for (text, nanos) in [
            ("1970-01-01 00:00:00", 0),
            ("2023-11-16 18:15:46.6805900", 1_700_158_546_680_590_000),
            ("2023-11-16T18:15:46.68059Z", 1_700_158_546_680_590_000),
            ("2023-11-16 19:15:46.68059+01:00", 1_700_158_546_680_590_000),
            ("2023-11-16 12:45:46.68059-0530", 1_700_158_546_680_590_000),
            ("2024-05-10 00:00:00.009930+00:00", 1_715_299_200_009_930_000),
            ("2024-02-29 23:59:59", 1_709_251_199_000_000_000),
            ("2000-03-01 00:00:00", 951_868_800_000_000_000),
            ("1969-12-31 23:59:59.5", -500_000_000),
        ] {
            assert_eq!(parse(text, Unit::Ms), Some(nanos), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            ".",
            "-",
            "+5",
            "1.2.3",
            "1,5",
            "soon",
            "nan",
            "inf",
            "1e30",
            "12s",
            "9300000000000000000",
            "2023-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "2023-11-16",
            "2023-11-16 24:00:00",
            "2023-11-16 18:15",
            "2023-11-16 18:15:46+1",
            "2300-01-01 00:00:00",
        ] {
            assert_eq!(parse(text, Unit::S), None, "{text:?}");
        }
    }
}
