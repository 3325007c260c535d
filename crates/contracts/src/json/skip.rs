//! The grammar. Every function takes the remaining text and returns what follows the element that it is named
//! after, or `None` if the text does not begin with one.
//!
//! *Near* functions are for short elements in their usual form. They may give up; another function then takes
//! over.

use super::words::{many_digits, no_digits, quotes, special, specials};

/// How deep containers may nest in a JSON payload.
pub const MAX_JSON_DEPTH: usize = 128;

// Deeper nesting than the bits of a `u64` can tell is not plain.
const _: () = assert!(MAX_JSON_DEPTH >= 62);

/// How many words a near string has at most.
const NEAR_WORDS: usize = 4;

/// White space, if there is any.
#[inline(always)]
pub(super) fn space(mut rest: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\t' | b'\r', behind @ ..] = rest {
        rest = behind;
    }
    rest
}

/// A certain byte and white space before it.
#[inline(always)]
pub(super) fn byte(rest: &[u8], byte: u8) -> Option<&[u8]> {
    match rest {
        [first, behind @ ..] if *first == byte => Some(behind),
        _ => space(rest).strip_prefix(&[byte]),
    }
}

/// A value, and white space before it. A simple text is ASCII without backslashes and control characters.
pub(super) fn value(mut rest: &[u8], is_simple: bool) -> Option<&[u8]> {
    // A bit for each open container, the innermost in the lowest: whether it is an object. Above them are a
    // zero, for what is outside, and a one.
    let mut open = 0b10_u64;
    loop {
        let (first, behind) = rest.split_first()?;
        rest = match first {
            b'"' => string(behind)?,
            b'{' => match space(behind) {
                [b'}', behind @ ..] => behind,
                behind => {
                    open = opened(open, true)?;
                    let (behind, has_value) = members(byte(behind, b'"')?, is_simple)?;
                    rest = behind;
                    if !has_value {
                        continue;
                    }
                    rest
                }
            },
            b'[' => match space(behind) {
                [b']', behind @ ..] => behind,
                behind => {
                    open = opened(open, false)?;
                    rest = behind;
                    continue;
                }
            },
            b' ' | b'\n' | b'\t' | b'\r' => {
                rest = behind;
                continue;
            }
            _ => scalar(rest)?,
        };
        // Behind a value: containers end, until there is a comma and another value.
        loop {
            if open == 0b10 {
                return Some(rest);
            }
            let is_object = open & 1 == 1;
            match space(rest) {
                [b',', behind @ ..] if is_object => {
                    let (behind, has_value) = members(byte(behind, b'"')?, is_simple)?;
                    rest = behind;
                    if !has_value {
                        break;
                    }
                }
                [b',', behind @ ..] => {
                    rest = behind;
                    break;
                }
                [b'}', behind @ ..] if is_object => (rest, open) = (behind, open >> 1),
                [b']', behind @ ..] if !is_object => (rest, open) = (behind, open >> 1),
                _ => return None,
            }
        }
    }
}

/// What is open once a container more is; `None` if that is too deep.
#[inline(always)]
fn opened(open: u64, is_object: bool) -> Option<u64> {
    if open >> 63 == 1 { None } else { Some(open << 1 | u64::from(is_object)) }
}

/// The rest of a key and its colon, and near members from there on. Says whether it ends behind a value, or
/// before one.
#[inline(never)]
fn members(rest: &[u8], is_simple: bool) -> Option<(&[u8], bool)> {
    let near = if is_simple { near_members::<true>(rest) } else { near_members::<false>(rest) };
    match near {
        (behind, true) => Some((behind, true)),
        (key, false) => Some((byte(string(key)?, b':')?, false)),
    }
}

/// Near members, the first without the quote that begins its key. Says whether it ends behind a value, or
/// behind such a quote.
#[inline(never)]
fn near_members<const SIMPLE: bool>(mut rest: &[u8]) -> (&[u8], bool) {
    while let Some(behind) = near_member::<SIMPLE>(rest) {
        rest = match behind {
            [b',', b'"', key @ ..] => key,
            [b',', key @ ..] if let Some(key) = byte(key, b'"') => key,
            _ => return (behind, true),
        };
    }
    (rest, false)
}

