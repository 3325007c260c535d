//! What the quick way takes is what the other way makes of it; and it takes what clients send.

use std::sync::Arc;

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::http::{connection::Connection, memory::Budget};
use contracts::error::Overload;

const FLIGHT: &str = r#"{"payload":{"carrier":"UA","flight":1545,"tailnum":"N14228","origin":"EWR",
    "dest":"IAH","delay":-2.5,"cancelled":false,"gate":null,"legs":[{"hour":5,"minute":15},[]]},
    "timestamp_ms":1357034400000}"#;

fn limits() -> Limits {
    Limits { record_bytes: 200, record_headers: 2, bulk_records: 4, ..Limits::DEFAULT }
}

fn with_parser<T>(limits: &Limits, take: impl FnOnce(RecordParser<'_>) -> T) -> T {
    take(RecordParser::of_test(limits, Some("key")))
}

fn is_quick(text: &str) -> bool {
    with_parser(&Limits::DEFAULT, |parser| parser.is_quick(text.as_bytes()))
}

fn budget(bytes: usize) -> Arc<Budget> {
    Budget::new(bytes, 100, Overload::Memory)
}

fn is_quick_bulk(limits: &Limits, body: &[u8]) -> bool {
    let budgets = [budget(1 << 20), budget(1 << 20)];
    let [mut one, mut other] = budgets.each_ref().map(|budget| budget.receiving(&Connection::default()));
    with_parser(limits, |parser| parser.is_quick_bulk(body, [&mut one, &mut other]))
}

#[test]
fn what_clients_send_is_quick() {
    for text in [
        FLIGHT,
        r#"{"payload":"text"}"#,
        r#"{"payload":"lines\n\tand \"quotes\", \u00e9 and \ud83d\ude00"}"#,
        r#"{"payload":"Größe"}"#,
        r#"{"payload":null}"#,
        r#"{"payload":[]}"#,
        r#"{ "payload": {"a": 1, "b": [1, 2.5e3]}, "partition": 3, "offset": 17 }"#,
        r#"{"idempotency_key":"order-7","headers":{"source":"billing","tenant":""},"payload":{"order":7}}"#,
        r#"{"payload_base64":"AAH/gA==","headers":{},"timestamp_ms":-1}"#,
        r#"{"key":"customer 7","payload":1}"#,
        "{\n  \"payload\": {\n    \"order\": 7,\n    \"text\": \"a\"\n  },\n  \"partition\": 0\n}\r\n",
    ] {
        assert!(is_quick(text), "{text}");
    }
    let body = format!("{{\"records\":[{FLIGHT}, {FLIGHT},\n{FLIGHT}]}}\n");
    assert!(is_quick_bulk(&Limits::DEFAULT, body.as_bytes()));
}

#[test]
fn a_bulk_write_is_quick_as_a_whole_or_not_at_all() {
    let event = r#"{"payload":1}"#;
    let is_quick = |body: String| is_quick_bulk(&limits(), body.as_bytes());
    for count in 0..=5 {
        let events = vec![event; count].join(",");
        assert_eq!(is_quick(format!("{{\"records\":[{events}]}}")), (1..=4).contains(&count));
    }
    for (before, behind) in [
        ("{\"records\":[", "]"),
        ("{\"records\":[", "]}}"),
        ("{\"records\":[", "],\"records\":[]}"),
        ("{\"records\":[", ",]}"),
        ("{\"records\":[{},", "]}"),
        ("{\"records\":", "}"),
        ("[", "]"),
    ] {
        assert!(!is_quick(format!("{before}{event}{behind}")), "{before}{behind}");
    }
}

#[test]
fn what_is_unusual_or_wrong_is_not_quick() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"payload":1"#,
        r#"{"payload":1}x"#,
        r#"{"payload":1,}"#,
        r#"{"payload":1,"payload":1}"#,
        r#"{"payload":1,"payload_base64":"AA=="}"#,
        r#"{"payload_base64":"?"}"#,
        r#"{"payload_base64":null,"payload":1}"#,
        r#"{"payload":1,"unknown":1}"#,
        r#"{"pay\u006coad":1}"#,
        r#"{"payload":1,"partition":null}"#,
        r#"{"payload":1,"partition":1.0}"#,
        r#"{"payload":1,"timestamp_ms":1e3}"#,
        r#"{"payload":1,"timestamp_ms":"yesterday}"#,
        r#"{"payload":1,"timestamp_ms":1,"timestamp_ms":"yesterday"}"#,
        r#"{"payload":1,"timestamp_ms":nil}"#,
        r#"{"payload":1,"offset":99999999999999999999}"#,
        r#"{"payload":1,"idempotency_key":"a\u0062"}"#,
        r#"{"payload":1,"key":"a\u0062"}"#,
        r#"{"payload":1,"headers":{"a":"b","a":"c"}}"#,
        r#"{"payload":1,"headers":{"a":1}}"#,
        r#"{"payload":1,"headers":null}"#,
        r#"{"payload":"\ud83d"}"#,
        r#"{"records":[]}"#,
    ] {
        assert!(!is_quick(text), "{text}");
        assert!(!is_quick_bulk(&Limits::DEFAULT, text.as_bytes()), "{text}");
    }
}

