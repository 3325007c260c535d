//! zstd frames in a row. It uses zstd's own decoder, which reports how much memory it has allocated, and
//! checks every frame's magic number before that decoder does.

use std::io::{self, BufRead, ErrorKind, Read};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::input::Input;

/// The logarithm of the largest window of a zstd frame that is accepted.
const MAX_WINDOW_LOG: u32 = 23;

/// Decodes a body of zstd frames.
pub struct ZstdFrames {
    context: DCtx<'static>,
    input: Input,
    place: FramePosition,
}

/// Where in the body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramePosition {
    /// At the first frame, of whose magic number this much has come.
    First(Magic),
    InFrame,
    /// Behind a frame, at the next one if there is one.
    Next(Magic),
}

/// The beginning of a frame's magic number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Magic {
    bytes: [u8; 4],
    count: usize,
}

impl Magic {
    fn push(mut self, byte: u8) -> Self {
        if let Some(place) = self.bytes.get_mut(self.count) {
            *place = byte;
        }
        self.count += 1;
        self
    }

    /// Whether a frame, or a frame to be skipped, may begin like this (RFC 8878 3.1). Formats from before the
    /// standard have other magic numbers; the decoder would accept them, and does not bound the memory that
    /// they take.
    fn is_right(&self) -> bool {
        let begins_with = |magic: &[u8; 4]| self.bytes[..self.count] == magic[..self.count];
        let first = self.bytes[0];
        begins_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || ((0x50..=0x5f).contains(&first) && begins_with(&[first, 0x2a, 0x4d, 0x18]))
    }
}

impl Default for ZstdFrames {
    fn default() -> Self {
        let mut context = DCtx::create();
        if context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).is_err() {
            unreachable!("zstd knows windows of 8 MiB");
        }
        Self { context, input: Input::default(), place: FramePosition::First(Magic::default()) }
    }
}

impl ZstdFrames {
    pub(super) fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.context.sizeof()
    }

    /// Reads the whole magic number of a frame before the decoder sees any of it. Returns whether there is a
    /// frame.
    fn begin(&mut self, magic: Magic, at: fn(Magic) -> FramePosition) -> io::Result<bool> {
        let Some(&byte) = self.input.fill_buf()?.first() else {
            return match self.place {
                FramePosition::Next(Magic { count: 0, .. }) => Ok(false),
                _ => Err(cut_off()),
            };
        };
        let magic = magic.push(byte);
        if !magic.is_right() {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a zstd frame must begin here, and none does",
            ));
        }
        self.input.consume(1);
        self.place = at(magic);
        if magic.count == magic.bytes.len() {
            self.decode(Some(magic.bytes), &mut [])?;
            self.place = FramePosition::InFrame;
        }
        Ok(true)
    }

    /// Decodes `magic`, or else what has arrived. Returns how many bytes came out.
    fn decode(&mut self, magic: Option<[u8; 4]>, out: &mut [u8]) -> io::Result<usize> {
        let coded = magic.as_ref().map_or(&*self.input.bytes, |magic| magic.as_slice());
        let mut from = InBuffer::around(coded);
        let mut into = OutBuffer::around(out);
        let left = self.context.decompress_stream(&mut into, &mut from);
        let left = left.map_err(|code| io::Error::new(ErrorKind::InvalidData, get_error_name(code)))?;
        let (taken, count) = (from.pos(), into.pos());
        if magic.is_none() {
            self.input.consume(taken);
        }
        if left == 0 {
            self.place = FramePosition::Next(Magic::default());
        }
        Ok(count)
    }
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the last zstd frame is incomplete")
}

impl Read for ZstdFrames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let is_there = match self.place {
                FramePosition::First(magic) => self.begin(magic, FramePosition::First)?,
                FramePosition::Next(magic) => self.begin(magic, FramePosition::Next)?,
                FramePosition::InFrame => {
                    let has_ended = self.input.fill_buf()?.is_empty();
                    let count = self.decode(None, out)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    if has_ended && self.place == FramePosition::InFrame {
                        return Err(cut_off());
                    }
                    true
                }
            };
            if !is_there {
                return Ok(0);
            }
        }
    }
}