/// `KEY":VALUE`.
#[inline(always)]
fn near_member<const SIMPLE: bool>(rest: &[u8]) -> Option<&[u8]> {
    let rest = match near_special::<SIMPLE>(rest)? {
        [quote, b':', value @ ..] if SIMPLE || *quote == b'"' => value,
        _ => return None,
    };
    match rest {
        [b'"', string @ ..] => near_string::<SIMPLE>(string),
        [b'1'..=b'9', behind @ ..] => near_number(behind),
        [b' ', b'"', string @ ..] => near_string::<SIMPLE>(string),
        [b' ', b'1'..=b'9', behind @ ..] => near_number(behind),
        _ => scalar(space(rest)),
    }
}

/// The rest of a string.
#[inline(always)]
fn near_string<const SIMPLE: bool>(rest: &[u8]) -> Option<&[u8]> {
    match near_special::<SIMPLE>(rest)? {
        [quote, behind @ ..] if SIMPLE || *quote == b'"' => Some(behind),
        _ => None,
    }
}

/// What stands before a quote and, if the text is not simple, before a backslash or a control character.
#[inline(always)]
fn near_special<const SIMPLE: bool>(mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..NEAR_WORDS {
        let (word, behind) = rest.split_first_chunk()?;
        let found = if SIMPLE { quotes(*word) } else { specials(*word) };
        if found != 0 {
            return Some(&rest[found.trailing_zeros() as usize / 8..]);
        }
        rest = behind;
    }
    None
}

/// The rest of a number whose first digit is not 0.
#[inline(always)]
fn near_number(rest: &[u8]) -> Option<&[u8]> {
    let found = no_digits(*rest.first_chunk()?);
    if found == 0 {
        return None;
    }
    match &rest[found.trailing_zeros() as usize / 8..] {
        behind @ [b',', ..] => Some(behind),
        behind => fraction(behind),
    }
}

/// The rest of a string.
#[inline(always)]
fn string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        match special(rest) {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', behind @ ..] => rest = escape(behind)?.1,
            _ => return None,
        }
    }
}

/// The rest of an escape, and the character that it stands for.
pub(super) fn escape(rest: &[u8]) -> Option<(char, &[u8])> {
    let (letter, behind) = rest.split_first()?;
    let character = match letter {
        b'"' | b'\\' | b'/' => char::from(*letter),
        b'b' => '\u{8}',
        b'f' => '\u{C}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_escape(behind),
        _ => return None,
    };
    Some((character, behind))
}

/// The digits of an escape, and another escape if the character takes two.
fn unicode_escape(rest: &[u8]) -> Option<(char, &[u8])> {
    let (high, behind) = utf16_unit(rest)?;
    if !(0xD800..0xDC00).contains(&high) {
        return Some((char::from_u32(high)?, behind));
    }
    let (low, behind) = utf16_unit(behind.strip_prefix(b"\\u")?)?;
    let low = low.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + low)?, behind))
}

fn utf16_unit(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, behind) = rest.split_at_checked(4)?;
    let unit = digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))?;
    Some((unit, behind))
}

/// A literal or a number. What cannot follow one, as a digit cannot follow a first 0, is for the caller to
/// refuse: it is neither a comma nor an end.
#[inline(never)]
fn scalar(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [b't', b'r', b'u', b'e', behind @ ..]
        | [b'f', b'a', b'l', b's', b'e', behind @ ..]
        | [b'n', b'u', b'l', b'l', behind @ ..] => Some(behind),
        [b'-', number @ ..] | number => match number {
            [b'0', behind @ ..] => fraction(behind),
            _ => fraction(digits(number)?),
        },
    }
}

/// What may follow the whole part of a number.
fn fraction(mut rest: &[u8]) -> Option<&[u8]> {
    if let [b'.', behind @ ..] = rest {
        rest = digits(behind)?;
    }
    if let [b'e' | b'E', b'+' | b'-', behind @ ..] | [b'e' | b'E', behind @ ..] = rest {
        rest = digits(behind)?;
    }
    Some(rest)
}

/// Digits, at least one.
fn digits(rest: &[u8]) -> Option<&[u8]> {
    let behind = many_digits(rest);
    if behind.len() < rest.len() { Some(behind) } else { None }
}
