//! Bodies that are not records: the body, one of its lines or one of its elements is the payload, and what
//! else an event has comes from the request.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Charged, Headers, NewEvent, RecordParser, SentEvent, bad_payload, too_large, too_many_headers};
use crate::http::{
    code::Code,
    error::Problem,
    json_body::{self, bad_json},
    limits::Limits,
    media::MediaKind,
    memory::Share,
    times,
};
use contracts::{
    clock::TimestampMs,
    payload::{Payload, PayloadKind},
    settings::{BrokenRules, Section},
};

const KEY: HeaderName = HeaderName::from_static("zombi-key");
const TIMESTAMP: HeaderName = HeaderName::from_static("zombi-timestamp");
/// What the names of headers begin with that become headers of the event.
const HEADER_PREFIX: &str = "zombi-header-";
/// Headers that say who sends a request: whoever reads the events must not have them.
const CREDENTIALS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// What is kept of requests with raw bodies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RawSettings {
    /// Headers of a request to `/tables/{table}/raw` that its events keep, separated by commas. Those that
    /// say who sends it, such as `authorization`, cannot be kept.
    pub keep_headers: Vec<String>,
}

impl Default for RawSettings {
    fn default() -> Self {
        Self { keep_headers: vec!["content-type".to_owned()] }
    }
}

impl Section for RawSettings {
    const NAME: &'static str = "raw";

    fn check(&self, broken: &mut BrokenRules) {
        for name in &self.keep_headers {
            let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok();
            let is_credential = CREDENTIALS.iter().any(|known| known.eq_ignore_ascii_case(name));
            broken.unless(is_name, format!("raw.keep_headers has {name:?}, which is no header's name"));
            broken.unless(!is_credential, format!("raw.keep_headers has {name:?}, which is a credential"));
        }
    }
}

/// What events of raw bodies have besides their payloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawEnvelope {
    key: Option<String>,
    timestamp_ms: Option<TimestampMs>,
    headers: Headers,
}

impl RawEnvelope {
    /// The name of the first header of a request that says something of the event in it, if there is one.
    pub fn first_of(headers: &HeaderMap) -> Option<&HeaderName> {
        let is_of_event = |name: &&HeaderName| {
            **name == KEY || **name == TIMESTAMP || name.as_str().starts_with(HEADER_PREFIX)
        };
        headers.keys().find(is_of_event)
    }

    /// Reads the headers of a request.
    ///
    /// # Errors
    /// 400 if one has the wrong form or is given twice; 413 if there are too many that become an event's.
    pub fn of(headers: &HeaderMap, settings: &RawSettings, limits: &Limits) -> Result<Self, Problem> {
        let key = only(headers, &KEY)?;
        let timestamp = only(headers, &TIMESTAMP)?;
        let timestamp_ms = timestamp.map(|text| {
            let wrong = |why| Problem::new(Code::BadRequest, format!("{TIMESTAMP} {text:?}: {why}"));
            times::moment(&text).map_err(wrong)
        });
        let mut found = Headers::new();
        for (name, value) in headers {
            let Some(own) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            if own.is_empty() || found.insert(own.to_owned(), text(name.as_str(), value)?).is_some() {
                let detail = format!("{name} names no header, or is given twice");
                return Err(Problem::new(Code::BadRequest, detail));
            }
        }
        for name in settings.keep_headers.iter().map(|name| name.to_ascii_lowercase()) {
            let values = headers.get_all(&name).iter().map(|value| text(&name, value));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            if !values.is_empty() {
                found.entry(name).or_insert_with(|| values.join(", "));
            }
        }
        if found.len() > limits.record_headers {
            return Err(too_many_headers(limits));
        }
        Ok(Self { key, timestamp_ms: timestamp_ms.transpose()?, headers: found })
    }

    /// Adds what the query says. Header and query may not differ.
    ///
    /// # Errors
    /// 400 otherwise, or if the time has the wrong form.
    pub fn with_query(mut self, key: Option<String>, timestamp: Option<&str>) -> Result<Self, Problem> {
        let timestamp_ms = timestamp.map(|text| {
            let wrong = |why| {
                let detail = format!("timestamp={text:?}: {why}{}", times::lost_plus(text));
                Problem::new(Code::BadQuery, detail)
            };
            times::moment(text).map_err(wrong)
        });
        self.key = either(Code::BadQuery, "key", key, self.key)?;
        self.timestamp_ms =
            either(Code::BadQuery, "timestamp", timestamp_ms.transpose()?, self.timestamp_ms)?;
        Ok(self)
    }
}

/// What query and header say, which must not differ; `name` is the parameter's.
///
/// # Errors
/// 400 with `code` if they do.
pub fn either<T: PartialEq>(
    code: Code,
    name: &str,
    query: Option<T>,
    header: Option<T>,
) -> Result<Option<T>, Problem> {
    match (query, header) {
        (Some(query), Some(header)) if query != header => {
            Err(Problem::new(code, format!("{name} in the query and in a header differ")))
        }
        (query, header) => Ok(query.or(header)),
    }
}

