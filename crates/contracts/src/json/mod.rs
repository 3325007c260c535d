//! Plain JSON in one pass, for what is read most. Unusual text is not taken: its reader then asks serde,
//! which decides about it and says what is wrong.
//!
//! What is taken here serde takes, too, and it means the same. The tests and the fuzzer hold both to that.

mod members;
mod skip;
#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;

pub(crate) use self::words::special;
use self::words::{eight_digits, no_digits};
pub use self::{members::JsonMembers, skip::MAX_JSON_DEPTH};

/// A number with more digits may not fit into 64 bits.
const MAX_DIGITS: usize = 18;

/// Reads a text from front to end. A method returns `None` if what it takes does not come next or is not
/// plain; the scanner is of no use afterwards.
#[derive(Debug, Clone)]
pub struct JsonScanner<'a> {
    /// What has not been read yet of a text that is UTF-8.
    rest: &'a [u8],
    is_simple: bool,
}

/// One JSON value: valid, nested no deeper than [`MAX_JSON_DEPTH`], without lone surrogates. Only a
/// [`JsonScanner`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct ValidJson<'a> {
    /// UTF-8, from the first byte of the value to its last.
    text: &'a [u8],
}

/// Whether a text is one plain value, and white space around it.
pub fn is_plain(text: &[u8]) -> bool {
    let value = JsonScanner::new(text).and_then(|mut from| from.value().map(|_| from));
    value.is_some_and(|from| from.is_at_end())
}

impl<'a> JsonScanner<'a> {
    /// Begins at the front of a text, if that is UTF-8.
    #[inline]
    pub fn new(text: &'a [u8]) -> Option<Self> {
        let is_simple = is_simple(text);
        if !is_simple {
            std::str::from_utf8(text).ok()?;
        }
        Some(Self { rest: text, is_simple })
    }

    /// Takes the next byte behind white space.
    #[inline(always)]
    pub fn token(&mut self) -> Option<u8> {
        let (byte, behind) = skip::space(self.rest).split_first()?;
        self.rest = behind;
        Some(*byte)
    }

    /// Takes `byte`, which white space may precede.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> Option<()> {
        self.rest = skip::byte(self.rest, byte)?;
        Some(())
    }

    /// Takes `text` if it comes next.
    #[inline(always)]
    pub fn takes(&mut self, text: &[u8]) -> bool {
        let behind = self.rest.strip_prefix(text);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    /// Takes a string without escapes.
    pub fn string(&mut self) -> Option<&'a str> {
        let string = skip::byte(self.rest, b'"')?;
        let [b'"', behind @ ..] = special(string) else { return None };
        self.rest = behind;
        std::str::from_utf8(&string[..string.len() - behind.len() - 1]).ok()
    }

    /// Takes a number without a fraction and an exponent.
    #[inline]
    pub fn integer(&mut self) -> Option<i64> {
        let (is_negative, digits) = match skip::space(self.rest) {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let (mut number, mut rest) = (0_u64, digits);
        while let Some((word, behind)) = rest.split_first_chunk()
            && no_digits(*word) == 0
        {
            number = number.wrapping_mul(100_000_000).wrapping_add(eight_digits(*word));
            rest = behind;
        }
        while let [digit @ b'0'..=b'9', behind @ ..] = rest {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            rest = behind;
        }
        self.rest = rest;
        let count = digits.len() - rest.len();
        let is_plain = (1..=MAX_DIGITS).contains(&count) && (count == 1 || digits[0] != b'0');
        let number = i64::try_from(number).ok().filter(|_| is_plain)?;
        Some(if is_negative { -number } else { number })
    }

    /// Takes a value.
    #[inline]
    pub fn value(&mut self) -> Option<ValidJson<'a>> {
        let start = skip::space(self.rest);
        self.rest = skip::value(start, self.is_simple)?;
        Some(ValidJson { text: &start[..start.len() - self.rest.len()] })
    }

    /// Bytes that have not been read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing but white space is left.
    pub fn is_at_end(&self) -> bool {
        skip::space(self.rest).is_empty()
    }
}

impl<'a> ValidJson<'a> {
    /// The value as it stands in the text.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// What a string says, in UTF-8; `None` for another value.
    pub fn string(&self) -> Option<Cow<'a, [u8]>> {
        let [b'"', string @ .., b'"'] = self.text else { return None };
        if memchr::memchr(b'\\', string).is_none() {
            return Some(Cow::Borrowed(string));
        }
        let (mut text, mut rest) = (Vec::with_capacity(string.len()), string);
        while let [_, behind @ ..] = special(rest) {
            text.extend_from_slice(&rest[..rest.len() - behind.len() - 1]);
            let (character, behind) = skip::escape(behind)?;
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = behind;
        }
        text.extend_from_slice(rest);
        Some(Cow::Owned(text))
    }
}

/// Whether a text is ASCII without backslashes and control characters. The next quote ends a string then.
#[inline]
fn is_simple(text: &[u8]) -> bool {
    const CHUNK: usize = 64;
    let is_odd = |byte: &u8| (byte.cast_signed() < 0x20) | (*byte == b'\\');
    // Without a branch for each byte, so that the compiler looks at many at once.
    let is_any_odd = |chunk: &[u8; CHUNK]| chunk.iter().fold(false, |any, byte| any | is_odd(byte));
    match text.last_chunk() {
        Some(last) => !text.as_chunks().0.iter().chain([last]).any(is_any_odd),
        None => !text.iter().any(is_odd),
    }
}
