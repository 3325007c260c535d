//! Points in time and lengths of time as clients write them.

use std::time::Duration;

use jiff::{
    SignedDuration, SpanTotal, Unit,
    civil::DateTime,
    fmt::temporal::{Pieces, PiecesOffset},
};

use super::{code::Code, error::Problem};
use contracts::clock::TimestampMs;

/// 1970-01-01T00:00:00.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// The form of date and time in RFC 3339, before fraction and offset.
const FORM: &[u8] = b"0000-00-00T00:00:00";
/// The length of its date.
const DATE_BYTES: usize = 10;
const WRONG_FORM: &str = "RFC 3339 is written like 2018-04-05T17:31:00Z";
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
    // RFC 3339 lets a space stand for the T.
    let has_space = text.as_bytes().get(DATE_BYTES) == Some(&b' ');
    let read = if has_space { exact(&text.replacen(' ', "T", 1)) } else { exact(text) };
    let exact = read.map_err(|why| {
        let plus = lost_plus(text);
        Problem::new(
            Code::BadQuery,
            format!("{name}={text:?} is neither milliseconds nor RFC 3339: {why}{plus}"),
        )
    })?;
    let is_between = exact.has_more || exact.nanos.rem_euclid(NANOS_PER_MS) > 0;
    let ms = exact.nanos.div_euclid(NANOS_PER_MS) + i128::from(is_between);
    TimestampMs::try_from(ms)
        .map_err(|error| Problem::new(Code::BadQuery, format!("{name}={text:?}: {error}")))
}

/// What an error adds where a `+` in a query seems to have become a space.
pub(super) fn lost_plus(text: &str) -> &'static str {
    if text.contains(' ') { "; a + in a query is a space: write it as %2B" } else { "" }
}

/// When an event happened: milliseconds since 1970, or RFC 3339. More milliseconds than there can be are the
/// last ones or the first: they are a number, and out of range.
///
/// # Errors
/// Why it is neither.
pub(super) fn moment(text: &str) -> Result<TimestampMs, String> {
    let (digits, most) = match text.strip_prefix('-') {
        Some(digits) => (digits, TimestampMs::MIN),
        None => (text, TimestampMs::MAX),
    };
    match text.parse() {
        Ok(ms) => Ok(ms),
        Err(_) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(most),
        Err(_) => rfc3339(text),
    }
}

/// A point in time exactly as RFC 3339 writes it, in milliseconds: what is finer is cut off.
///
/// # Errors
/// Why it is none.
pub(super) fn rfc3339(text: &str) -> Result<TimestampMs, String> {
    TimestampMs::try_from(exact(text)?.nanos.div_euclid(NANOS_PER_MS)).map_err(|error| error.to_string())
}

/// A point in time as RFC 3339 says it: to the nanosecond, and whether it says more than that.
struct ExactTime {
    /// Since 1970.
    nanos: i128,
    /// Whether there is a part of a nanosecond beside them.
    has_more: bool,
}

/// Reads a point in time exactly as RFC 3339 writes it.
///
/// # Errors
/// Why it is none.
fn exact(text: &str) -> Result<ExactTime, String> {
    let (digits, rest) = text.as_bytes().split_at_checked(FORM.len()).ok_or(WRONG_FORM)?;
    let fits = |(form, byte): (&u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        form => form.eq_ignore_ascii_case(byte),
    };
    let (fraction, offset) = match rest {
        [b'.', behind @ ..] => {
            behind.split_at(behind.iter().take_while(|byte| byte.is_ascii_digit()).count())
        }
        _ => (b"0".as_slice(), rest),
    };
    let is_offset = match offset {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h, hh, b':', m, mm] => {
            [h, hh, m, mm].iter().all(|digit| digit.is_ascii_digit())
                && (*h, *hh) <= (b'2', b'3')
                && *m <= b'5'
        }
        _ => false,
    };
    if !FORM.iter().zip(digits).all(fits) || fraction.is_empty() || !is_offset {
        return Err(WRONG_FORM.to_owned());
    }
    // Nanoseconds are the first nine digits, and there may be more than anybody reads.
    let (read, more) = fraction.split_at(fraction.len().min(9));
    let nanos = nanos(&String::from_utf8_lossy(&[digits, b".", read, offset].concat()))?;
    if digits.ends_with(b":60") && !is_leap_second(nanos) {
        return Err(
            "second 60 is a leap second: there is one at most at the end of a month, in UTC".to_owned()
        );
    }
    Ok(ExactTime { nanos, has_more: more.iter().any(|digit| *digit != b'0') })
}

/// Whether there may be a second 60 behind the one that a time is in (RFC 3339, 5.7): which of those there
/// were is known to nobody beforehand.
fn is_leap_second(nanos: i128) -> bool {
    let seconds = i64::try_from(nanos.div_euclid(NANOS_PER_SEC)).ok();
    let next = seconds.and_then(|second| EPOCH.checked_add(SignedDuration::from_secs(second + 1)).ok());
    next.is_some_and(|next| (next.day(), next.hour(), next.minute(), next.second()) == (1, 0, 0, 0))
}

