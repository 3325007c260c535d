//! Content codings of request bodies: gzip and zstd, in pieces as they arrive and in bounded memory.
//!
//! Several gzip members or zstd frames in a row are one body (RFC 1952 2.2, RFC 8878 3.1), whatever pieces they arrive in;
//! what follows and is none of them is an error. zstd windows are at most 8 MiB (RFC 9659).

use std::io::{self, BufRead, ErrorKind, Read};

use axum::http::{HeaderMap, header};
use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::{error::Problem, extract};

/// What one step decodes at most.
const PIECE_BYTES: usize = 64 << 10;
/// The logarithm of the largest window of a zstd frame that is taken.
const MAX_WINDOW_LOG: u32 = 23;
/// What a gzip decoder holds: its window and tables, rounded up.
const GZIP_BYTES: usize = 64 << 10;

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The coding that `Content-Encoding` names, in any case; none for `identity` and an empty value.
    ///
    /// # Errors
    /// 415 for another one, or for several.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut coding = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().unwrap_or("not text");
            for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()) {
                let named = match name.as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstd,
                    _ => return Err(extract::unsupported(format!("content encoding {text:?} is not supported: send gzip, zstd or none"))),
                };
                if coding.replace(named).is_some() {
                    return Err(extract::unsupported(format!("content encoding {text:?} is more than one: send gzip, zstd or none")));
                }
            }
        }
        Ok(coding)
    }
}

/// What a step of a decoder has brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Decoded bytes, not none.
    Piece(Bytes),
    /// It wants more of the body.
    Hungry,
    /// The body has ended, and is whole.
    End,
}

/// Decodes one body.
pub enum Decoder {
    /// gzip.
    Gzip(Box<MultiGzDecoder<Input>>),
    /// zstd.
    Zstd(Box<Zstd>),
}

impl Decoder {
    /// A decoder that has been fed nothing yet.
    pub fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Input::default()))),
            Coding::Zstd => Self::Zstd(Box::default()),
        }
    }

    /// The next piece of the coded body; it must have been [`Step::Hungry`].
    pub fn feed(&mut self, coded: Bytes) {
        self.input().bytes = coded;
    }

    /// Nothing more of the body will come.
    pub fn end(&mut self) {
        self.input().has_ended = true;
    }

    /// The memory that it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_BYTES,
            Self::Zstd(zstd) => zstd.context.sizeof(),
        }
    }

    /// Decodes on.
    ///
    /// # Errors
    /// If the body is not coded as it should be, or ends before its end.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut piece = vec![0; PIECE_BYTES];
        let read = match self {
            Self::Gzip(gzip) => gzip.read(&mut piece),
            Self::Zstd(zstd) => zstd.read(&mut piece),
        };
        match read {
            Ok(0) => Ok(Step::End),
            Ok(count) => {
                piece.truncate(count);
                Ok(Step::Piece(piece.into()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Step::Hungry),
            Err(error) => Err(error),
        }
    }

    fn input(&mut self) -> &mut Input {
        match self {
            Self::Gzip(gzip) => gzip.get_mut(),
            Self::Zstd(zstd) => &mut zstd.input,
        }
    }
}

/// What has arrived of the coded body; blocks where more is to come.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Bytes,
    has_ended: bool,
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.len().min(out.len());
        out[..count].copy_from_slice(&self.bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.has_ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// zstd's own decoder, which tells how much memory it has taken.
pub struct Zstd {
    context: DCtx<'static>,
    input: Input,
    place: Place,
}

/// Where a body of zstd frames is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At its first frame, of whose magic number so many bytes have come.
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

    /// Whether a frame, or one to be skipped, may begin like that (RFC 8878 3.1). What zstd wrote before it was a standard begins in
    /// other ways; the decoder knows them, and does not bound what they take.
    fn is_right(&self) -> bool {
        let begins_with = |magic: &[u8; 4]| self.bytes[..self.count] == magic[..self.count];
        let first = self.bytes[0];
        begins_with(&[0x28, 0xb5, 0x2f, 0xfd]) || ((0x50..=0x5f).contains(&first) && begins_with(&[first, 0x2a, 0x4d, 0x18]))
    }
}

impl Default for Zstd {
    fn default() -> Self {
        let mut context = DCtx::create();
        if context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).is_err() {
            unreachable!("zstd knows windows of 8 MiB");
        }
        Self { context, input: Input::default(), place: Place::First(Magic::default()) }
    }
}

impl Zstd {
    /// Takes the magic number of a frame, whole, before the decoder sees any of it; answers whether there is a frame.
    fn begin(&mut self, magic: Magic, at: fn(Magic) -> Place) -> io::Result<bool> {
        let Some(&byte) = self.input.fill_buf()?.first() else {
            return match self.place {
                Place::Next(Magic { count: 0, .. }) => Ok(false),
                _ => Err(cut_off()),
            };
        };
        let magic = magic.push(byte);
        if !magic.is_right() {
            return Err(io::Error::new(ErrorKind::InvalidData, "what begins here is no zstd frame"));
        }
        self.input.consume(1);
        self.place = at(magic);
        if magic.count == magic.bytes.len() {
            self.decode(Some(magic.bytes), &mut [])?;
            self.place = Place::InFrame;
        }
        Ok(true)
    }

