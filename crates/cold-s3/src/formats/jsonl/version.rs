//! The versions of the format, by name.

use super::line;
use contracts::segment::FormatId;

/// A frame ends with the line that brings it to this many bytes.
pub const FRAME_BYTES: usize = 256 << 10;

/// One of these formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jsonl {
    pub(super) id: FormatId,
    pub(super) version: Version,
    pub(super) framing: Framing,
}

/// How the lines of a frame are stored, and with that where the index is since version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each frame is one of zstd; the index is inside the segment, after them.
    Zstd,
    /// As they are; the index is an object beside the segment.
    Plain,
}

/// Decides where the index is, what it holds, and which fields lines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
    Three,
}

const fn jsonl(name: &str, version: Version, framing: Framing) -> Jsonl {
    match FormatId::new(name) {
        Some(id) => Jsonl { id, version, framing },
        None => panic!("a format's name is short and printable"),
    }
}

/// All versions; [`newest`] relies on the order.
pub static ALL: [Jsonl; 6] = [
    jsonl("jsonl.zst/3", Version::Three, Framing::Zstd),
    jsonl("jsonl/3", Version::Three, Framing::Plain),
    jsonl("jsonl.zst/2", Version::Two, Framing::Zstd),
    jsonl("jsonl/2", Version::Two, Framing::Plain),
    jsonl("jsonl.zst/1", Version::One, Framing::Zstd),
    jsonl("jsonl/1", Version::One, Framing::Plain),
];

/// The format of new segments.
pub fn newest(framing: Framing) -> FormatId {
    match framing {
        Framing::Zstd => ALL[0].id,
        Framing::Plain => ALL[1].id,
    }
}

impl Jsonl {
    /// Which fields its lines have.
    pub(super) fn lines(&self) -> line::Kind {
        if self.version == Version::One { line::Kind::Bare } else { line::Kind::WithPartition }
    }
}
