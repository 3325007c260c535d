//! A payload and its two JSON shapes. What comes out is what went in.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json::{self, MAX_JSON_DEPTH, ValidJson};

/// How a JSON reader is shown the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// UTF-8 text, shown as a JSON string.
    Text,
    /// The text of one JSON value, shown as that value.
    Json,
    /// Any bytes, shown in base64.
    Bytes,
    /// Erased: nothing is left to show.
    Erased,
}

/// The bytes of an event and how they are shown. By construction `Text` and `Json` are UTF-8 and `Json` is
/// one JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    kind: PayloadKind,
    bytes: Bytes,
}

/// Why bytes cannot be a payload of the kind asked for.
#[derive(Debug, thiserror::Error)]
pub enum BadPayload {
    /// Neither or both of the fields were given.
    #[error("give exactly one of `payload` and `payload_base64`")]
    NotExactlyOne,
    /// The base64 text does not decode.
    #[error("`payload_base64` is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The string or value is not JSON, or not UTF-8.
    #[error("`payload` is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The bytes are said to be text and are not UTF-8.
    #[error("the payload is not UTF-8: {0}")]
    Utf8(#[from] std::str::Utf8Error),
    /// Containers nest deeper than [`MAX_JSON_DEPTH`].
    #[error("`payload` nests deeper than {MAX_JSON_DEPTH}")]
    TooDeep,
    /// Half of a character: no text can hold it, and many readers reject everything around it.
    #[error("`payload` has the lone surrogate {0}: it is half of a character")]
    LoneSurrogate(String),
}

impl Payload {
    /// UTF-8 text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: PayloadKind::Text, bytes: Bytes::from(text.into()) }
    }

    /// What is left of an erased payload: the hash of the event's idempotency key, if it had one, so that a
    /// retry is still known.
    pub fn erased(key_hash: &[u8]) -> Self {
        Self { kind: PayloadKind::Erased, bytes: Bytes::copy_from_slice(key_hash) }
    }

    /// Bytes of unknown kind: text if they are UTF-8.
    pub fn guess(bytes: Bytes) -> Self {
        let kind = if std::str::from_utf8(&bytes).is_ok() { PayloadKind::Text } else { PayloadKind::Bytes };
        Self { kind, bytes }
    }

    /// Bytes that their sender says are of `kind`.
    ///
    /// # Errors
    /// [`BadPayload`] if they are not.
    pub fn new(kind: PayloadKind, bytes: Bytes) -> Result<Self, BadPayload> {
        match kind {
            PayloadKind::Bytes | PayloadKind::Erased => {}
            PayloadKind::Text => {
                std::str::from_utf8(&bytes)?;
            }
            PayloadKind::Json if json::is_plain(&bytes) => {}
            PayloadKind::Json => {
                let value: &RawValue = serde_json::from_slice(&bytes)?;
                check(value.get())?;
            }
        }
        Ok(Self { kind, bytes })
    }

    /// Bytes that were checked when they were stored, and whose checksum has been verified since.
    ///
    /// # Errors
    /// [`BadPayload`] if text is not UTF-8: a reader is never handed an invalid string.
    pub fn stored(kind: PayloadKind, bytes: Bytes) -> Result<Self, BadPayload> {
        // Most payloads are ASCII, which is quicker to see.
        if matches!(kind, PayloadKind::Text | PayloadKind::Json) && !bytes.is_ascii() {
            std::str::from_utf8(&bytes)?;
        }
        Ok(Self { kind, bytes })
    }

    /// Reads the JSON fields `payload` and `payload_base64`.
    ///
    /// # Errors
    /// [`BadPayload`] unless exactly one is there and it decodes.
    pub fn from_json(payload: Option<&RawValue>, base64: Option<&str>) -> Result<Self, BadPayload> {
        match (payload, base64) {
            (Some(value), None) if value.get().starts_with('"') => {
                check(value.get())?;
                let text: String = serde_json::from_str(value.get())?;
                Ok(Self::text(text))
            }
            (Some(value), None) => {
                check(value.get())?;
                let bytes = Bytes::copy_from_slice(value.get().as_bytes());
                Ok(Self { kind: PayloadKind::Json, bytes })
            }
            (None, Some(text)) => Ok(Self { kind: PayloadKind::Bytes, bytes: STANDARD.decode(text)?.into() }),
            _ => Err(BadPayload::NotExactlyOne),
        }
    }