    /// Decodes on, `magic` or else what has arrived; answers how much has come of it.
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
            self.place = Place::Next(Magic::default());
        }
        Ok(count)
    }
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the last zstd frame is not whole")
}

impl Read for Zstd {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let is_there = match self.place {
                Place::First(magic) => self.begin(magic, Place::First)?,
                Place::Next(magic) => self.begin(magic, Place::Next)?,
                Place::InFrame => {
                    let has_ended = self.input.fill_buf()?.is_empty();
                    let count = self.decode(None, out)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    if has_ended && self.place == Place::InFrame {
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn encode(coding: Coding, text: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => gzip(text),
            Coding::Zstd => zstd::encode_all(text, 3).unwrap(),
        }
    }

    fn decode(coding: Coding, coded: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut decoder = Decoder::new(coding);
        let (mut pieces, mut text) = (coded.chunks(piece), Vec::new());
        loop {
            match decoder.step()? {
                Step::Piece(more) => text.extend_from_slice(&more),
                Step::End => return Ok(text),
                Step::Hungry => match pieces.next() {
                    Some(piece) => decoder.feed(Bytes::copy_from_slice(piece)),
                    None => decoder.end(),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn members_in_a_row_are_one_body_in_whatever_pieces(texts in prop::collection::vec(".{0,300}", 1..5), piece in 1usize..200) {
            for coding in [Coding::Gzip, Coding::Zstd] {
                let coded: Vec<u8> = texts.iter().flat_map(|text| encode(coding, text.as_bytes())).collect();
                let decoded = decode(coding, &coded, piece).unwrap();
                let text = texts.concat();
                prop_assert_eq!(&decoded, text.as_bytes());
                prop_assert!(decode(coding, &coded[..coded.len() - 1], piece).is_err(), "cut");
                for garbage in [b"\0".as_slice(), b"{}", b"\x1f\x8b", &[0; 600]] {
                    prop_assert!(decode(coding, &[coded.as_slice(), garbage].concat(), piece).is_err(), "{:?}", garbage);
                }
            }
        }
    }

    #[test]
    fn what_is_not_coded_is_an_error() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            for text in [b"".as_slice(), b"{", b"{\"payload\": 1}"] {
                assert!(decode(coding, text, 3).is_err(), "{coding:?} {text:?}");
            }
        }
    }

    #[test]
    fn what_zstd_wrote_before_it_was_a_standard_is_refused() {
        for magic in [0x1e, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27] {
            let old = [magic, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0, 0];
            let after = [encode(Coding::Zstd, b"x").as_slice(), &old].concat();
            for coded in [old.as_slice(), &after] {
                for piece in [1, 3, 100] {
                    assert!(decode(Coding::Zstd, coded, piece).is_err(), "{magic:x} in pieces of {piece}");
                }
            }
            // In a piece of its own the beginning of a right one would be taken for the wrong one's.
            for first in [&[0x28][..], &[0x53], &[0x28, 0xb5, 0x2f, 0xfd], &[0x53, 0x2a, 0x4d, 0x18]] {
                let mut decoder = Decoder::new(Coding::Zstd);
                decoder.feed(Bytes::copy_from_slice(first));
                assert_eq!(decoder.step().unwrap(), Step::Hungry);
                decoder.feed(Bytes::copy_from_slice(&old));
                let step = decoder.step();
                assert!(!matches!(step, Ok(Step::Piece(_) | Step::End)), "{magic:x} behind {first:x?}: {step:?}");
                assert!(decoder.held_bytes() < 1 << 20, "{magic:x} behind {first:x?}");
            }
        }
        let skipped = [b"\x5f\x2a\x4d\x18\x03\0\0\0abc".as_slice(), &encode(Coding::Zstd, b"x")].concat();
        assert_eq!(decode(Coding::Zstd, &skipped, 1).unwrap(), b"x");
    }

    #[test]
    fn windows_over_8_mib_are_refused_and_smaller_ones_are_known_by_their_size() {
        let coded = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&[b'x'; 100]).unwrap();
            encoder.flush().unwrap(); // or the frame would be known to be small
            encoder.write_all(&[b'x'; 100]).unwrap();
            encoder.finish().unwrap()
        };
        assert!(decode(Coding::Zstd, &coded(24), 1000).is_err());
        let mut decoder = Decoder::new(Coding::Zstd);
        let idle = decoder.held_bytes();
        decoder.feed(coded(23).into());
        assert!(matches!(decoder.step().unwrap(), Step::Piece(_)));
        assert!(idle < 1 << 20 && decoder.held_bytes() >= 8 << 20, "{idle} then {}", decoder.held_bytes());
    }

    #[test]
    fn names_come_in_any_case_and_identity_is_none() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            Coding::of(&headers)
        };
        for (values, coding) in [
            (vec![], None),
            (vec![""], None),
            (vec!["Identity"], None),
            (vec!["GZIP"], Some(Coding::Gzip)),
            (vec!["x-gzip"], Some(Coding::Gzip)),
            (vec!["identity, Zstd"], Some(Coding::Zstd)),
            (vec!["identity", "gzip"], Some(Coding::Gzip)),
        ] {
            assert_eq!(of(&values).unwrap(), coding, "{values:?}");
        }
        for values in [vec!["br"], vec!["gzip, gzip"], vec!["gzip", "zstd"]] {
            assert!(of(&values).is_err(), "{values:?}");
        }
    }
}