#[test]
fn what_an_event_may_not_be_is_said_in_the_same_words() {
    for text in [
        r#"{"payload":1,"partition":-1}"#,
        r#"{"payload":1,"partition":1024}"#,
        r#"{"payload":1,"timestamp_ms":999999999999999999}"#,
        r#"{"payload":1,"idempotency_key":""}"#,
        r#"{"payload":1,"key":""}"#,
        r#"{"payload":1,"timestamp_ms":"yesterday"}"#,
        r#"{"timestamp_ms":"yesterday at line 7 column 8", "payload":1}"#,
        r#"{"partition":true ,"payload":1}"#,
        r#"{"partition":false]"#,
        "{\"payload\":\n1,\n \"offset\": {\"a\":\n[]}\n\t }",
        "{\"offset\": [] \n",
        r#"{"partition":{"of a long value":"what is shown ","where it":"ends"},"payload":1}"#,
        "{\"timestamp_ms\":\"ééééééééééééééééééééééééééééééééééééééééééééééééé\"}",
    ] {
        assert!(is_quick(text), "{text}");
        assert!(!is_quick_bulk(&Limits::DEFAULT, format!("{{\"records\":[{text}]}}").as_bytes()), "{text}");
    }
}

#[test]
fn events_are_charged_once_whichever_way_they_are_read() {
    let odd = r#"{"payload":{"order":7},"partition":null}"#;
    for (records, room) in [
        ([FLIGHT; 3].as_slice(), 4096),
        (&[FLIGHT, FLIGHT, odd], 4096),
        (&[FLIGHT, FLIGHT, FLIGHT], 900),
        (&[FLIGHT, FLIGHT, odd, FLIGHT], 1500),
        (&[FLIGHT, FLIGHT, "{}"], 4096),
    ] {
        let body = format!("{{\"records\":[{}]}}", records.join(","));
        let budgets = [budget(room), budget(room)];
        let [mut one, mut other] = budgets.each_ref().map(|budget| budget.receiving(&Connection::default()));
        one.try_grow_to(100).unwrap();
        other.try_grow_to(100).unwrap();
        let limits = Limits::DEFAULT;
        with_parser(&limits, |parser| {
            let read = parser.json_bulk(body.as_bytes(), &mut one);
            let slow = parser.any_bulk(body.as_bytes(), Charged::new(&mut other, &limits));
            assert_eq!(format!("{read:?}"), format!("{slow:?}"));
        });
        assert_eq!(one.bytes(), other.bytes(), "{body}");
    }
}