    /// The payload that a scanned value makes. It is not checked again.
    pub fn scanned(value: ValidJson<'_>) -> Self {
        match value.string() {
            Some(text) => Self { kind: PayloadKind::Text, bytes: Bytes::copy_from_slice(&text) },
            None => Self { kind: PayloadKind::Json, bytes: Bytes::copy_from_slice(value.text()) },
        }
    }

    /// Appends the field that shows it, `"payload":...` or `"payload_base64":"..."`, on one line.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self.kind {
            PayloadKind::Text => {
                out.extend_from_slice(b"\"payload\":");
                // It was checked when the payload was made.
                write_utf8(out, &self.bytes);
            }
            PayloadKind::Json => {
                out.extend_from_slice(b"\"payload\":");
                let start = out.len();
                out.extend_from_slice(&self.bytes);
                // Between tokens a line break means what a space means; inside strings JSON allows none.
                for place in memchr::memchr2_iter(b'\n', b'\r', &self.bytes) {
                    out[start + place] = b' ';
                }
            }
            PayloadKind::Bytes => self.write_base64(out),
            PayloadKind::Erased => out.extend_from_slice(b"\"payload\":null,\"erased\":true"),
        }
    }

    /// Appends `"payload_base64":"..."`, whatever the kind.
    pub fn write_base64(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"payload_base64\":\"");
        let start = out.len();
        out.resize(start + self.bytes.len().div_ceil(3) * 4, 0);
        let Ok(length) = STANDARD.encode_slice(&self.bytes, &mut out[start..]) else {
            unreachable!("three bytes are four letters");
        };
        out.truncate(start + length);
        out.push(b'"');
    }

    /// Whether reading back what [`Payload::write_json`] writes gives the same payload. JSON text that spans
    /// lines or has space around it is shown as its value, but not byte for byte; and a JSON value that is a
    /// string reads back as text.
    pub fn reads_back(&self) -> bool {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b'"');
        self.kind != PayloadKind::Json
            || !(edge(self.bytes.first())
                || edge(self.bytes.last())
                || memchr::memchr2(b'\n', b'\r', &self.bytes).is_some())
    }

    /// How it is shown.
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The bytes as they were sent; what is left of them if they were erased.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Copies its bytes, so that the buffer they were read from can be freed.
    pub fn detach(&mut self) {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
    }

    /// The bytes alone.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Deserializes the field `payload`: one that is there is `Some`, even if it is `null`, which is a payload
/// too.
///
/// # Errors
/// The deserializer's.
pub fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Appends `text` as a JSON string.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    write_utf8(out, text.as_bytes());
}

/// The same of bytes that are UTF-8.
fn write_utf8(out: &mut Vec<u8>, mut rest: &[u8]) {
    out.push(b'"');
    while let [byte, behind @ ..] = json::special(rest) {
        out.extend_from_slice(&rest[..rest.len() - behind.len() - 1]);
        write_escape(out, *byte);
        rest = behind;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends a byte that cannot stand in a string by itself.
fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 0xF)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', letter]);
}

