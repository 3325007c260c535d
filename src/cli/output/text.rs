//! Text for people: nothing that a terminal would obey, numbers with their units.

use std::borrow::Cow;

use indicatif::{HumanBytes, HumanCount};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The text with its control characters escaped: what a server or an event says must not move the cursor.
pub(in crate::cli) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = |letter: char| -> String {
        if is_obeyed(letter) { letter.escape_default().collect() } else { letter.to_string() }
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Whether a terminal would do something else than show it; what turns the direction of the text counts too.
fn is_obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text, cut to so many columns.
pub(super) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if text.width() <= columns {
        return Cow::Borrowed(text);
    }
    let mut left = columns.saturating_sub(1);
    let fits = |letter: &char| {
        let width = letter.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    let mut kept: String = text.chars().take_while(fits).collect();
    kept.push('…');
    Cow::Owned(kept)
}

/// A number with its thousands apart.
pub(in crate::cli) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A number of bytes.
pub(in crate::cli) fn bytes(number: u64) -> String {
    HumanBytes(number).to_string()
}

/// A rate per second, rounded.
pub(in crate::cli) fn rate(number: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (number as f64 / seconds).round() as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        assert_eq!(printable("größer 漢字 👍"), "größer 漢字 👍");
        assert_eq!(printable("a\u{1b}[2J\r\n\t\u{9b}"), r"a\u{1b}[2J\r\n\t\u{9b}");
        assert_eq!(printable("\u{202e}txt"), r"\u{202e}txt");
    }

    #[test]
    fn text_is_cut_by_columns() {
        for (text, columns, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcd…"),
            ("漢字漢字", 5, "漢字…"),
            ("漢字", 2, "…"),
            ("ab", 0, "…"),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} {columns}");
        }
    }
}
