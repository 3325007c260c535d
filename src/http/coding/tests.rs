//! Every coding in pieces of any size, and what is not coded as it should be.

use std::io::Write;

use axum::http::HeaderValue;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
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
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Snappy => snappy(text),
    }
}

/// In frames, an empty one too, beginning with the identifier, which the crate's encoder leaves out of an
/// empty body.
fn snappy(text: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(text).unwrap();
    let coded = encoder.into_inner().unwrap();
    if coded.is_empty() { b"\xff\x06\0\0sNaPpY".to_vec() } else { coded }
}

fn decode(coding: Coding, coded: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::new(coding);
    let (mut pieces, mut text) = (coded.chunks(piece), Vec::new());
    loop {
        match decoder.step()? {
            DecodeStep::Piece(more) => text.extend_from_slice(&more),
            DecodeStep::End => return Ok(text),
            DecodeStep::Hungry => match pieces.next() {
                Some(piece) => decoder.feed(Bytes::copy_from_slice(piece)),
                None => decoder.end(),
            },
        }
    }
}

proptest! {
    #[test]
    fn members_in_a_row_are_one_body_in_whatever_pieces(
        texts in prop::collection::vec(".{0,300}", 1..5),
        piece in 1usize..200,
    ) {
        for coding in Coding::ALL {
            let coded: Vec<u8> = texts.iter().flat_map(|text| encode(coding, text.as_bytes())).collect();
            let decoded = decode(coding, &coded, piece).unwrap();
            let text = texts.concat();
            prop_assert_eq!(&decoded, text.as_bytes());
            prop_assert!(decode(coding, &coded[..coded.len() - 1], piece).is_err(), "cut");
            for garbage in [b"\0".as_slice(), b"{}", b"\x1f\x8b", &[0; 600]] {
                let spoilt = [coded.as_slice(), garbage].concat();
                prop_assert!(decode(coding, &spoilt, piece).is_err(), "{:?}", garbage);
            }
        }
    }
}

#[test]
fn what_is_not_coded_is_an_error() {
    for coding in Coding::ALL {
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
            assert_eq!(decoder.step().unwrap(), DecodeStep::Hungry);
            decoder.feed(Bytes::copy_from_slice(&old));
            let step = decoder.step();
            assert!(
                !matches!(step, Ok(DecodeStep::Piece(_) | DecodeStep::End)),
                "{magic:x} behind {first:x?}: {step:?}"
            );
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
    assert!(matches!(decoder.step().unwrap(), DecodeStep::Piece(_)));
    assert!(idle < 1 << 20 && decoder.held_bytes() >= 8 << 20, "{idle} then {}", decoder.held_bytes());
}

#[test]
fn snappy_frames_may_be_padded_and_skipped_and_are_what_their_checksums_say() {
    let text = "x".repeat(200_000);
    let coded = snappy(text.as_bytes());
    let identifier = &coded[..10];
    for more in [b"\xfe\x03\0\0abc".as_slice(), b"\x80\0\0\0", identifier] {
        for piece in [1, 7, 1 << 20] {
            let padded = [identifier, more, &coded[10..], more].concat();
            assert_eq!(decode(Coding::Snappy, &padded, piece).unwrap(), text.as_bytes());
        }
    }
    let mut damaged = coded.clone();
    damaged[15] ^= 1;
    // A frame that says nothing before the body has begun, a frame that must be understood, a bare block, a
    // frame that is too long, and one that says that it holds more than a frame may.
    let block = snap::raw::Encoder::new().compress_vec(text.as_bytes()).unwrap();
    let length = (block.len() + 4) as u32;
    let header = [[0].as_slice(), &length.to_le_bytes()[..3], &[0; 4]].concat();
    let large = [identifier, header.as_slice(), block.as_slice()].concat();
    for wrong in [
        damaged,
        [b"\xfe\0\0\0".as_slice(), &coded].concat(),
        [identifier, b"\x02\0\0\0"].concat(),
        block.clone(),
        [identifier, b"\0\xff\xff\xff", &[0; 200_000]].concat(),
        large,
    ] {
        let mut decoder = Decoder::new(Coding::Snappy);
        assert!(decode(Coding::Snappy, &wrong, 1000).is_err());
        decoder.feed(wrong.into());
        while let Ok(DecodeStep::Piece(_)) = decoder.step() {}
        assert!(decoder.held_bytes() < 256 << 10, "{} bytes", decoder.held_bytes());
    }
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
        (vec!["Deflate"], Some(Coding::Deflate)),
        (vec!["snappy"], Some(Coding::Snappy)),
    ] {
        assert_eq!(of(&values).unwrap(), coding, "{values:?}");
    }
    for values in [vec!["br"], vec!["gzip, gzip"], vec!["gzip", "zstd"]] {
        assert!(of(&values).is_err(), "{values:?}");
    }
}
