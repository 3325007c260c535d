//! Content codings of request bodies: gzip, zstd, deflate and snappy, decoded in pieces as they arrive and in
//! bounded memory.
//!
//! Several gzip members or zstd frames in a row are one body (RFC 1952 2.2, RFC 8878 3.1), however they are
//! cut into pieces; zlib streams and snappy frames likewise. Anything else that follows them is an error.
//! zstd windows are at most 8 MiB (RFC 9659).

mod input;
mod snappy_frames;
#[cfg(test)]
mod tests;
mod zlib_streams;
mod zstd_frames;

use std::io::{self, ErrorKind, Read};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

pub use self::input::Input;
use self::{snappy_frames::SnappyFrames, zlib_streams::ZlibStreams, zstd_frames::ZstdFrames};
use super::{error::Problem, extract};

/// Bytes that one step decodes at most.
const PIECE_BYTES: usize = 64 << 10;
/// What a decoder of gzip or zlib holds: its window and tables, rounded up.
const INFLATE_BYTES: usize = 64 << 10;
/// What may be sent, for people.
const KNOWN: &str = "gzip, zstd, deflate, snappy or none";

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// RFC 1950, zlib.
    Deflate,
    /// Snappy's framing format.
    Snappy,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Zstd, Self::Deflate, Self::Snappy];

    /// The coding that `Content-Encoding` names, in any case; none for `identity` and an empty value.
    ///
    /// # Errors
    /// 415 for another coding, or for several.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut coding = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().unwrap_or("not text");
            for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()) {
                let named = match name.as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstd,
                    "deflate" => Self::Deflate,
                    "snappy" => Self::Snappy,
                    _ => {
                        return Err(extract::unsupported(format!(
                            "content encoding {text:?} is not supported: send {KNOWN}"
                        )));
                    }
                };
                if coding.replace(named).is_some() {
                    return Err(extract::unsupported(format!(
                        "content encoding {text:?} is more than one: send {KNOWN}"
                    )));
                }
            }
        }
        Ok(coding)
    }
}

/// The result of one step of a decoder.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodeStep {
    /// Decoded bytes, at least one.
    Piece(Bytes),
    /// It needs more of the body.
    Hungry,
    /// The body has ended, and is whole.
    End,
}

/// Decodes one body.
pub enum Decoder {
    /// gzip.
    Gzip(Box<MultiGzDecoder<Input>>),
    /// zstd.
    Zstd(Box<ZstdFrames>),
    /// zlib.
    Deflate(Box<ZlibStreams>),
    /// Snappy.
    Snappy(Box<SnappyFrames>),
}

impl Decoder {
    /// A decoder that has been fed nothing yet.
    pub fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Input::default()))),
            Coding::Zstd => Self::Zstd(Box::default()),
            Coding::Deflate => Self::Deflate(Box::default()),
            Coding::Snappy => Self::Snappy(Box::default()),
        }
    }

    /// Gives it the next piece of the coded body; its last step must have been [`DecodeStep::Hungry`].
    pub fn feed(&mut self, coded: Bytes) {
        self.input().bytes = coded;
    }

    /// Tells it that the coded body has ended.
    pub fn end(&mut self) {
        self.input().has_ended = true;
    }

    /// The memory that it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Gzip(_) | Self::Deflate(_) => INFLATE_BYTES,
            Self::Zstd(zstd) => zstd.held_bytes(),
            Self::Snappy(snappy) => snappy.held_bytes(),
        }
    }

    /// Decodes the next piece.
    ///
    /// # Errors
    /// If the body is not coded as it says, or ends too early.
    pub fn step(&mut self) -> io::Result<DecodeStep> {
        let mut piece = vec![0; PIECE_BYTES];
        let read = match self {
            Self::Gzip(gzip) => gzip.read(&mut piece),
            Self::Zstd(zstd) => zstd.read(&mut piece),
            Self::Deflate(zlib) => zlib.read(&mut piece),
            Self::Snappy(snappy) => snappy.read(&mut piece),
        };
        match read {
            Ok(0) => Ok(DecodeStep::End),
            Ok(count) => {
                piece.truncate(count);
                Ok(DecodeStep::Piece(piece.into()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(DecodeStep::Hungry),
            Err(error) => Err(error),
        }
    }

    fn input(&mut self) -> &mut Input {
        match self {
            Self::Gzip(gzip) => gzip.get_mut(),
            Self::Zstd(zstd) => zstd.input(),
            Self::Deflate(zlib) => zlib.input(),
            Self::Snappy(snappy) => snappy.input(),
        }
    }
}
