//! Lengths of time, and points in time, as people type them.

use std::time::Duration;

use jiff::{Timestamp, fmt::temporal::Pieces};

use contracts::clock::TimestampMs;

/// Units and their seconds.
const UNITS: [(&str, f64); 6] =
    [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];

/// A length of time: `500ms`, `30s`, `1h30m`, `2d`; seconds if there is no unit.
///
/// # Errors
/// A sentence with examples.
pub(super) fn parse_length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a length of time: write 500ms, 30s, 1h30m or 2d");
    let all = text.trim();
    let (mut left, mut seconds) = (all, 0.0);
    while !left.is_empty() {
        let is_digit = |letter: char| letter.is_ascii_digit() || letter == '.';
        let (digits, rest) = split_where(left, |letter| !is_digit(letter));
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let (unit, rest) = split_where(rest, |letter| !letter.is_ascii_alphabetic());
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        // A bare number is seconds only if it stands alone.
        let factor = factor.or((digits == all).then_some(1.0)).ok_or_else(wrong)?;
        seconds += number * factor;
        left = rest.trim_start();
    }
    if all.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A length of time for people, in its largest unit that divides it.
pub(super) fn shown_length(length: Duration) -> String {
    let secs = length.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let unit = units.into_iter().find(|(_, unit)| secs >= *unit && secs.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{secs}s"), |(name, unit)| format!("{}{name}", secs / unit))
}

fn split_where(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

/// A point in time, as `--since` and `--until` have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimeBound {
    /// So long before now.
    Ago(Duration),
    /// As the server takes it: milliseconds since 1970, or RFC 3339.
    At(String),
}

impl TimeBound {
    /// Reads `1h`, milliseconds, or RFC 3339.
    ///
    /// # Errors
    /// A sentence with examples.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::At(text.to_owned()));
        }
        if let Ok(length) = parse_length(unsigned) {
            return Ok(Self::Ago(length));
        }
        match Pieces::parse(text) {
            Ok(pieces) if pieces.time().is_some() && pieces.offset().is_some() => {
                Ok(Self::At(text.to_owned()))
            }
            _ => Err(format!(
                "{text:?} is not a time: write how long ago it was (1h), RFC 3339 (2026-11-26T12:00:00Z), or \
                 milliseconds since 1970"
            )),
        }
    }

    /// The value of the parameter.
    pub(super) fn parameter(&self, now_ms: TimestampMs) -> String {
        match self {
            Self::Ago(length) => {
                let ago_ms = TimestampMs::try_from(length.as_millis()).unwrap_or(TimestampMs::MAX);
                now_ms.saturating_sub(ago_ms).to_string()
            }
            Self::At(text) => text.clone(),
        }
    }
}

/// A timestamp for people: RFC 3339 in UTC, to the millisecond. The last day of the year 9999, for which jiff
/// has no timestamp, stays a number.
pub(super) fn shown(timestamp_ms: TimestampMs) -> String {
    Timestamp::from_millisecond(timestamp_ms)
        .map_or_else(|_| timestamp_ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_units_or_are_seconds() {
        for (text, ms) in [
            ("30", 30_000),
            ("0.5", 500),
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
            (" 1w ", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(parse_length(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", " ", "-1s", "soon", "1y", "s", "1h30", "30 1h", "1.2.3s", ".", "1e3", "1d1", "9e99w"]
        {
            assert!(parse_length(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_are_shown_as_they_are_typed() {
        for text in ["0s", "59s", "90s", "2m", "36h", "7d"] {
            assert_eq!(shown_length(parse_length(text).unwrap()), text);
        }
    }

    #[test]
    fn a_bound_is_so_long_ago_or_as_the_server_takes_it() {
        let parameter = |text: &str| TimeBound::parse(text).map(|bound| bound.parameter(10_000_000));
        for (text, expected) in [
            ("1h", "6400000"),
            ("-1h", "6400000"),
            ("500ms", "9999500"),
            ("1700000000000", "1700000000000"),
            ("-5", "-5"),
            ("2026-11-26T12:00:00Z", "2026-11-26T12:00:00Z"),
            ("2026-11-26T12:00:00.5+02:00", "2026-11-26T12:00:00.5+02:00"),
        ] {
            assert_eq!(parameter(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "-", "yesterday", "2026-11-26", "2026-11-26T12:00:00", "12:00Z", "1 o'clock"] {
            assert!(TimeBound::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_are_shown_in_utc() {
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(1_357_035_300_007), "2013-01-01T10:15:00.007Z");
        assert_eq!(shown(-62_135_596_800_000), "0001-01-01T00:00:00.000Z");
        assert_eq!(shown(253_402_300_799_999), "253402300799999");
    }
}
