//! The scanner agrees with serde on what is a payload, and on its bytes.

use std::ops::RangeInclusive;

use proptest::{prelude::*, sample::Index};
use serde_json::value::RawValue;

use super::{words, *};
use crate::payload::Payload;

/// How deep a plain value nests at most.
const PLAIN_DEPTH: usize = 62;

fn quick(text: &[u8]) -> Option<Payload> {
    let mut from = JsonScanner::new(text)?;
    let payload = Payload::scanned(from.value()?);
    from.is_at_end().then_some(payload)
}

fn slow(text: &[u8]) -> Option<Payload> {
    let value: &RawValue = serde_json::from_slice(text).ok()?;
    Payload::from_json(Some(value), None).ok()
}

/// What the scanner takes is right, and it takes all that does not nest too deep.
fn compare(text: &[u8]) {
    let (quick, slow) = (quick(text), slow(text));
    assert_eq!(is_plain(text), quick.is_some());
    let may_be_deep = text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > PLAIN_DEPTH;
    if quick.is_some() || !may_be_deep {
        assert_eq!(quick, slow, "{}", text.escape_ascii());
    }
}

/// All texts of so many of these pieces, by themselves and as members of an object.
fn every_text(pieces: &[&str], lengths: RangeInclusive<u32>) {
    for length in lengths {
        for mut number in 0..pieces.len().pow(length) {
            let mut text = String::new();
            for _ in 0..length {
                text += pieces[number % pieces.len()];
                number /= pieces.len();
            }
            compare(text.as_bytes());
            compare(format!("{{\"a\":{text},\"key\":\"value\"}}").as_bytes());
            compare(format!("{{\"key\": \"é\", \"a\": {text}, \"b\": \"value\"}}").as_bytes());
        }
    }
}

#[test]
fn short_texts_are_taken_as_serde_takes_them() {
    every_text(&["{", "}", "[", "]", "\"a\"", "\"", ":", ",", "1", "null", " "], 0..=4);
    every_text(&["{\"a\":", "{", "}", "[", "]", "\"k\":", ",", "1", "\"s\"", "\n"], 0..=5);
}

#[test]
fn numbers_are_taken_as_serde_takes_them() {
    every_text(&["0", "1", "90", "-", "+", ".", "e", "E"], 0..=5);
    for text in ["[0,01]", "[12345678,123456789.5]", "{\"a\":10,\"b\":1.5e7,\"c\":-0.0,\"d\":1e,\"e\":2}"] {
        compare(text.as_bytes());
    }
}

#[test]
fn escapes_are_taken_as_serde_takes_them() {
    every_text(&["\"", "\\", "u", "d83d", "dc00", "00e9", "n", "\\u", "\u{1}", "é"], 0..=5);
    for unit in 0..=0xFFFF_u32 {
        compare(format!("\"\\u{unit:04x}\"").as_bytes());
        compare(format!("[\"\\ud83d\\u{unit:04X}\"]").as_bytes());
    }
    for byte in 0..=u8::MAX {
        compare(&[b"\"\\", [byte].as_slice(), b"\""].concat());
        for (before, behind) in [
            ("{\"key", "\":12345,\"b\":23456}"),
            ("{\"a key of some length", ":12345,\"b\":23456}"),
            ("{\"a\":\"value", "\",\"long key\":1}"),
            ("{\"a\":\"value", ",\"long key\":1}"),
            ("{\"a\":12", "34,\"key\":\"value\"}"),
        ] {
            compare(&[before.as_bytes(), &[byte], behind.as_bytes()].concat());
        }
    }
}

#[test]
fn a_value_nests_as_deep_as_it_may() {
    for depth in (1..=70).chain(MAX_JSON_DEPTH - 1..=MAX_JSON_DEPTH + 1) {
        for (open, close) in
            [("[", "]"), ("{\"a\":", "}"), ("[{\"\":", "}]"), ("[1,", "]"), ("{\"b\":1,\"a\":", "}")]
        {
            let depth = depth / open.matches(['[', '{']).count();
            let text = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            compare(text.as_bytes());
            let nested = depth * open.matches(['[', '{']).count();
            assert_eq!(quick(text.as_bytes()).is_some(), nested <= PLAIN_DEPTH, "{text}");
        }
    }
}

#[test]
fn whole_numbers_are_taken_if_they_surely_fit() {
    let taken = |text: &str| {
        let mut from = JsonScanner::new(text.as_bytes()).unwrap();
        from.integer().filter(|_| from.is_at_end())
    };
    for number in [0, 7, 10, -1, 1_357_034_400_000, 12_345_678, 999_999_999_999_999_999, -62_135_596_800_000]
    {
        assert_eq!(taken(&format!(" {number}\n")), Some(number));
    }
    assert_eq!(taken("-0"), Some(0));
    for text in
        ["", "-", "01", "1.0", "1e3", "+1", "--1", "null", "\"1\"", "1000000000000000000", "0x1", "1 2"]
    {
        assert_eq!(taken(text), None, "{text}");
    }
    for number in [i128::from(i64::MIN), i128::from(i64::MAX), i128::from(u64::MAX), 1 << 64, -1 << 64] {
        assert_eq!(taken(&number.to_string()), None);
    }
    assert_eq!(taken(&"9".repeat(100)), None);
}