/// Appends `before`, then the number.
pub fn write_json_number(out: &mut Vec<u8>, before: &str, number: impl itoa::Integer) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Checks valid JSON for what other readers could not read: containers that nest too deep, and halves of
/// characters.
fn check(json: &str) -> Result<(), BadPayload> {
    let bytes = json.as_bytes();
    let (mut depth, mut in_string, mut at) = (0usize, false, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at = escape(json, at)?,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(BadPayload::TooDeep);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Skips an escape in a string, whose letter is at `at`; returns where it ends.
fn escape(json: &str, at: usize) -> Result<usize, BadPayload> {
    match unit(json, at) {
        Some(0xD800..=0xDBFF)
            if json[at + 5..].starts_with('\\') && matches!(unit(json, at + 6), Some(0xDC00..=0xDFFF)) =>
        {
            Ok(at + 11)
        }
        Some(0xD800..=0xDFFF) => Err(BadPayload::LoneSurrogate(format!("\\{}", &json[at..at + 5]))),
        Some(_) => Ok(at + 5),
        None => Ok(at + 1),
    }
}

/// The UTF-16 unit of an escape `u....` at `at`; `None` for another one.
fn unit(json: &str, at: usize) -> Option<u16> {
    u16::from_str_radix(json.get(at..at + 5)?.strip_prefix('u')?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn json_keeps_its_bytes_and_shows_on_one_line() {
        let payload = Payload::from_json(Some(&raw("{\"a\" :\n 1.0}")), None).unwrap();
        assert_eq!(payload.bytes().as_ref(), b"{\"a\" :\n 1.0}");
        assert!(!payload.reads_back());
        let mut out = Vec::new();
        payload.write_json(&mut out);
        assert_eq!(out, b"\"payload\":{\"a\" :  1.0}");
    }

    #[test]
    fn exactly_one_field() {
        assert!(matches!(Payload::from_json(None, None), Err(BadPayload::NotExactlyOne)));
        assert!(matches!(Payload::from_json(Some(&raw("1")), Some("AA==")), Err(BadPayload::NotExactlyOne)));
        assert!(matches!(Payload::from_json(None, Some("?")), Err(BadPayload::Base64(_))));
    }

    #[test]
    fn depth_counts_containers_outside_strings() {
        assert!(check(r#"[{"[[[":"\"[["}]"#).is_ok());
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Payload::from_json(Some(&raw(&nested(128))), None).is_ok());
        assert!(matches!(Payload::from_json(Some(&raw(&nested(129))), None), Err(BadPayload::TooDeep)));
        assert!(Payload::from_json(Some(&raw(&format!("[\"{}\"]", "[".repeat(200)))), None).is_ok());
    }

    #[test]
    fn halves_of_characters_are_refused_wherever_they_stand() {
        for half in [
            r#""\ud83d""#,
            r#""a\uDC00""#,
            r#"{"\udc00k":1}"#,
            r#"[["\ud83d\ud83d\ude00"]]"#,
            r#"["\ud83d\n"]"#,
            r#"["\ude00\ud83d"]"#,
            r#"["\ud83dx"]"#,
            r#"["\\\ud83d"]"#,
        ] {
            let found = Payload::from_json(Some(&raw(half)), None);
            assert!(matches!(found, Err(BadPayload::LoneSurrogate(_))), "{half}: {found:?}");
            assert!(
                half.starts_with('"')
                    || Payload::new(PayloadKind::Json, Bytes::from(half.to_owned())).is_err(),
                "{half}"
            );
        }
        for whole in [
            r#""\ud83d\ude00""#,
            r#"{"\uD83D\uDE00":"\u00e9\u0000"}"#,
            r#"["\\ud83d"]"#,
            r#"["\"\\\"ud83d"]"#,
        ] {
            assert!(Payload::from_json(Some(&raw(whole)), None).is_ok(), "{whole}");
        }
    }

    proptest! {
        #[test]
        fn strings_are_written_as_serde_writes_them(
            text in prop_oneof![any::<String>(), "[ -~\0-\x1f\x7f]{0,80}"]
        ) {
            let mut out = b"before".to_vec();
            write_json_string(&mut out, &text);
            prop_assert_eq!(&out[..6], b"before");
            prop_assert_eq!(&out[6..], serde_json::to_vec(&text).unwrap());
        }

        #[test]
        fn base64_is_written_as_the_library_writes_it(bytes: Vec<u8>) {
            let mut out = b"before".to_vec();
            Payload::new(PayloadKind::Bytes, bytes.clone().into()).unwrap().write_json(&mut out);
            let expected = format!("before\"payload_base64\":\"{}\"", STANDARD.encode(bytes));
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }

        #[test]
        fn stored_text_is_what_utf8_is(bytes: Vec<u8>, text: String) {
            let stored = |bytes: &[u8]| Payload::stored(PayloadKind::Text, Bytes::copy_from_slice(bytes));
            let is_taken = |bytes: &[u8]| stored(bytes).is_ok();
            prop_assert_eq!(is_taken(&bytes), std::str::from_utf8(&bytes).is_ok());
            prop_assert!(is_taken(text.as_bytes()));
        }
    }
}
