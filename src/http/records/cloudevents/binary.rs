//! Binary mode: attributes are headers, the body is the data.

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use percent_encoding::percent_decode;

use super::{Attributes, CloudEventHead, EventData, HEADER_PREFIX, bad};
use crate::http::{
    error::Problem,
    limits::Limits,
    records::{NewEvent, RecordParser},
};

impl CloudEventHead {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// 400 naming the attribute; 413 if there are too many of them or of their bytes.
    pub fn of_headers(headers: &HeaderMap, limits: &Limits) -> Result<Self, Problem> {
        let mut attributes = Attributes::new(limits);
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            if name == "datacontenttype" {
                return Err(bad(name, "in binary mode Content-Type says it"));
            }
            attributes.add(name, decode(value.as_bytes()).map_err(|why| bad(name, why))?)?;
        }
        if let Some(value) = headers.get(header::CONTENT_TYPE).filter(|value| !value.is_empty()) {
            let name = "datacontenttype";
            let text = std::str::from_utf8(value.as_bytes()).map_err(|error| bad(name, error))?;
            attributes.add(name, text.to_owned())?;
        }
        attributes.finish()
    }
}

impl RecordParser<'_> {
    /// The event of a CloudEvent in binary mode.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn binary_cloud_event(&self, head: CloudEventHead, body: Bytes) -> Result<NewEvent, Problem> {
        self.check_size(body.len())?;
        let has_data = !body.is_empty() || head.attributes.contains_key("datacontenttype");
        let data = if has_data { EventData::Bytes(body) } else { EventData::Missing };
        self.cloud_event(head, data)
    }
}

/// The value of an attribute in a header: a quoted string is undone, and then one round of percent-encoding.
/// A value that is not encoded is taken as it is.
///
/// # Errors
/// If it is not UTF-8.
fn decode(value: &[u8]) -> Result<String, String> {
    let unquoted = unquoted(value);
    let text = percent_decode(unquoted.as_deref().unwrap_or(value)).decode_utf8();
    text.map(Into::into).map_err(|error| format!("it is not UTF-8: {error}"))
}

/// What a quoted string says (RFC 9110 5.6.4); `None` if the whole value is not one.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let mut inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?.iter();
    let mut text = Vec::with_capacity(inside.len());
    while let Some(byte) = inside.next() {
        match byte {
            b'"' => return None,
            b'\\' => text.push(*inside.next()?),
            byte => text.push(*byte),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the HTTP binding demands it of senders.
    fn encode(text: &str) -> String {
        let encode = |byte: u8| match byte {
            b'"' | b'%' => format!("%{byte:02X}"),
            b'!'..=b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(encode).collect()
    }

    #[test]
    fn values_are_decoded_once_and_leniently() {
        for (value, text) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u{20ac} \u{1f600}"),
            ("Euro%20%e2%82%ac", "Euro \u{20ac}"),
            ("%41%42c", "ABc"),
            ("%2541", "%41"),
            ("100%", "100%"),
            ("5%2", "5%2"),
            ("%zz%2", "%zz%2"),
            ("Gr\u{f6}\u{df}e raw", "Gr\u{f6}\u{df}e raw"),
            ("\"quoted\"", "quoted"),
            ("\"a \\\"b\\\" \\\\ %20\"", "a \"b\" \\  "),
            ("\"", "\""),
            ("\"\"", ""),
            ("\"a\"b\"", "\"a\"b\""),
            ("\"a\\\"", "\"a\\\""),
            ("", ""),
        ] {
            assert_eq!(decode(value.as_bytes()).as_deref(), Ok(text), "{value}");
        }
        for wrong in [b"%C0%A0".as_slice(), b"%ff", b"\xff", b"%E2%82"] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_sender_encodes_comes_out(text: String) {
            prop_assert_eq!(decode(encode(&text).as_bytes()), Ok(text));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(value: Vec<u8>) {
            if let Ok(text) = decode(&value) {
                prop_assert_eq!(decode(encode(&text).as_bytes()), Ok(text));
            }
        }
    }
}
