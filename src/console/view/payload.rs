//! Payloads as people read them: JSON as a tree, text as it is, bytes in hexadecimal. They come from outside
//! and may be hostile: nothing of them is ever markup.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use contracts::json::JsonMembers;
use maud::{Markup, html};
use serde_json::value::RawValue;

use super::{
    super::api::ApiRecord,
    text::{bytes, count, preview, shown_char},
};

/// Bytes of JSON that become a tree; longer ones are shown as text.
const TREE_BYTES: usize = 64 << 10;
/// Members of a list or an object that a tree shows.
const TREE_MEMBERS: usize = 1000;
/// Nested lists and objects that are open at first.
const OPEN_DEPTH: usize = 2;
/// Characters of a text that are shown.
const TEXT_CHARS: usize = 256 << 10;
/// Bytes that are shown in hexadecimal.
const HEX_BYTES: usize = 16 << 10;
/// Bytes of a line in hexadecimal.
const LINE_BYTES: usize = 16;

/// What came as a payload.
enum SeenPayload<'a> {
    /// A JSON text.
    Json(&'a RawValue),
    /// A string.
    Text(String),
    /// Other bytes.
    Bytes(Vec<u8>),
    /// Nothing: the event was erased.
    Erased,
}

impl<'a> SeenPayload<'a> {
    fn of(record: &'a ApiRecord) -> Self {
        match (&record.payload, &record.payload_base64) {
            _ if record.erased => Self::Erased,
            (Some(json), _) if json.get().starts_with('"') => {
                serde_json::from_str(json.get()).map_or(Self::Json(json), Self::Text)
            }
            (Some(json), _) => Self::Json(json),
            (None, Some(base64)) => Self::Bytes(STANDARD.decode(base64).unwrap_or_default()),
            // `null` is read as nothing.
            (None, None) => Self::Text("null".to_owned()),
        }
    }
}

/// What kind of payload it is, and how long.
pub(in crate::console) fn kind(record: &ApiRecord) -> String {
    match SeenPayload::of(record) {
        SeenPayload::Json(json) => format!("JSON, {}", bytes(json.get().len() as u64)),
        SeenPayload::Text(_) if record.payload.is_none() => "JSON, 4 B".to_owned(),
        SeenPayload::Text(text) => format!("text, {}", bytes(text.len() as u64)),
        SeenPayload::Bytes(raw) => format!("bytes, {}", bytes(raw.len() as u64)),
        SeenPayload::Erased => "erased".to_owned(),
    }
}

/// The beginning of a payload on one line.
pub(in crate::console) fn line(record: &ApiRecord, most: usize) -> String {
    match SeenPayload::of(record) {
        SeenPayload::Json(json) => preview(json.get(), most),
        SeenPayload::Text(text) => preview(&text, most),
        SeenPayload::Bytes(raw) => {
            let mut hex = String::new();
            for byte in raw.iter().take(most / 3) {
                _ = write!(hex, "{byte:02x} ");
            }
            if raw.len() > most / 3 { hex + "…" } else { hex.trim_end().to_owned() }
        }
        SeenPayload::Erased => "erased".to_owned(),
    }
}

/// A whole payload.
pub(in crate::console) fn whole(record: &ApiRecord) -> Markup {
    match SeenPayload::of(record) {
        SeenPayload::Json(json) if json.get().len() <= TREE_BYTES => {
            html! { div.tree { (tree(None, json, 0)) } }
        }
        SeenPayload::Json(json) => text(json.get()),
        SeenPayload::Text(plain) => text(&plain),
        SeenPayload::Bytes(raw) => hex(&raw),
        SeenPayload::Erased => html! { p.muted { "It was erased: its place and its time are left." } },
    }
}

fn text(plain: &str) -> Markup {
    let shown: String = plain
        .chars()
        .take(TEXT_CHARS)
        .map(|character| if matches!(character, '\n' | '\t') { character } else { shown_char(character) })
        .collect();
    html! {
        pre.payload tabindex="0" role="group" aria-label="Payload" { (shown) }
        @if plain.chars().nth(TEXT_CHARS).is_some() {
            p.muted { "Only the beginning is shown: it has " (bytes(plain.len() as u64)) "." }
        }
    }
}

/// Lines of bytes in hexadecimal, each with its place and its ASCII characters.
fn hex(raw: &[u8]) -> Markup {
    let mut lines = String::new();
    for (number, line) in raw.chunks(LINE_BYTES).take(HEX_BYTES / LINE_BYTES).enumerate() {
        _ = write!(lines, "{:08x}  ", number * LINE_BYTES);
        for place in 0..LINE_BYTES {
            _ = match line.get(place) {
                Some(byte) => write!(lines, "{byte:02x} "),
                None => write!(lines, "   "),
            };
        }
        lines.push(' ');
        let shown =
            |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        lines.extend(line.iter().map(shown));
        lines.push('\n');
    }
    html! {
        pre.payload.hex tabindex="0" role="group" aria-label="Payload in hexadecimal" { (lines) }
        @if raw.len() > HEX_BYTES {
            p.muted { "Only the beginning is shown: it has " (bytes(raw.len() as u64)) "." }
        }
    }
}

