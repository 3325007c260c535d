//! Numbers with their units, times, and texts that are parts of something else: addresses, commands.

use std::fmt::Write;

use indicatif::HumanCount;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a name between two slashes keeps as it is.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What a value of a query keeps.
const VALUE: &AsciiSet = &NAME.remove(b'/').remove(b':');
/// Units of lengths of time, and the seconds of each.
const UNITS: [(char, i64); 5] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800)];

/// A whole number with its thousands apart: `1,234,567`.
pub(in crate::console) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// So many of them: `1 event`, `1,234 events`.
pub(in crate::console) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A number that is measured as a whole one, and nothing below 0.
pub(in crate::console) fn whole(number: f64) -> u64 {
    // Metrics are counts, far below what 64 bits hold; `as` cuts off anything else.
    number.max(0.0).round() as u64
}

/// Bytes: `1.2 GiB`.
pub(in crate::console) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// A length of time in its two largest units: `2 h 5 min`.
pub(in crate::console) fn length(secs: f64) -> String {
    let secs = secs.max(0.0);
    if secs < 10.0 {
        return if secs == 0.0 { "0 s".to_owned() } else { format!("{secs:.1} s") };
    }
    let whole = whole(secs);
    let (days, hours, minutes, secs) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, _) => format!("{minutes} min {secs} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{} d {hours} h", count(days)),
    }
}

/// Microseconds: `850 µs`, `1.2 ms`.
pub(in crate::console) fn micros(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{:.1} ms", us / 1000.0),
        us => format!("{:.1} s", us / 1_000_000.0),
    }
}

/// A point in time, in UTC; a script adds the local time.
pub(in crate::console) fn time(ms: i64) -> Markup {
    let Ok(moment) = Timestamp::from_millisecond(ms) else { return html! { (ms) " ms" } };
    let utc = moment.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
    html! { time datetime=(rfc3339(moment)) { (utc) " UTC" } }
}

/// A point in time in the form that the API takes.
pub(in crate::console) fn rfc3339(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A point in time as people write it, in a form that the API takes: `-15m` is so long before now, a date may
/// lack its time, and a time its zone, which then is UTC. Anything else is left for the API to judge.
pub(in crate::console) fn moment(text: &str, now: Timestamp) -> String {
    let text = text.trim();
    if let Some(ago) = text.strip_prefix('-').and_then(seconds) {
        let moment = now.checked_sub(SignedDuration::from_secs(ago)).unwrap_or(now);
        return rfc3339(moment);
    }
    let is_date = |text: &str| {
        text.len() == 10
            && text.bytes().enumerate().all(|(place, byte)| match place {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            })
    };
    let (date, rest) = text.split_at_checked(10).unwrap_or((text, ""));
    if !is_date(date) {
        return text.to_owned();
    }
    let time = rest.trim_start_matches(['T', 't', ' ']);
    let is_plain = time.bytes().all(|byte| byte.is_ascii_digit() || b":.".contains(&byte));
    match time.matches(':').count() {
        0 if time.is_empty() => format!("{date}T00:00:00Z"),
        1 if is_plain => format!("{date}T{time}:00Z"),
        2 if is_plain => format!("{date}T{time}Z"),
        _ => format!("{date}T{time}"),
    }
}

/// Seconds of `15m`.
fn seconds(text: &str) -> Option<i64> {
    let unit = text.chars().next_back()?;
    let (_, secs) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let digits = text.strip_suffix(unit)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<i64>().ok().filter(|_| is_number)?.checked_mul(secs)
}

/// A text as a name in a path.
pub(in crate::console) fn path_name(text: &str) -> String {
    utf8_percent_encode(text, NAME).to_string()
}

/// A text as a value in a query.
pub(in crate::console) fn query_value(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

/// An address with a query of those that have a value.
pub(in crate::console) fn address<'a>(
    path: &str,
    query: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> String {
    let mut address = path.to_owned();
    for (name, value) in query {
        if let Some(value) = value {
            let before = if address.contains('?') { '&' } else { '?' };
            _ = write!(address, "{before}{}={}", query_value(name), query_value(value));
        }
    }
    address
}

/// A word for a shell.
pub(in crate::console) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The beginning of a text, on one line and without what would hide or turn it around.
pub(in crate::console) fn preview(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).map(shown_char).collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}

/// A character as it is shown: control characters and those that change the direction of writing would make
/// a text look like another.
pub(in crate::console) fn shown_char(character: char) -> char {
    match character {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => '\u{fffd}',
        '\n' | '\r' | '\t' => ' ',
        character if character.is_control() => '\u{fffd}',
        character => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2000].map(|number| counted(number, "event")), ["1 event", "2,000 events"]);
        let sizes = [0, 999, 1000, 1536, 1 << 20, (5 << 30) + (1 << 29), u64::MAX];
        let expected = ["0 B", "999 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.5 GiB", "16384.0 PiB"];
        assert_eq!(sizes.map(bytes), expected);
        let lengths = [0.0, 0.25, 12.0, 200.0, 7500.0, 100_000.0];
        assert_eq!(lengths.map(length), ["0 s", "0.2 s", "12 s", "3 min 20 s", "2 h 5 min", "1 d 3 h"]);
        assert_eq!([850.0, 1200.0, 2_300_000.0].map(micros), ["850 µs", "1.2 ms", "2.3 s"]);
    }

    #[test]
    fn times_are_in_utc_and_say_so() {
        let expected = "<time datetime=\"2024-01-01T00:00:00.250Z\">2024-01-01 00:00:00.250 UTC</time>";
        assert_eq!(time(1_704_067_200_250).into_string(), expected);
        assert!(time(i64::MAX).into_string().ends_with(" ms"));
    }

    #[test]
    fn people_write_times_in_many_ways() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("-1h", "2026-01-01T23:00:00.000Z"),
            ("-2d", "2025-12-31T00:00:00.000Z"),
            ("2026-01-01", "2026-01-01T00:00:00Z"),
            ("2026-01-01 12:30", "2026-01-01T12:30:00Z"),
            ("2026-01-01T12:30:05.5", "2026-01-01T12:30:05.5Z"),
            ("2026-01-01T12:30:05+01:00", "2026-01-01T12:30:05+01:00"),
            ("2026-01-01T12:30:05Z", "2026-01-01T12:30:05Z"),
            ("1704067200000", "1704067200000"),
            ("yesterday", "yesterday"),
            ("-h", "-h"),
            ("-99999999999999999h", "-99999999999999999h"),
            ("", ""),
        ] {
            assert_eq!(moment(text, now), expected, "{text}");
        }
    }

    #[test]
    fn addresses_and_commands_hold_any_text() {
        let query = [("table", Some("a b&c")), ("key", None), ("header.x", Some("é'\"<"))];
        let expected = "/console/events?table=a%20b%26c&header.x=%C3%A9%27%22%3C";
        assert_eq!(address("/console/events", query), expected);
        assert_eq!(path_name("a/../b c"), "a%2F..%2Fb%20c");
        assert_eq!(shell_quoted("a'b; rm -r $HOME"), r"'a'\''b; rm -r $HOME'");
    }

    #[test]
    fn nothing_hides_in_a_preview() {
        assert_eq!(preview("a\nb\u{202e}c\u{7}", 10), "a b\u{fffd}c\u{fffd}");
        assert_eq!(preview("abcdef", 3), "abc…");
    }
}
