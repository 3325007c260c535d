//! What the command line reads: a server's stream, and lines of a file.

use zombi::cli::{
    append::records::{Additions, KeyChoice, LineFormat, write_record},
    client::sse::{SseItem, SseParser},
};

use super::sent::with_parser;

/// A stream of server-sent events is the same wherever its pieces end.
pub(super) fn sse(data: &[u8]) {
    let items = |pieces: &[&[u8]]| {
        let (mut parser, mut items): (_, Vec<SseItem>) = (SseParser::default(), Vec::new());
        let fed = pieces.iter().try_for_each(|piece| parser.feed(piece, |item| items.push(item)));
        fed.ok().map(|()| items)
    };
    let (one, other) = data.split_at(data.len() / 2);
    assert_eq!(items(&[one, other]), items(&[data]));
}

/// What the command line makes of a line is one record that a server can parse, or is refused by it; a line
/// of text always comes back.
pub(super) fn input_lines(data: &[u8]) {
    let additions = Additions { key: None, headers: vec![("a".to_owned(), "b".to_owned())] };
    for format in [LineFormat::Text, LineFormat::Json, LineFormat::Records] {
        for key in [KeyChoice::Given("source:1"), KeyChoice::Field("id")] {
            let mut record = Vec::new();
            if write_record(&mut record, format, data, &key, &additions).is_err() {
                continue;
            }
            assert!(!record.contains(&b'\n') || data.contains(&b'\n'));
            let parsed: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
            assert!(parsed.is_object() || format != LineFormat::Text);
            let taken = with_parser(None, |parser| parser.json_event(&record));
            if format == LineFormat::Text && data.len() < 1 << 19 && key == KeyChoice::Given("source:1") {
                let event = taken.unwrap().event;
                assert_eq!(event.payload.into_bytes(), data);
            }
        }
    }
}
