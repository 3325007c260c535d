//! Snappy frames in a row, in snappy's framing format. Some clients, such as Prometheus, call a bare block
//! `snappy` too. That is refused: it cannot be decoded before all of it has come.

use std::io::{self, BufRead, ErrorKind, Read};

use snap::raw::{Decoder, decompress_len};

use super::input::Input;

/// What a frame holds at most when it is decoded.
const DECODED_BYTES: usize = 64 << 10;
/// A frame of so much that was not compressed, with its checksum and some room, as the format demands.
const CODED_BYTES: usize = 4 + 32 + DECODED_BYTES + DECODED_BYTES / 6;
/// The frame that a body begins with.
const IDENTIFIER: &[u8] = b"sNaPpY";

/// Decodes a body of snappy frames.
#[derive(Default)]
pub struct SnappyFrames {
    input: Input,
    place: SnappyPosition,
    /// What has come of the header or the frame that it is in.
    coded: Vec<u8>,
    /// Decoded bytes that were not asked for yet, and how many of them were given.
    decoded: Vec<u8>,
    given: usize,
    /// Whether the body has begun as it must.
    has_begun: bool,
}

/// Where in the body it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SnappyPosition {
    /// At a frame's header: a byte for its kind and three for its length.
    #[default]
    Header,
    Frame {
        kind: u8,
        length: usize,
    },
    /// In a frame that says nothing, so many bytes before its end.
    Skipped(usize),
}

impl SnappyFrames {
    pub(super) fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.coded.capacity() + self.decoded.capacity()
    }

    /// Collects until there are `length` bytes of the header or frame; `false` at the end of the body.
    fn collect(&mut self, length: usize) -> io::Result<bool> {
        while self.coded.len() < length {
            let more = self.input.fill_buf()?;
            if more.is_empty() {
                return Ok(false);
            }
            let count = more.len().min(length - self.coded.len());
            self.coded.extend_from_slice(&more[..count]);
            self.input.consume(count);
        }
        Ok(true)
    }

    /// Reads a header, and decides what to do with its frame; `false` at the end of the body.
    fn header(&mut self) -> io::Result<bool> {
        if !self.collect(4)? {
            let is_whole = self.coded.is_empty() && self.has_begun;
            return if is_whole { Ok(false) } else { Err(cut_off()) };
        }
        let kind = self.coded[0];
        let length = u32::from_le_bytes([self.coded[1], self.coded[2], self.coded[3], 0]) as usize;
        self.coded.clear();
        self.place = match kind {
            0xff if length == IDENTIFIER.len() => SnappyPosition::Frame { kind, length },
            _ if !self.has_begun => return Err(invalid("it is not in snappy's framing format")),
            0x00 | 0x01 if (4..=CODED_BYTES).contains(&length) => SnappyPosition::Frame { kind, length },
            0x80..=0xfe => SnappyPosition::Skipped(length),
            _ => return Err(invalid("a snappy frame must begin here, and none does")),
        };
        Ok(true)
    }

    fn frame(&mut self, kind: u8, length: usize) -> io::Result<()> {
        if !self.collect(length)? {
            return Err(cut_off());
        }
        self.place = SnappyPosition::Header;
        if kind == 0xff {
            self.has_begun = true;
            let is_right = self.coded == IDENTIFIER;
            self.coded.clear();
            return if is_right { Ok(()) } else { Err(invalid("the identifier is not snappy's")) };
        }
        let (checksum, data) = self.coded.split_at(4);
        self.given = 0;
        self.decoded.clear();
        if kind == 0x01 {
            self.decoded.extend_from_slice(data);
        } else {
            let length = decompress_len(data).map_err(invalid)?;
            self.decoded.resize(length.min(DECODED_BYTES), 0);
            Decoder::new().decompress(data, &mut self.decoded).map_err(invalid)?;
        }
        if self.decoded.len() > DECODED_BYTES {
            return Err(invalid("a frame holds more than 64 KiB"));
        }
        if checksum != masked(crc32c::crc32c(&self.decoded)).to_le_bytes() {
            return Err(invalid("the checksum of a frame is wrong"));
        }
        self.coded.clear();
        Ok(())
    }

    fn skip(&mut self, left: usize) -> io::Result<()> {
        if left == 0 {
            self.place = SnappyPosition::Header;
            return Ok(());
        }
        let more = self.input.fill_buf()?.len();
        if more == 0 {
            return Err(cut_off());
        }
        let count = more.min(left);
        self.input.consume(count);
        self.place = SnappyPosition::Skipped(left - count);
        Ok(())
    }
}

impl Read for SnappyFrames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = &self.decoded[self.given..];
            if !ready.is_empty() {
                let count = ready.len().min(out.len());
                out[..count].copy_from_slice(&ready[..count]);
                self.given += count;
                return Ok(count);
            }
            match self.place {
                SnappyPosition::Header => {
                    if !self.header()? {
                        return Ok(0);
                    }
                }
                SnappyPosition::Frame { kind, length } => self.frame(kind, length)?,
                SnappyPosition::Skipped(left) => self.skip(left)?,
            }
        }
    }
}

/// The checksum as frames have it: a CRC of data that holds CRCs is weak, so it is turned and moved.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the last snappy frame is incomplete")
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}
