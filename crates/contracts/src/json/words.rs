//! Scans eight bytes at a time, as one word.
//!
//! Some functions mark bytes by the highest bit of each. The lowest mark is right; bytes above it may be
//! marked for nothing, because sums carry and differences borrow.

const ONES: u64 = u64::MAX / 255;
const HIGHEST: u64 = ONES << 7;

/// Marks quotes in ASCII.
#[inline(always)]
pub(super) fn quotes(word: [u8; 8]) -> u64 {
    (u64::from_le_bytes(word) ^ each(b'"')).wrapping_sub(ONES) & HIGHEST
}

/// Marks quotes, backslashes and control characters.
#[inline(always)]
pub(super) fn specials(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    // A quote is 0x22. Turned into 0x20 it is found together with what is below that.
    let quotes_and_controls = (word ^ each(0x02)).wrapping_sub(each(0x21));
    let backslashes = (word ^ each(b'\\')).wrapping_sub(ONES);
    (quotes_and_controls | backslashes) & !word & HIGHEST
}

/// Marks what is no digit.
#[inline(always)]
pub(super) fn no_digits(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    (word.wrapping_add(each(0x80 - b'9' - 1)) | word.wrapping_sub(each(b'0'))) & HIGHEST
}

#[inline(always)]
const fn each(byte: u8) -> u64 {
    ONES * byte as u64
}

/// The number that eight digits are: first all pairs, then pairs of pairs, then both halves.
#[inline(always)]
pub(super) fn eight_digits(digits: [u8; 8]) -> u64 {
    let ones = u64::from_le_bytes(digits) - each(b'0');
    let twos = (ones * 10 + (ones >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (twos * 100 + (twos >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF
}

/// Skips digits.
#[inline(always)]
pub(super) fn many_digits(mut rest: &[u8]) -> &[u8] {
    while let Some((word, behind)) = rest.split_first_chunk() {
        let found = no_digits(*word);
        if found != 0 {
            return &rest[found.trailing_zeros() as usize / 8..];
        }
        rest = behind;
    }
    while let [b'0'..=b'9', behind @ ..] = rest {
        rest = behind;
    }
    rest
}

/// Skips to the first quote, backslash or control character, or to the end.
#[inline(always)]
pub(crate) fn special(mut rest: &[u8]) -> &[u8] {
    for _ in 0..4 {
        let Some((word, behind)) = rest.split_first_chunk() else { break };
        let found = specials(*word);
        if found != 0 {
            return &rest[found.trailing_zeros() as usize / 8..];
        }
        rest = behind;
    }
    far_special(rest)
}

#[inline(never)]
fn far_special(mut rest: &[u8]) -> &[u8] {
    let is_special = |byte: &u8| (*byte ^ 0x02 < 0x21) | (*byte == b'\\');
    // Without a branch for each byte, so that the compiler looks at many at once.
    while let Some((chunk, behind)) = rest.split_first_chunk::<32>()
        && !chunk.iter().fold(false, |any, byte| any | is_special(byte))
    {
        rest = behind;
    }
    while let Some((word, behind)) = rest.split_first_chunk() {
        let found = specials(*word);
        if found != 0 {
            return &rest[found.trailing_zeros() as usize / 8..];
        }
        rest = behind;
    }
    while let [first, behind @ ..] = rest
        && !is_special(first)
    {
        rest = behind;
    }
    rest
}