/// A time as RFC 3339 writes it; `None` if no calendar of four digits has it.
pub(super) fn shown(ms: TimestampMs) -> Option<String> {
    let time = EPOCH.checked_add(SignedDuration::from_millis(ms)).ok().filter(|time| time.year() >= 0)?;
    Some(format!("{time}Z"))
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

/// Whether this is a whole number, with a unit of ours or none.
fn is_whole(text: &str) -> bool {
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    unit.len() < text.len() && matches!(unit, "" | "ms" | "s" | "m" | "h")
}

/// A length of time: `30`, `30s`, `0.5s`, `500ms`, `1m`, `1m 30s`; seconds if there is no unit.
///
/// # Errors
/// 400 naming the parameter, with an example. A number that no clock can reach is no mistake: it stands for
/// the longest time there is.
pub(super) fn length(name: &str, text: &str) -> Result<Duration, Problem> {
    let wrong = || {
        Problem::new(
            Code::BadQuery,
            format!("{name}={text:?} is not a duration: write 30, 30s, 0.5s, 500ms or 1m"),
        )
    };
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let spelled = if has_unit { text.to_owned() } else { format!("{text}s") };
    let span: jiff::Span = match spelled.parse() {
        Err(_) if is_whole(text) => return Ok(Duration::MAX),
        parsed => parsed.map_err(|_| wrong())?,
    };
    let has_date =
        span.get_years() != 0 || span.get_months() != 0 || span.get_weeks() != 0 || span.get_days() != 0;
    let nanos = if has_date { None } else { span.total(Unit::Nanosecond).ok() };
    nanos.filter(|nanos| *nanos >= 0.0).map(|nanos| Duration::from_nanos(nanos as u64)).ok_or_else(wrong)
}

/// A length of time before now, `-1h`, `-90m`, `-7d`: how long. A day has 24 hours.
///
/// # Errors
/// 400 naming the parameter, with an example.
pub(super) fn ago(name: &str, text: &str) -> Result<Duration, Problem> {
    let span = text.strip_prefix('-').and_then(|length| length.parse::<jiff::Span>().ok());
    let nanos = span.and_then(|span| span.total(SpanTotal::from(Unit::Nanosecond).days_are_24_hours()).ok());
    let nanos = nanos.filter(|nanos| *nanos >= 0.0);
    nanos.map(|nanos| Duration::from_nanos(nanos as u64)).ok_or_else(|| {
        let detail = format!("{name}={text:?} is not a time before now: write -1h, -90m or -7d");
        Problem::new(Code::BadQuery, detail)
    })
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
            ("1970-01-01 00:00:01Z", 1000),
            ("1970-01-01T00:00:01.0000000001Z", 1001),
            ("1970-01-01T00:00:01.0000000000Z", 1000),
            ("1970-01-01T00:00:00.9990000000000000000001Z", 1000),
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
            "2024-01-01T00:00Z",
            "2024-01-01T00:00:00,5Z",
            "2024-01-01T00:00:00Z[UTC]",
            "20240101T000000Z",
            "99999999999999999999",
        ] {
            assert!(bound("since", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_shown_as_it_is_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_522_949_460_123, "2018-04-05T17:31:00.123Z"),
            (-62_135_596_800_000, "0001-01-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(shown(ms).as_deref(), Some(text));
            assert_eq!(moment(text), Ok(ms), "{text}");
        }
        for text in ["2016-12-31T23:59:60Z", "2017-01-01T00:59:60+01:00", "2015-06-30T23:59:60.5Z"] {
            assert!(moment(text).is_ok(), "{text}");
        }
        assert_eq!(shown(TimestampMs::MAX), None);
    }

    #[test]
    fn a_moment_is_cut_to_milliseconds_and_written_as_rfc_3339_demands() {
        for (text, ms) in [
            ("1000", 1000),
            ("-1", -1),
            ("99999999999999999999", TimestampMs::MAX),
            ("-99999999999999999999", TimestampMs::MIN),
            ("2018-04-05T17:31:00Z", 1_522_949_460_000),
            ("2018-04-05T17:31:00.000000000Z", 1_522_949_460_000),
            ("2018-04-05t18:31:00.1239999999999999+01:00", 1_522_949_460_123),
            ("2018-04-05T16:31:00-01:00", 1_522_949_460_000),
            ("1969-12-31T23:59:59.9995z", -1),
        ] {
            assert_eq!(moment(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "lunchtime",
            "1e3",
            "2018-04-05T18:31Z",
            "2018-04-05T18:31:00X",
            "2018-04-05T18:31:00",
            "2018-04-05T18:31:00.Z",
            "2018-04-05T18:31:00+25:00",
            "2018-04-05T18:31:00+01:60",
            "2018-04-05T18:31:00+xx:00",
            "2018-04-05T18:31:00+05",
            "2018-04-05T18:31:00+0500",
            "2018-04-05 18:31:00Z",
            "2018-13-05T18:31:00Z",
            "2018-02-30T18:31:00Z",
            "2018-04-05T24:31:00Z",
            "2016-06-15T12:30:60Z",
            "2016-12-31T23:59:60+01:00",
            "20180405T183100Z",
            "2018-04-05T18:31:00Z[UTC]",
            "\u{661}018-04-05T18:31:00Z",
        ] {
            assert!(moment(text).is_err(), "{text}");
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
        for text in ["9999999999999", "9999999999999999999", "18446744073709551616s", "99999999999h"] {
            assert!(length("wait", text).unwrap() > Duration::from_secs(1 << 33), "{text}");
        }
        for text in ["", "-1", "-1s", "soon", "1y", "s", "1 x", "1e3", "-99999999999999999999"] {
            assert!(length("wait", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_before_now_has_a_sign_and_a_unit() {
        for (text, secs) in [
            ("-1h", 3600),
            ("-90m", 5400),
            ("-30s", 30),
            ("-1h 30m", 5400),
            ("-7d", 7 * 86_400),
            ("-2w", 14 * 86_400),
            ("-1d 12h", 129_600),
            ("-0s", 0),
        ] {
            assert_eq!(ago("by", text).unwrap(), Duration::from_secs(secs), "{text}");
        }
        for text in ["", "-", "1h", "--1h", "-1", "-1y", "-1mo", "-soon", "+1h", "1h ago"] {
            assert!(ago("by", text).is_err(), "{text}");
        }
    }
}