/// The value of a header that may be given once.
fn only(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Code::BadRequest, format!("{name} is given twice")));
    }
    text(name.as_str(), value).map(Some)
}

fn text(name: &str, value: &HeaderValue) -> Result<String, Problem> {
    let text = std::str::from_utf8(value.as_bytes());
    let text = text.map_err(|error| Problem::new(Code::BadRequest, format!("{name} is not UTF-8: {error}")));
    text.map(str::to_owned)
}

impl RecordParser<'_> {
    /// The event whose payload is a whole body of the kind that its content type says.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn raw_event(&self, kind: MediaKind, body: Bytes, raw: &RawEnvelope) -> Result<NewEvent, Problem> {
        self.check_size(body.len())?;
        let payload = match kind {
            MediaKind::Json => json(&body)?,
            MediaKind::Text => Payload::guess(body),
            MediaKind::Bytes | MediaKind::Lines => {
                Payload::new(PayloadKind::Bytes, body).map_err(bad_payload)?
            }
        };
        self.raw(payload, raw, None)
    }

    /// Refuses what no event could have besides its payload, before that has come: the client may hold it back.
    ///
    /// # Errors
    /// 422.
    pub fn check_raw(&self, raw: &RawEnvelope) -> Result<(), Problem> {
        let none = Payload::new(PayloadKind::Bytes, Bytes::new()).map_err(bad_payload)?;
        self.raw(none, raw, None).map(drop)
    }

    /// The event whose payload is a line, at `place` among several.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn raw_line(&self, line: &[u8], raw: &RawEnvelope, place: u64) -> Result<NewEvent, Problem> {
        self.check_size(line.len())?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let payload = Payload::new(PayloadKind::Json, Bytes::copy_from_slice(line)).map_err(bad_payload)?;
        self.raw(payload, raw, Some(place))
    }

    /// The events whose payloads are the elements of an array. `share` grows with them. There may be none.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the element; 503 without memory.
    pub fn raw_elements(
        &self,
        body: &[u8],
        raw: &RawEnvelope,
        share: &mut Share,
    ) -> Result<Vec<NewEvent>, Problem> {
        let charged = Charged::new(share, self.limits);
        let array: &RawValue = serde_json::from_slice(json_body::without_mark(body)?).map_err(bad_json)?;
        self.event_list(array, "an array, whose elements become events", charged, |element, index| {
            self.raw_line(element.get().as_bytes(), raw, index as u64)
        })
    }

    fn raw(&self, payload: Payload, raw: &RawEnvelope, place: Option<u64>) -> Result<NewEvent, Problem> {
        self.event(SentEvent {
            payload,
            partition: None,
            timestamp_ms: raw.timestamp_ms.map(i128::from),
            key: raw.key.clone(),
            idempotency_key: self.key_at(place),
            headers: raw.headers.clone(),
        })
    }

    /// Refuses a payload that no event may have, before it is looked at.
    pub fn check_size(&self, bytes: usize) -> Result<(), Problem> {
        if bytes > self.limits.record_bytes { Err(too_large(bytes, self.limits)) } else { Ok(()) }
    }
}

