//! CloudEvents 1.0 become events, whichever of the three modes of the HTTP binding they come in.
//!
//! Every attribute becomes a header of the event under its own name. `source` and `id` are its idempotency
//! key, `time` is its timestamp, and `partitionkey`, else `subject`, else `source` is its key. The kind of a
//! payload depends on its content type and bytes alone, so that one event is the same in all modes.

mod binary;
#[cfg(test)]
mod conformance;
mod described;
mod structured;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use self::described::CloudEventToWrite;
use super::{Headers, NewEvent, RecordParser, SentEvent, bad_payload, raw, too_large, too_many_headers};
use crate::http::{
    attributes::{self, CORE, DataKind, PARTITION_KEY, REQUIRED, VERSION, is_media_type},
    code::Code,
    error::Problem,
    extract,
    json_body::bad_json,
    limits::Limits,
    media, times,
};
use contracts::{
    hex::hex,
    payload::{Payload, PayloadKind},
};

/// What all media types of CloudEvents begin with.
const MEDIA_TYPES: &[u8] = b"application/cloudevents";
/// What the names of the headers begin with that are attributes in binary mode.
const HEADER_PREFIX: &str = "ce-";
/// Characters of a wrong attribute's name that an error shows.
const SHOWN_NAME: usize = 80;

/// How CloudEvents are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudEventMode {
    /// Attributes are headers; the body is the data.
    Binary,
    /// The body is a JSON object; an array is taken too.
    Structured,
    /// The body is a JSON array.
    Batch,
}

impl CloudEventMode {
    /// The mode of a request; `None` if it sends no CloudEvents.
    ///
    /// # Errors
    /// 415 for another format than JSON; 400 if there are attributes and no `ce-specversion`.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).map_or(b"".as_slice(), |value| value.as_bytes());
        let start = content_type.get(..MEDIA_TYPES.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPES)) {
            let text = String::from_utf8_lossy(content_type);
            return match media::essence(&text).as_str() {
                "application/cloudevents+json" => Ok(Some(Self::Structured)),
                "application/cloudevents-batch+json" => Ok(Some(Self::Batch)),
                other => Err(extract::unsupported(format!(
                    "{other} is not supported: send application/cloudevents+json, \
                     application/cloudevents-batch+json, or attributes as ce- headers"
                ))),
            };
        }
        if !headers.keys().any(|name| name.as_str().starts_with(HEADER_PREFIX)) {
            return Ok(None);
        }
        let has = |name: &str| headers.contains_key(format!("{HEADER_PREFIX}{name}"));
        match REQUIRED.iter().find(|name| has(name)) {
            None => Ok(None),
            Some(_) if has("specversion") => Ok(Some(Self::Binary)),
            // Taken for something else it would lose its attributes without a word.
            Some(_) => Err(bad("specversion", "it is missing")),
        }
    }
}

/// The attributes of a CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEventHead {
    attributes: Headers,
}

/// Attributes as they are collected.
struct Attributes<'a> {
    limits: &'a Limits,
    all: Headers,
    bytes: usize,
}

impl<'a> Attributes<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self { limits, all: Headers::new(), bytes: 0 }
    }

    /// Adds an attribute: no more of them and of their bytes than an event may have.
    fn add(&mut self, name: &str, value: String) -> Result<(), Problem> {
        if !attributes::is_name(name) {
            return Err(bad(
                name,
                "attributes have names of lower-case letters and digits, and none is data",
            ));
        }
        if name == attributes::ERASED {
            return Err(bad(name, "the event was erased: there is nothing left of it to write"));
        }
        if attributes::is_of_reads(name) {
            return Ok(());
        }
        if self.all.len() == self.limits.record_headers {
            return Err(too_many_headers(self.limits));
        }
        self.bytes += name.len() + value.len();
        if self.bytes > self.limits.record_bytes {
            return Err(too_large(self.bytes, self.limits));
        }
        match self.all.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(bad(name, "it is given twice")),
        }
    }

    /// Checks what can be checked of attributes without the data.
    fn finish(self) -> Result<CloudEventHead, Problem> {
        let attributes = self.all;
        for name in REQUIRED {
            match attributes.get(name).map(String::as_str) {
                None => return Err(bad(name, "it is missing")),
                Some("") => return Err(bad(name, "it is empty")),
                Some(_) => {}
            }
        }
        if attributes["specversion"] != VERSION {
            let detail = format!("{:.20} is not supported: send {VERSION}", attributes["specversion"]);
            return Err(bad("specversion", detail));
        }
        for name in CORE.into_iter().chain([PARTITION_KEY]) {
            if attributes.get(name).is_some_and(String::is_empty) {
                return Err(bad(name, "it is empty: leave it out"));
            }
        }
        if !attributes::is_uri_reference(&attributes["source"]) {
            return Err(bad("source", "it is neither a URI nor a path: encode what a URI cannot have"));
        }
        if attributes.get("dataschema").is_some_and(|schema| !attributes::is_uri(schema)) {
            return Err(bad("dataschema", "it is not a URI, which begins with a scheme"));
        }
        if attributes.get("datacontenttype").is_some_and(|content_type| !is_media_type(content_type)) {
            return Err(bad("datacontenttype", "it is not a media type such as application/json"));
        }
        Ok(CloudEventHead { attributes })
    }
}