#[test]
fn a_string_without_escapes_is_taken_and_no_other() {
    let taken = |text: &str| JsonScanner::new(text.as_bytes()).unwrap().string().map(str::to_owned);
    let long = "n".repeat(100);
    for string in ["", "a", "Größe", "12345678", "/tables/t?a=b&c='d'", &long] {
        assert_eq!(taken(&format!("\t\"{string}\",")).as_deref(), Some(string));
    }
    for text in ["", "\"", "\"a", "a\"", "\"a\\n\"", "\"a\n\"", "\"\u{1f}\"", "null", "1"] {
        assert_eq!(taken(text), None, "{text}");
    }
    assert!(JsonScanner::new(b"\"\xFF\"").is_none());
}

fn white_space() -> impl Strategy<Value = String> {
    prop_oneof![8 => Just(""), 2 => Just(" "), 1 => Just("\n    "), 1 => Just("\t\r\n")]
        .prop_map(str::to_owned)
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[ -!#-\\[\\]-~]{0,40}",
        1 => "\\PC{0,5}".prop_map(|text| text.replace('\\', "/").replace('"', "'")),
        1 => "\\\\[\"\\\\/bfnrt]",
        1 => "\\\\u00[0-9a-fA-F]{2}",
        1 => "\\\\ud83d\\\\ude[0-9A-F]{2}",
    ];
    prop::collection::vec(piece, 0..3).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// The text of a value.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,4})?",
        "[1-9][0-9]{0,9}",
        string(),
    ];
    leaf.prop_recursive(5, 40, 8, |value| {
        let spaced = (white_space(), value, white_space()).prop_map(|(a, b, c)| a + &b + &c).boxed();
        let key = (white_space(), string(), white_space()).prop_map(|(a, b, c)| a + &b + &c);
        prop_oneof![
            prop::collection::vec(spaced.clone(), 0..8).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec((key, spaced).prop_map(|(key, value)| format!("{key}:{value}")), 0..8)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// Texts with up to three bytes changed, left out or put in, or the end cut off.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = "{}[]\":,\\/ud0159eE.+-tfn \n\t\0\x1f\x7f".bytes().chain([0x80, 0xC3, 0xED, 0xFF]);
    let byte = prop::sample::select(bytes.collect::<Vec<_>>());
    let changes = prop::collection::vec((0..4, any::<Index>(), byte), 0..=3);
    (text, changes).prop_map(|(text, changes)| {
        let mut text = text.into_bytes();
        for (kind, place, byte) in changes {
            let place = place.index(text.len() + 1);
            match kind {
                0 if place < text.len() => text[place] = byte,
                1 if place < text.len() => drop(text.remove(place)),
                2 => text.insert(place, byte),
                3 => text.truncate(place),
                _ => {}
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn values_are_taken_as_serde_takes_them(text in json()) {
        prop_assert!(quick(text.as_bytes()).is_some(), "{text}");
        compare(text.as_bytes());
    }

    #[test]
    fn what_is_almost_a_value_is_taken_as_serde_takes_it(text in mutated(json())) {
        compare(&text);
    }

    #[test]
    fn words_are_marked_as_bytes_are(word in any::<[u8; 8]>(), near in "[ -~]{8}") {
        let is_special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
        let first = |is: &dyn Fn(&u8) -> bool, word: [u8; 8]| word.iter().position(is);
        let marked = |marks: u64| (marks != 0).then(|| marks.trailing_zeros() as usize / 8);
        let near: [u8; 8] = near.as_bytes().try_into().unwrap();
        for word in [word, near] {
            prop_assert_eq!(marked(words::specials(word)), first(&is_special, word));
            prop_assert_eq!(marked(words::no_digits(word)), first(&|byte| !byte.is_ascii_digit(), word));
        }
        prop_assert_eq!(marked(words::quotes(near)), first(&|byte| *byte == b'"', near));
    }

    #[test]
    fn eight_digits_are_a_number(number in 0..100_000_000_u64) {
        let digits = format!("{number:08}");
        prop_assert_eq!(words::eight_digits(digits.as_bytes().try_into().unwrap()), number);
    }

    #[test]
    fn special_bytes_are_found_wherever_they_are(
        run in "[ -!#-\\[\\]-~é]{0,100}", end in "[\"\\\\\0\n]?.{0,40}"
    ) {
        let text = run.clone() + &end;
        let found = text.len() - special(text.as_bytes()).len();
        let expected = text.bytes().position(|byte| byte < b' ' || matches!(byte, b'"' | b'\\'));
        prop_assert_eq!(found, expected.unwrap_or(text.len()));
    }

    #[test]
    fn a_text_is_simple_if_every_byte_is(
        text in "[ -\\[\\]-~]{0,200}", place in any::<Index>(), byte in any::<u8>()
    ) {
        prop_assert!(is_simple(text.as_bytes()));
        let mut text = text.into_bytes();
        text.insert(place.index(text.len() + 1), byte);
        prop_assert_eq!(is_simple(&text), (b' '..0x80).contains(&byte) && byte != b'\\');
    }
}
