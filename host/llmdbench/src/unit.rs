//! Durations with units, as they are written in files and on the command line.

use std::time::Duration;

/// Reads "500ms", "20s", "1m30s", "2h". A bare number is refused: it has no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!("`{text}` has no unit: write `{text}s`, `{text}ms` or `{text}m`"));
    }
    decimal(text).or_else(|| humantime::parse_duration(text.trim()).ok()).ok_or_else(|| {
        format!("`{text}` is not a duration: write for example `500ms`, `20s` or `1m30s`")
    })
}

/// "1.5s": humantime takes whole numbers only.
fn decimal(text: &str) -> Option<Duration> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..end].trim().parse().ok()?;
    let seconds = match &text[end..] {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// A duration as people read it.
pub(crate) fn show(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 1_000.0 {
        return format!("{}ms", (ms * 1e3).round() / 1e3);
    }
    let seconds = (ms / 100.0).round() / 10.0;
    if seconds < 120.0 {
        format!("{seconds}s")
    } else {
        humantime::format_duration(Duration::from_secs(seconds.round() as u64)).to_string()
    }
}

/// Nanoseconds of a duration.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_a_unit() {
        let check = |text: &str, ms: u64| {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        };
        check("500ms", 500);
        check("20s", 20_000);
        check("1.5s", 1_500);
        check("1m30s", 90_000);
        check("1m 30s", 90_000);
        check("2h", 7_200_000);
        assert!(duration("20").unwrap_err().contains("20s"));
        assert!(duration("soon").unwrap_err().contains("not a duration"));
        assert!(duration("-3s").is_err());
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(show(Duration::from_micros(1_500)), "1.5ms");
        assert_eq!(show(Duration::from_millis(20_000)), "20s");
        assert_eq!(show(Duration::from_secs(600)), "10m");
    }
}
