//! A line becomes the JSON of a record. What the line holds is kept byte for byte; what is added is what it
//! does not have. Whatever the server would refuse is left for the server to refuse.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use contracts::{json::JsonMembers, payload::write_json_string};
use serde::Deserialize;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// Text, or any bytes.
    Text,
    /// A JSON value: the payload.
    Json,
    /// A record.
    Records,
}

/// What events are given that do not have it.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// The key that chooses the partition.
    pub key: Option<String>,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// The idempotency key of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChoice<'a> {
    /// This one.
    Given(&'a str),
    /// The value of this field of its payload.
    Field(&'a str),
}

/// A line cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLine(String);

impl BadLine {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// Appends the record of a line, one JSON object.
///
/// # Errors
/// [`BadLine`] if it is no JSON where it should be, or does not have the field.
pub fn write_record(
    out: &mut Vec<u8>,
    format: LineFormat,
    line: &[u8],
    key: &KeyChoice<'_>,
    additions: &Additions,
) -> Result<(), BadLine> {
    let members = match format {
        LineFormat::Text => JsonMembers::default(),
        LineFormat::Json => JsonMembers(vec![("payload".to_owned(), json(line)?)]),
        LineFormat::Records => json(line)?,
    };
    let payload = match format {
        LineFormat::Text => line,
        LineFormat::Json | LineFormat::Records => {
            members.get("payload").map(|payload| payload.get().as_bytes()).unwrap_or_default()
        }
    };
    let own_key = members.get("idempotency_key").is_some();
    let idempotency_key = match key {
        _ if own_key => None,
        KeyChoice::Given(key) => Some(Cow::Borrowed(*key)),
        KeyChoice::Field(name) => Some(Cow::Owned(field(payload, name)?)),
    };
    let key = additions.key.as_deref().filter(|_| members.get("key").is_none());
    let headers = merged_headers(&members, additions)?;

    out.push(b'{');
    let mut object = ObjectWriter { out, has_members: false };
    if format == LineFormat::Text {
        match std::str::from_utf8(line) {
            Ok(text) => object.text("payload", text),
            Err(_) => object.text("payload_base64", &BASE64_STANDARD.encode(line)),
        }
    }
    let added = [
        ("idempotency_key", idempotency_key.is_some()),
        ("key", key.is_some()),
        ("headers", headers.is_some()),
    ];
    for (name, value) in &members.0 {
        // What is replaced was null, or is in the headers.
        if !added.iter().any(|(added, is_added)| *is_added && name == added) {
            object.raw(name, value.get());
        }
    }
    for (name, text) in [("idempotency_key", idempotency_key.as_deref()), ("key", key)] {
        if let Some(text) = text {
            object.text(name, text);
        }
    }
    if let Some(headers) = headers {
        object.raw("headers", &headers);
    }
    object.out.push(b'}');
    Ok(())
}

/// Whether a record, as `zombi read -o json` prints it, is of an erased event.
pub(super) fn is_erased(line: &[u8]) -> bool {
    // Most lines are not looked at twice.
    memchr::memmem::find(line, b"erased").is_some()
        && json::<JsonMembers<'_>>(line)
            .is_ok_and(|members| members.get("erased").is_some_and(|erased| erased.get() == "true"))
}

/// The headers of a record together with those that it does not have; none if it stays as it is.
fn merged_headers(members: &JsonMembers<'_>, additions: &Additions) -> Result<Option<String>, BadLine> {
    if additions.headers.is_empty() {
        return Ok(None);
    }
    let own: JsonMembers<'_> = match members.get("headers") {
        Some(headers) => json(headers.get().as_bytes()).map_err(|bad| BadLine(format!("headers: {bad}")))?,
        None => JsonMembers::default(),
    };
    let mut out = vec![b'{'];
    let mut object = ObjectWriter { out: &mut out, has_members: false };
    for (name, value) in &own.0 {
        object.raw(name, value.get());
    }
    for (name, value) in &additions.headers {
        if !own.0.iter().any(|(own, _)| own == name) {
            object.text(name, value);
        }
    }
    object.out.push(b'}');
    Ok(Some(String::from_utf8_lossy(&out).into_owned()))
}

/// The value of a field, as text.
pub(super) fn field(payload: &[u8], name: &str) -> Result<String, BadLine> {
    let missing = || BadLine(format!("there is no field {name:?} to make its idempotency key from"));
    let members: JsonMembers<'_> = json(payload).map_err(|_| missing())?;
    let value = members.get(name).ok_or_else(missing)?.get();
    match value.as_bytes().first() {
        Some(b'"') => serde_json::from_str(value).map_err(|_| missing()),
        Some(b'{' | b'[') => Err(BadLine(format!(
            "the field {name:?} is an object or an array: an idempotency key is made from a text or a number"
        ))),
        None => Err(missing()),
        Some(_) => Ok(value.to_owned()),
    }
}

fn json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, BadLine> {
    serde_json::from_slice(text).map_err(|error| BadLine(format!("bad_json: {error}")))
}

/// Writes the members of an object.
struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    has_members: bool,
}

