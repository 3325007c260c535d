//! zstd frames by hand: small ones that ask for much.

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest block.
const BLOCK: u32 = 128 << 10;

/// The head of a frame whose window has 2^`log` bytes and so many eighths more.
pub fn window(log: u8, eighths: u8) -> Vec<u8> {
    [&MAGIC[..], &[0, ((log - 10) << 3) | eighths]].concat()
}

/// The head of a frame that says how much it holds, and asks for a window of just that.
pub fn of_length(length: u32) -> Vec<u8> {
    [&MAGIC[..], &[0xa0], &length.to_le_bytes()].concat()
}

/// The last block of a frame, as it is.
pub fn last(data: &[u8]) -> Vec<u8> {
    let head = (u32::try_from(data.len()).unwrap() << 3) | 1;
    [&head.to_le_bytes()[..3], data].concat()
}

/// A block of one byte, again and again: four bytes that fill 128 KiB of a window.
pub fn filling(byte: u8) -> Vec<u8> {
    let head = (BLOCK << 3) | 2;
    [&head.to_le_bytes()[..3], &[byte]].concat()
}