/// A value behind its name, with what is in it below it. Numbers are shown as they came, whatever their size.
fn tree(name: Option<&str>, json: &RawValue, depth: usize) -> Markup {
    let plain = json.get().trim();
    match plain.as_bytes().first() {
        Some(b'{') => match serde_json::from_str(plain) {
            Ok(JsonMembers(members)) => nested(name, ["{", "}"], depth, named(members)),
            Err(_) => leaf(name, "other", plain),
        },
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(plain) {
            Ok(values) => {
                let numbered = values.into_iter().enumerate();
                let members = numbered.map(|(place, value)| (place.to_string(), value)).collect();
                nested(name, ["[", "]"], depth, members)
            }
            Err(_) => leaf(name, "other", plain),
        },
        Some(b'"') => leaf(name, "text", plain),
        Some(b't' | b'f' | b'n') => leaf(name, "word", plain),
        _ => leaf(name, "number", plain),
    }
}

fn named(members: Vec<(String, &RawValue)>) -> Vec<(String, &RawValue)> {
    members.into_iter().map(|(name, value)| (preview(&name, 200), value)).collect()
}

fn label(name: Option<&str>) -> Markup {
    html! { @if let Some(name) = name { span.name { (name) } ": " } }
}

fn leaf(name: Option<&str>, class: &str, plain: &str) -> Markup {
    // As it was sent, but for what would hide or turn it around.
    let shown: String = plain.chars().map(shown_char).collect();
    html! { (label(name)) span class=(class) { (shown) } }
}

fn nested(
    name: Option<&str>,
    [open, close]: [&str; 2],
    depth: usize,
    members: Vec<(String, &RawValue)>,
) -> Markup {
    if members.is_empty() {
        return html! { (label(name)) span.brace { (open) (close) } };
    }
    let number = members.len();
    html! {
        details open[depth < OPEN_DEPTH] {
            summary {
                (label(name))
                span.brace { (open) } span.muted { (count(number as u64)) } span.brace { (close) }
            }
            ul {
                @for (name, value) in members.into_iter().take(TREE_MEMBERS) {
                    li { (tree(Some(name.as_str()), value, depth + 1)) }
                }
                @if number > TREE_MEMBERS { li.muted { "and more" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(payload: &str) -> ApiRecord {
        let text = format!("{{{payload},\"timestamp_ms\":1,\"partition\":0,\"offset\":7}}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn json_is_a_tree_with_numbers_as_they_came() {
        let record = record(r#""payload":{"a":[1,12345678901234567890123],"b":{},"a":"x<y"}"#);
        let shown = whole(&record).into_string();
        assert!(shown.contains("12345678901234567890123") && shown.contains("x&lt;y"), "{shown}");
        assert_eq!(shown.matches("<span class=\"name\">a</span>").count(), 2, "{shown}");
        let list = "<summary><span class=\"name\">a</span>: <span class=\"brace\">[</span>";
        assert!(shown.contains(list), "a name stands on the line of what it names: {shown}");
        assert_eq!(kind(&record), "JSON, 50 B");
    }

    #[test]
    fn bytes_are_hexadecimal_beside_their_characters() {
        let record = record(r#""payload_base64":"ADxzY3JpcHQ+/w==""#);
        let shown = whole(&record).into_string();
        let line = "00000000  00 3c 73 63 72 69 70 74 3e ff                    .&lt;script&gt;.";
        assert!(shown.contains(line), "{shown}");
        assert_eq!(super::line(&record, 300), "00 3c 73 63 72 69 70 74 3e ff");
    }

    #[test]
    fn null_and_text_are_shown_too() {
        assert_eq!((line(&record(r#""payload":null"#), 9), kind(&record(r#""payload":null"#))).0, "null");
        assert_eq!(line(&record(r#""payload":"a\nb""#), 9), "a b");
        assert!(whole(&record(r#""payload":"a\nb""#)).into_string().contains("a\nb"));
        let erased = record(r#""payload":null,"erased":true"#);
        assert_eq!((line(&erased, 9), kind(&erased)), ("erased".to_owned(), "erased".to_owned()));
        assert!(whole(&erased).into_string().contains("was erased"));
    }

    proptest! {
        #[test]
        fn nothing_of_a_payload_becomes_markup(text in "[<>&\"'a\\PC]{0,20}", name in "[<>&\"'a]{0,9}") {
            let json = serde_json::json!({ name: [text.clone()] }).to_string();
            for payload in [json, serde_json::Value::from(text).to_string()] {
                let record = record(&format!("\"payload\":{payload}"));
                for shown in [whole(&record), html! { (line(&record, 300)) }] {
                    let shown = shown.into_string();
                    let ours = ["div", "/div", "details", "/details", "summary", "/summary", "span", "/span",
                                "ul", "/ul", "li", "/li", "pre", "/pre"];
                    for tag in shown.split('<').skip(1) {
                        let name = tag.split(['>', ' ']).next().unwrap_or_default();
                        prop_assert!(ours.contains(&name), "{}", shown);
                    }
                }
            }
        }
    }
}
