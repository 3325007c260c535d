//! Points in time and lengths of time as clients write them.

use std::time::Duration;

use jiff::{
    Unit,
    civil::DateTime,
    fmt::temporal::{Pieces, PiecesOffset},
};

use super::{code::Code, error::Problem};
use contracts::clock::TimestampMs;

/// 1970-01-01T00:00:00.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
const NANOS_PER_MS: i128 = 1_000_000;
const NANOS_PER_SEC: i128 = 1_000_000_000;

/// A bound such as `since` or `until`: milliseconds since 1970, or RFC 3339. Events have whole milliseconds,
/// so the first event that is not before a bound between two milliseconds is at the later one: parts of a
/// millisecond are rounded up.
///
/// # Errors
/// 400 naming the parameter.
pub(super) fn bound(name: &str, text: &str) -> Result<TimestampMs, Problem> {
    if let Ok(ms) = text.parse::<TimestampMs>() {
        return Ok(ms);
    }
    let nanos = nanos(text).map_err(|why| {
        let plus = if text.contains(' ') { "; a + in a query is a space: write it as %2B" } else { "" };
        Problem::new(
            Code::BadQuery,
            format!("{name}={text:?} is neither milliseconds nor RFC 3339: {why}{plus}"),
        )
    })?;
    let ms = nanos.div_euclid(NANOS_PER_MS) + i128::from(nanos.rem_euclid(NANOS_PER_MS) > 0);
    TimestampMs::try_from(ms)
        .map_err(|error| Problem::new(Code::BadQuery, format!("{name}={text:?}: {error}")))
}

/// Nanoseconds since 1970. It does not use jiff's own timestamps, because they end a day before the year 9999
/// does.
fn nanos(text: &str) -> Result<i128, String> {
    let pieces = Pieces::parse(text).map_err(|error| error.to_string())?;
    let time = pieces.time().ok_or("there is no time of day")?;
    let offset_secs = match pieces.offset() {
        Some(PiecesOffset::Zulu) => 0,
        Some(PiecesOffset::Numeric(offset)) => offset.offset().seconds(),
        _ => return Err("there is no offset such as Z or +02:00".to_owned()),
    };
    let local = pieces.date().to_datetime(time).duration_since(EPOCH).as_nanos();
    Ok(local - i128::from(offset_secs) * NANOS_PER_SEC)
}

/// A length of time: `30`, `30s`, `0.5s`, `500ms`, `1m`, `1m 30s`; seconds if there is no unit.
///
/// # Errors
/// 400 naming the parameter, with an example.
pub(super) fn length(name: &str, text: &str) -> Result<Duration, Problem> {
    let wrong = || {
        Problem::new(
            Code::BadQuery,
            format!("{name}={text:?} is not a duration: write 30, 30s, 0.5s, 500ms or 1m"),
        )
    };
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let spelled = if has_unit { text.to_owned() } else { format!("{text}s") };
    let span: jiff::Span = spelled.parse().map_err(|_| wrong())?;
    let has_date =
        span.get_years() != 0 || span.get_months() != 0 || span.get_weeks() != 0 || span.get_days() != 0;
    let nanos = if has_date { None } else { span.total(Unit::Nanosecond).ok() };
    nanos.filter(|nanos| *nanos >= 0.0).map(|nanos| Duration::from_nanos(nanos as u64)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_exact() {
        for (text, ms) in [
            ("1000", 1000),
            ("-5", -5),
            ("1970-01-01T00:00:01Z", 1000),
            ("1970-01-01t00:00:01z", 1000),
            ("1970-01-01T02:00:01+02:00", 1000),
            ("1970-01-01T00:00:01.000500Z", 1001),
            ("1970-01-01T00:00:01.000000001Z", 1001),
            ("1969-12-31T23:59:59.9995Z", 0),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
            ("9999-12-31T23:59:59.999999999Z", 253_402_300_800_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(bound("since", text).unwrap(), ms, "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-13-01T00:00:00Z",
            "12:00Z",
            "99999999999999999999",
        ] {
            assert!(bound("since", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_plus_that_became_a_space_is_named() {
        let problem = format!("{:?}", bound("since", "2024-01-01T00:00:00 02:00").unwrap_err());
        assert!(problem.contains("%2B"), "{problem}");
    }

    #[test]
    fn lengths_have_units_or_are_seconds() {
        for (text, ms) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("0.5s", 500),
            ("0.5", 500),
            ("500ms", 500),
            ("1m", 60_000),
            ("1m 30s", 90_000),
            ("0", 0),
        ] {
            assert_eq!(length("wait", text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "-1", "-1s", "soon", "1y", "s", "1 x", "1e3"] {
            assert!(length("wait", text).is_err(), "{text}");
        }
    }
}