/// What a CloudEvent says of its data.
enum EventData<'a> {
    /// There is none.
    Missing,
    /// A JSON value that is the data, or a text that is.
    Value(&'a RawValue),
    /// The bytes themselves.
    Bytes(Bytes),
}

impl RecordParser<'_> {
    /// Makes the event.
    fn cloud_event(&self, head: CloudEventHead, data: EventData<'_>) -> Result<NewEvent, Problem> {
        let CloudEventHead { attributes } = head;
        let get = |name: &str| attributes.get(name).map(String::as_str);
        let payload = payload(get("datacontenttype"), data)?;
        let time = get("time").map(times::rfc3339).transpose().map_err(|why| bad("time", why))?;
        let key = [PARTITION_KEY, "subject", "source"].into_iter().find_map(|name| Some((name, get(name)?)));
        let idempotency_key = identity(
            get("source").unwrap_or_default(),
            get("id").unwrap_or_default(),
            self.limits.idempotency_key_bytes,
        );
        let (key_name, key) = key.map(|(name, key)| (name, key.to_owned())).unzip();
        let event = self.event(SentEvent {
            payload,
            partition: None,
            timestamp_ms: time.map(i128::from),
            key,
            idempotency_key: Some(idempotency_key),
            headers: attributes,
        });
        event.map_err(|problem| match (problem.code(), key_name) {
            (Code::BadKey, Some(name)) => problem.with("attribute", name),
            _ => problem,
        })
    }
}

/// The payload that data of a content type is. It depends on these two alone, and not on how they were sent.
fn payload(content_type: Option<&str>, data: EventData<'_>) -> Result<Payload, Problem> {
    let kind = content_type.map(DataKind::of);
    match data {
        EventData::Missing => Payload::new(PayloadKind::Bytes, Bytes::new()).map_err(bad_payload),
        EventData::Value(value) => match kind.unwrap_or(DataKind::Json) {
            DataKind::Json => {
                let text = Bytes::copy_from_slice(value.get().as_bytes());
                Payload::new(PayloadKind::Json, text).map_err(bad_payload)
            }
            kind if value.get().starts_with('"') => {
                let text: String = serde_json::from_str(value.get()).map_err(bad_json)?;
                of_kind(kind, text.into())
            }
            _ => Err(bad(
                "data",
                "it is no text, and datacontenttype is not JSON: send a text or data_base64, or another \
                 datacontenttype",
            )),
        },
        EventData::Bytes(bytes) => match kind {
            Some(kind) => of_kind(kind, bytes),
            None => raw::json(&bytes).or_else(|_| of_kind(DataKind::Bytes, bytes)),
        },
    }
}

/// Bytes as data of a kind.
fn of_kind(kind: DataKind, bytes: Bytes) -> Result<Payload, Problem> {
    match kind {
        // Some senders name JSON even if there is no data, and no JSON is empty.
        DataKind::Json if !bytes.is_empty() => raw::json(&bytes),
        DataKind::Text => Ok(Payload::guess(bytes)),
        DataKind::Json | DataKind::Bytes => Payload::new(PayloadKind::Bytes, bytes).map_err(bad_payload),
    }
}

/// What identifies a CloudEvent: its source and id. Where they do not fit or could be taken apart in two
/// ways, it is a hash of them, which has no space.
fn identity(source: &str, id: &str, limit_bytes: usize) -> String {
    if source.len() + 1 + id.len() <= limit_bytes && !source.contains(' ') {
        return format!("{source} {id}");
    }
    let mut hasher = Sha256::new_with_prefix((source.len() as u64).to_be_bytes());
    hasher.update(source);
    hasher.update(id);
    let mut hash = hex(&hasher.finalize());
    hash.truncate(limit_bytes);
    hash
}

/// 400 for an attribute, or for the data.
fn bad(attribute: &str, why: impl Display) -> Problem {
    let name: String = attribute.chars().take(SHOWN_NAME).collect();
    Problem::new(Code::BadCloudEvent, format!("the CloudEvent's {name}: {why}")).with("attribute", name)
}