/// The fields of an event: a value that any of them may have, and one that is odd.
fn fields() -> [(&'static str, Vec<String>, Vec<String>); 8] {
    let of = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let mut payloads = of(&[
        "1",
        "null",
        "-0.5e+3",
        "\"text\"",
        "\"\"",
        "\"\\n\\u00e9\"",
        "\"é\"",
        "{\"a\":[1,{}],\"b\":\"c\"}",
        "{ \"a\" : 1 }",
        "{\"long key of an object\":\"and a value that is not short either\"}",
    ]);
    payloads.push(nested(62));
    let long = format!("{{\"a\":\"{}\",\"b\":\"c\"}}", "x".repeat(250));
    [
        ("payload", payloads, vec![nested(63), nested(130), "\"\\udc00\"".to_owned(), "[1,2".to_owned()]),
        ("partition", of(&["0", "3", "-1", "1024"]), of(&["01", "1.0", "null", "9999999999999999999"])),
        (
            "timestamp_ms",
            of(&["1357034400000", "0", "-1", "999999999999999999"]),
            of(&["1e3", "null", "\"now\""]),
        ),
        (
            "idempotency_key",
            of(&["\"k\"", "\"\"", "\"more than sixteen bytes\""]),
            of(&["\"\\n\"", "null", "7"]),
        ),
        (
            "headers",
            of(&[
                "{}",
                "{\"a\":\"b\"}",
                "{\"a\":\"b\" , \"é\":\"\"}",
                "{\"a\":\"1\",\"b\":\"2\",\"c\":\"3\"}",
                &long,
            ]),
            of(&["{\"a\":\"\\n\"}", "{\"a\":\"b\",\"a\":\"b\"}", "null", "{\"a\":1}", "{\"a\":\"b\",}"]),
        ),
        ("offset", of(&["7", "-7"]), of(&["18446744073709551615", "null", "\"7\""])),
        ("payload_base64", of(&["\"AAH/gA==\"", "\"\""]), of(&["\"?\"", "null", "1"])),
        ("key", of(&["\"k\"", "\"\"", "\"customer 7\""]), of(&["\"\\n\"", "null", "7"])),
    ]
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn field(place: usize) -> impl Strategy<Value = String> {
    let (name, good, odd) = fields()[place].clone();
    let value = prop_oneof![20 => prop::sample::select(good), 1 => prop::sample::select(odd)];
    value.prop_map(move |value| format!("\"{name}\":{value}"))
}

/// An event with one of the payloads, some other fields in any order, and seldom one that is too much.
fn event() -> impl Strategy<Value = String> {
    let payload = prop_oneof![8 => Just(0), 1 => Just(6)];
    let others = prop::sample::subsequence(vec![1, 2, 3, 4, 5, 7], 0..=6);
    let more = prop_oneof![20 => Just(None), 1 => (0..8_usize).prop_map(Some)];
    let places = (payload, others, more).prop_map(|(payload, others, more)| {
        others.into_iter().chain([payload]).chain(more).collect::<Vec<_>>()
    });
    let fields = places
        .prop_shuffle()
        .prop_flat_map(|places| places.into_iter().map(|place| field(place).boxed()).collect::<Vec<_>>());
    let comma = prop::sample::select(vec![",", ", ", ",\n  "]);
    (fields, comma).prop_map(|(fields, comma)| format!("{{{}}}", fields.join(comma)))
}

fn bulk() -> impl Strategy<Value = String> {
    prop::collection::vec(event(), 0..6).prop_map(|events| format!("{{\"records\":[{}]}}", events.join(",")))
}

/// The text with up to two bytes changed, left out or put in, or cut off.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let bytes: Vec<u8> = b"{}[]\":,\\u01-.en \n\0\x7f\x80\xC3".to_vec();
    let changes = prop::collection::vec((0..12, any::<Index>(), prop::sample::select(bytes)), 0..=2);
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
    fn an_event_is_the_same_whichever_way_it_is_read(text in mutated(event())) {
        for limits in [limits(), Limits::DEFAULT] {
            with_parser(&limits, |parser| parser.is_quick(&text));
        }
    }

    #[test]
    fn a_bulk_write_is_the_same_whichever_way_it_is_read(body in mutated(bulk())) {
        for limits in [limits(), Limits::DEFAULT] {
            is_quick_bulk(&limits, &body);
        }
    }
}