/// A JSON payload, byte for byte, but for a byte order mark.
pub(super) fn json(body: &Bytes) -> Result<Payload, Problem> {
    let text = body.slice_ref(json_body::without_mark(body)?);
    Payload::new(PayloadKind::Json, text).map_err(bad_payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn of(pairs: &[(&'static str, &'static str)]) -> Result<RawEnvelope, Problem> {
        RawEnvelope::of(&headers(pairs), &RawSettings::default(), &Limits::DEFAULT)
    }

    #[test]
    fn headers_of_the_request_become_the_events() {
        let found = of(&[
            ("zombi-key", "customer 7"),
            ("zombi-timestamp", "2018-04-05T17:31:00Z"),
            ("zombi-header-X-GitHub-Event", "push"),
            ("content-type", "application/json; charset=utf-8"),
            ("authorization", "Bearer secret"),
        ]);
        let expected = [("content-type", "application/json; charset=utf-8"), ("x-github-event", "push")];
        let expected = RawEnvelope {
            key: Some("customer 7".to_owned()),
            timestamp_ms: Some(1_522_949_460_000),
            headers: expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        assert_eq!(found.unwrap(), expected);
        // One that is named wins over one that is kept.
        let named = of(&[("zombi-header-content-type", "mine"), ("content-type", "text/plain")]).unwrap();
        assert_eq!(named.headers["content-type"], "mine");
        let kept = RawSettings { keep_headers: vec!["X-Forwarded-For".to_owned()] };
        let twice = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        let kept = RawEnvelope::of(&twice, &kept, &Limits::DEFAULT).unwrap();
        assert_eq!(kept.headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2");
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for pairs in [
            vec![("zombi-key", "a"), ("zombi-key", "a")],
            vec![("zombi-timestamp", "soon")],
            vec![("zombi-header-", "a")],
            vec![("zombi-header-a", "1"), ("Zombi-Header-A", "2")],
        ] {
            assert_eq!(of(&pairs).unwrap_err().code(), Code::BadRequest, "{pairs:?}");
        }
        let both = || of(&[("zombi-key", "a"), ("zombi-timestamp", "1000")]).unwrap();
        assert!(both().with_query(Some("a".to_owned()), Some("1970-01-01T00:00:01Z")).is_ok());
        for (key, timestamp) in [(Some("b"), None), (None, Some("1001")), (None, Some("soon"))] {
            let found = both().with_query(key.map(str::to_owned), timestamp);
            assert_eq!(found.unwrap_err().code(), Code::BadQuery, "{key:?} {timestamp:?}");
        }
        let few = Limits { record_headers: 1, ..Limits::DEFAULT };
        let many = headers(&[("zombi-header-a", "1"), ("zombi-header-b", "2")]);
        let refused = RawEnvelope::of(&many, &RawSettings::default(), &few).unwrap_err();
        assert_eq!(refused.code(), Code::TooManyHeaders);
    }

    #[test]
    fn credentials_cannot_be_kept() {
        for (name, rules) in [("x-request-id", 0), ("Authorization", 1), ("cookie", 1), ("a b", 1)] {
            let mut broken = BrokenRules::default();
            RawSettings { keep_headers: vec![name.to_owned()] }.check(&mut broken);
            assert_eq!(broken.into_lines().len(), rules, "{name}");
        }
    }

    fn parser(limits: &Limits) -> RecordParser<'_> {
        RecordParser::of_test(limits, Some("k"))
    }

    #[test]
    fn a_body_is_the_payload_of_its_kind() {
        let parser = parser(&Limits::DEFAULT);
        let raw = RawEnvelope::default();
        for (kind, body, is) in [
            (MediaKind::Json, b" {\"a\" : 1}\n".as_slice(), Some(PayloadKind::Json)),
            (MediaKind::Json, b"\"text\"", Some(PayloadKind::Json)),
            (MediaKind::Json, b"{", None),
            (MediaKind::Json, b"", None),
            (MediaKind::Json, b"\xff\xfe{\0}\0", None),
            (MediaKind::Text, b"text", Some(PayloadKind::Text)),
            (MediaKind::Text, b"\xff", Some(PayloadKind::Bytes)),
            (MediaKind::Bytes, b"text", Some(PayloadKind::Bytes)),
            (MediaKind::Bytes, b"", Some(PayloadKind::Bytes)),
        ] {
            let event = parser.raw_event(kind, Bytes::from_static(body), &raw).map(|new| new.event);
            let found =
                event.as_ref().ok().map(|event| (event.payload.kind(), event.payload.bytes().as_ref()));
            assert_eq!(found, is.map(|kind| (kind, body)), "{kind:?} {body:?}");
        }
        let marked = Bytes::from_static(b"\xef\xbb\xbf1");
        let event = parser.raw_event(MediaKind::Json, marked, &raw).unwrap().event;
        assert_eq!(event.payload.bytes().as_ref(), b"1");
    }

    #[test]
    fn elements_and_lines_have_their_place_in_the_idempotency_key() {
        let (limits, raw) = (Limits { bulk_records: 3, ..Limits::DEFAULT }, RawEnvelope::default());
        let parser = parser(&limits);
        let budget = crate::http::memory::Budget::new(1 << 20, 100, contracts::error::Overload::Memory);
        let elements = |text: &str| {
            let mut share = budget.receiving(&crate::http::connection::Connection::default());
            parser.raw_elements(text.as_bytes(), &raw, &mut share)
        };
        let found = elements("[1, {\"a\" : 2} ,\"x\"]").unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|new| (new.event.idempotency_key.as_ref().unwrap().as_str(), new.event.payload.bytes()))
            .collect();
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(found, [("k/0", &text("1")), ("k/1", &text("{\"a\" : 2}")), ("k/2", &text("\"x\""))]);
        assert!(elements("[]").unwrap().is_empty());
        for (text, code) in [
            ("{}", Code::BadJson),
            ("[1", Code::BadJson),
            ("[1]x", Code::BadJson),
            ("[1,\"\\ud83d\"]", Code::BadJson),
            ("[1,2,3,4]", Code::TooManyRecords),
        ] {
            assert_eq!(elements(text).unwrap_err().code(), code, "{text}");
        }
        let line = parser.raw_line(b"{\"a\":1}\r", &raw, 7).unwrap().event;
        assert_eq!(line.payload.bytes().as_ref(), b"{\"a\":1}");
        assert_eq!(line.idempotency_key.unwrap().as_str(), "k/7");
    }
}