impl ObjectWriter<'_> {
    fn name(&mut self, name: &str) {
        if self.has_members {
            self.out.push(b',');
        }
        self.has_members = true;
        write_json_string(self.out, name);
        self.out.push(b':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        write_json_string(self.out, text);
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.out.extend_from_slice(json.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn record(format: LineFormat, line: &str, key: KeyChoice<'_>) -> Result<String, String> {
        let mut out = Vec::new();
        let additions = Additions::default();
        write_record(&mut out, format, line.as_bytes(), &key, &additions).map_err(|bad| bad.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn lines_are_payloads_or_records() {
        let given = KeyChoice::Given("s:1");
        for (format, line, expected) in [
            (LineFormat::Text, "a \"b\"", r#"{"payload":"a \"b\"","idempotency_key":"s:1"}"#),
            (LineFormat::Text, "", r#"{"payload":"","idempotency_key":"s:1"}"#),
            (LineFormat::Json, r#" {"a": 1.0} "#, r#"{"payload":{"a": 1.0},"idempotency_key":"s:1"}"#),
            (LineFormat::Json, "null", r#"{"payload":null,"idempotency_key":"s:1"}"#),
            (
                LineFormat::Records,
                r#"{"payload": 1.50, "offset":7}"#,
                r#"{"payload":1.50,"offset":7,"idempotency_key":"s:1"}"#,
            ),
            (
                LineFormat::Records,
                r#"{"payload":1,"idempotency_key":"own"}"#,
                r#"{"payload":1,"idempotency_key":"own"}"#,
            ),
            (
                LineFormat::Records,
                r#"{"idempotency_key":null,"payload":1}"#,
                r#"{"payload":1,"idempotency_key":"s:1"}"#,
            ),
            // Refused by the server, and so not made right without a word.
            (
                LineFormat::Records,
                r#"{"payload":1,"payload":2}"#,
                r#"{"payload":1,"payload":2,"idempotency_key":"s:1"}"#,
            ),
        ] {
            assert_eq!(record(format, line, given).as_deref(), Ok(expected), "{line}");
        }
        let mut out = Vec::new();
        write_record(&mut out, LineFormat::Text, b"\xff", &given, &Additions::default()).unwrap();
        assert_eq!(out, br#"{"payload_base64":"/w==","idempotency_key":"s:1"}"#);
    }

    #[test]
    fn no_line_breaks_out_of_its_record() {
        let given = KeyChoice::Given("s:1");
        for (format, line) in [
            (LineFormat::Json, r#"1},{"payload":2"#),
            (LineFormat::Json, ""),
            (LineFormat::Json, "{"),
            (LineFormat::Records, "[1]"),
            (LineFormat::Records, "7"),
            (LineFormat::Records, r#"{"payload":1} {"payload":2}"#),
        ] {
            assert!(record(format, line, given).unwrap_err().starts_with("bad_json: "), "{line}");
        }
    }

    #[test]
    fn what_is_added_does_not_replace() {
        let additions = Additions {
            key: Some("k".to_owned()),
            headers: vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
        };
        let record = |line: &str| {
            let mut out = Vec::new();
            let key = KeyChoice::Given("i");
            write_record(&mut out, LineFormat::Records, line.as_bytes(), &key, &additions).map(|()| out)
        };
        for (line, expected) in [
            (
                r#"{"payload":1}"#,
                r#"{"payload":1,"idempotency_key":"i","key":"k","headers":{"a":"1","b":"2"}}"#,
            ),
            (
                r#"{"headers":{"b":"own","c":"3"},"payload":1,"key":"own"}"#,
                r#"{"payload":1,"key":"own","idempotency_key":"i","headers":{"b":"own","c":"3","a":"1"}}"#,
            ),
            (
                r#"{"payload":1,"headers":null,"key":null}"#,
                r#"{"payload":1,"idempotency_key":"i","key":"k","headers":{"a":"1","b":"2"}}"#,
            ),
        ] {
            assert_eq!(String::from_utf8(record(line).unwrap()).unwrap(), expected, "{line}");
        }
        assert!(record(r#"{"payload":1,"headers":7}"#).unwrap_err().to_string().starts_with("headers: "));
    }

    #[test]
    fn a_field_becomes_the_key() {
        let id = KeyChoice::Field("id");
        for (format, line, key) in [
            (LineFormat::Json, r#"{"id":"a\u00e9","n":1}"#, "aé"),
            (LineFormat::Json, r#"{"n":1,"id":7}"#, "7"),
            (LineFormat::Text, r#"{"id":true}"#, "true"),
            (LineFormat::Records, r#"{"payload":{"id":1.5},"partition":2}"#, "1.5"),
            (LineFormat::Records, r#"{"payload":{"id":1},"idempotency_key":"own"}"#, "own"),
            // The server says what is wrong with it.
            (LineFormat::Json, r#"{"id":""}"#, ""),
        ] {
            let record: Value = serde_json::from_str(&record(format, line, id).unwrap()).unwrap();
            assert_eq!(record["idempotency_key"], key, "{line}");
        }
        for (format, line) in [
            (LineFormat::Json, r#"{"n":1}"#),
            (LineFormat::Json, r#"{"id":null}"#),
            (LineFormat::Json, "7"),
            (LineFormat::Text, "id=7"),
            (LineFormat::Records, r#"{"id":1}"#),
            (LineFormat::Records, r#"{"payload":"text"}"#),
        ] {
            let said = record(format, line, id).unwrap_err();
            assert!(said.contains("no field \"id\""), "{line}: {said}");
        }
        for line in [r#"{"id":{}}"#, r#"{"id":[1]}"#] {
            let said = record(LineFormat::Json, line, id).unwrap_err();
            assert!(said.contains("an object or an array"), "{line}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text: String, key: String) {
            let record = record(LineFormat::Text, &text, KeyChoice::Given(&key)).unwrap();
            let record: Value = serde_json::from_str(&record).unwrap();
            prop_assert_eq!(&record["payload"], &Value::from(text));
            prop_assert_eq!(&record["idempotency_key"], &Value::from(key));
        }
    }
}
