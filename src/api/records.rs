//! Records from outside become events, or a problem that says what is wrong with them. What is counted is counted while it is
//! read, and what it takes is taken from the budget before it is there. Prost types end here.

use std::{cell::Cell, collections::BTreeMap, fmt};

use bytes::Bytes;
use prost::Message;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{
    code::Code,
    error::Problem,
    extract,
    limits::Limits,
    memory::Reserved,
    strict::{self, Wrong},
    trace::TRACEPARENT,
};
use crate::{
    contracts::{
        clock::{MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, TimestampMs},
        event::{Event, HEADER_BYTES, RECORD_BYTES},
        name::PartitionNumber,
        payload::{self, BadPayload, Payload, PayloadKind},
    },
    proto::v1,
};

type Headers = BTreeMap<String, String>;
type Placed = (PartitionNumber, Event);

/// Turns records into events.
#[derive(Debug, Clone, Copy)]
pub struct RecordParser<'a> {
    /// What a record may be.
    pub limits: &'a Limits,
    /// The server's clock.
    pub now_ms: TimestampMs,
    /// The trace that the request belongs to: events keep it, so that a consumer can continue it.
    pub traceparent: Option<&'a str>,
    /// The partition of records that name none; those that name another are refused.
    pub partition: Option<PartitionNumber>,
    /// The idempotency key of a record that has none; of several each has its place behind it.
    pub key: Option<&'a str>,
}

/// A record as JSON sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord<'a> {
    #[serde(borrow, default, deserialize_with = "payload::present")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    payload_base64: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    partition: Option<i128>,
    #[serde(default, deserialize_with = "whole")]
    timestamp_ms: Option<i128>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
    /// What a read has given may be written again, to another table say; where it was counts no more.
    #[serde(default, deserialize_with = "whole")]
    offset: Option<i128>,
}

/// A whole number of any size, so that one out of range is said to be just that; serde's own allocates.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
    match <&RawValue>::deserialize(deserializer)?.get() {
        "null" => Ok(None),
        text => text.parse().map(Some).map_err(|_| D::Error::custom(format_args!("{text} is not a whole number"))),
    }
}

/// A JSON object. A structure by itself would be read from an array, too, by the places of its fields.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = T;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(OfObject(std::marker::PhantomData)).map(Self)
    }
}

/// A JSON object from outside as a value.
///
/// # Errors
/// 400 with the place and the reason.
pub fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let text = without_mark(body)?;
    let Object(value) = serde_json::from_slice(text).map_err(bad_json)?;
    Ok(value)
}

/// A text without the mark that says that it is UTF-8.
///
/// # Errors
/// 400 for UTF-16 and UTF-32.
pub fn without_mark(text: &[u8]) -> Result<&[u8], Problem> {
    match text {
        [0xEF, 0xBB, 0xBF, rest @ ..] => Ok(rest),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [_, 0, ..] | [0, _, ..] => {
            Err(Problem::new(Code::BadJson, "the text is UTF-16 or UTF-32: JSON is UTF-8"))
        }
        text => Ok(text),
    }
}

fn bad_json(error: impl ToString) -> Problem {
    Problem::new(Code::BadJson, error)
}

/// What a part of a JSON text is read with: it may stop with a problem of its own, which counts more than what serde makes of it.
struct Stopped(Cell<Option<Problem>>);

impl Stopped {
    fn by<E: de::Error>(&self, problem: Problem) -> E {
        self.0.set(Some(problem));
        E::custom("stopped")
    }
}

/// Reads a part of a JSON text.
fn read<'a, T>(
    text: &'a RawValue,
    visit: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'a>>, &Stopped) -> Result<T, serde_json::Error>,
) -> Result<T, Problem> {
    let stopped = Stopped(Cell::new(None));
    let read = visit(&mut serde_json::Deserializer::from_str(text.get()), &stopped);
    read.map_err(|error| stopped.0.take().unwrap_or_else(|| bad_json(error)))
}

/// Reads a list of objects of which there may be so many: they are counted before they take memory.
///
/// # Errors
/// 400; 413 with the `index` of the first that is too many.
pub fn list<'a, T: Deserialize<'a>>(text: &'a RawValue, most: usize) -> Result<Vec<T>, Problem> {
    read(text, |from, stopped| ListVisitor { most, stopped, of: std::marker::PhantomData }.deserialize(from))
}

struct ListVisitor<'a, T> {
    most: usize,
    stopped: &'a Stopped,
    of: std::marker::PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut taken = Vec::new();
        while let Some(Object(one)) = list.next_element()? {
            if taken.len() == self.most {
                return Err(self.stopped.by(too_many(self.most)));
            }
            taken.push(one);
        }
        Ok(taken)
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for ListVisitor<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

fn too_many(most: usize) -> Problem {
    Problem::new(Code::TooManyRecords, format!("there are more records than limits.bulk_records of {most}")).at_index(most)
}

/// Reads headers: each once, and no more than there may be.
struct HeadersVisitor<'a> {
    limits: &'a Limits,
    stopped: &'a Stopped,
}

impl<'de> Visitor<'de> for HeadersVisitor<'_> {
    type Value = Headers;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let (mut headers, mut bytes) = (Headers::new(), 0);
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            bytes += name.len() + value.len();
            if headers.len() == self.limits.record_headers {
                return Err(self.stopped.by(too_many_headers(self.limits)));
            }
            if bytes > self.limits.record_bytes {
                return Err(self.stopped.by(too_large(bytes, self.limits)));
            }
            if headers.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate header {name:?}")));
            }
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// Reads the records of a bulk write one by one.
struct RecordsVisitor<'a, 'b> {
    parser: &'a RecordParser<'a>,
    charged: Charged<'b>,
    stopped: &'a Stopped,
}

impl<'de> Visitor<'de> for RecordsVisitor<'_, '_> {
    type Value = Vec<Placed>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut records: A) -> Result<Vec<Placed>, A::Error> {
        let mut events = Vec::new();
        while let Some(record) = records.next_element::<&RawValue>()? {
            let index = events.len();
            let event = self.parser.count(index).and_then(|()| self.parser.json_record_at(record.get().as_bytes(), Some(index as u64)));
            let charged = event.and_then(|placed| self.charged.take(placed.1.footprint()).map(|()| placed));
            match charged {
                Ok(placed) => events.push(placed),
                Err(problem) => return Err(self.stopped.by(problem.at_index(index))),
            }
        }
        Ok(events)
    }
}

impl<'de> DeserializeSeed<'de> for RecordsVisitor<'_, '_> {
    type Value = Vec<Placed>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Placed>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonBulk<'a> {
    #[serde(borrow)]
    records: &'a RawValue,
}

/// What the events of one body take, beside the body.
struct Charged<'a> {
    reserved: &'a mut Reserved,
    used: usize,
    most: usize,
}

impl<'a> Charged<'a> {
    fn new(reserved: &'a mut Reserved, limits: &Limits) -> Self {
        let used = reserved.bytes();
        Self { reserved, used, most: used + 2 * limits.decoded_body_bytes }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        self.used += bytes;
        if self.used > self.most {
            return Err(Problem::new(Code::BodyTooLarge, "the records take more memory than twice limits.decoded_body_bytes"));
        }
        self.reserved.try_grow_to(self.used)
    }
}

impl RecordParser<'_> {
    /// One JSON record.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn json_record(&self, body: &[u8]) -> Result<Placed, Problem> {
        self.json_record_at(without_mark(body)?, None)
    }

    /// One JSON record of several.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn json_record_at(&self, body: &[u8], place: Option<u64>) -> Result<Placed, Problem> {
        let Object(record): Object<JsonRecord<'_>> = serde_json::from_slice(body).map_err(bad_json)?;
        let _ = record.offset;
        let payload = Payload::from_json(record.payload, record.payload_base64.as_deref()).map_err(bad_payload)?;
        let headers = match record.headers.filter(|headers| headers.get() != "null") {
            None => Headers::new(),
            Some(headers) => read(headers, |from, stopped| from.deserialize_map(HeadersVisitor { limits: self.limits, stopped }))?,
        };
        let key = record.idempotency_key.or_else(|| self.key_at(place));
        self.event(payload, record.partition, record.timestamp_ms, key, headers)
    }

    /// A JSON bulk write; the reserved memory grows with its events.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the record; 503 without memory.
    pub fn json_bulk(&self, body: &[u8], reserved: &mut Reserved) -> Result<Vec<Placed>, Problem> {
        let bulk: JsonBulk<'_> = json(body)?;
        let charged = Charged::new(reserved, self.limits);
        let events = read(bulk.records, |from, stopped| RecordsVisitor { parser: self, charged, stopped }.deserialize(from))?;
        if events.is_empty() { Err(no_records()) } else { Ok(events) }
    }

    /// One protobuf event.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn protobuf_event(&self, body: Bytes) -> Result<Placed, Problem> {
        let mut headers = 0;
        strict::check(&body, strict::EVENT, &mut |_| {
            headers += 1;
            self.count_headers(headers)
        })?;
        let event = decode(body)?;
        check_headers(&event, headers)?;
        self.protobuf(event, None)
    }

    /// A protobuf bulk write; the reserved memory grows with its events.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the record; 503 without memory.
    pub fn protobuf_bulk(&self, body: Bytes, reserved: &mut Reserved) -> Result<Vec<Placed>, Problem> {
        // How many headers each record has.
        let mut records: Vec<usize> = Vec::new();
        let mut charged = Charged::new(reserved, self.limits);
        strict::check(&body, strict::BULK, &mut |field| {
            let index = records.len();
            match records.last_mut().filter(|_| field != "records") {
                Some(headers) => {
                    *headers += 1;
                    self.count_headers(*headers).map_err(|problem| problem.at_index(index - 1))?;
                    charged.take(HEADER_BYTES)
                }
                None => {
                    self.count(index)?;
                    records.push(0);
                    charged.take(RECORD_BYTES)
                }
            }
        })?;
        charged.take(body.len())?;
        if records.is_empty() {
            return Err(no_records());
        }
        let bulk: v1::BulkWriteRequest = decode(body)?;
        let event = |(index, (event, headers))| {
            let checked = check_headers(&event, headers).and_then(|()| self.protobuf(event, Some(index as u64)));
            checked.map_err(|problem| problem.at_index(index))
        };
        bulk.records.into_iter().zip(records).enumerate().map(event).collect()
    }

    /// Refuses the record at `index` if there may not be so many.
    fn count(&self, index: usize) -> Result<(), Problem> {
        let limit = self.limits.bulk_records;
        if index < limit { Ok(()) } else { Err(too_many(limit)) }
    }

    fn count_headers(&self, count: usize) -> Result<(), Problem> {
        if count > self.limits.record_headers { Err(too_many_headers(self.limits)) } else { Ok(()) }
    }

    fn key_at(&self, place: Option<u64>) -> Option<String> {
        Some(match place {
            None => self.key?.to_owned(),
            Some(place) => format!("{}/{place}", self.key?),
        })
    }

    fn protobuf(&self, event: v1::Event, place: Option<u64>) -> Result<Placed, Problem> {
        let payload = match event.payload_kind() {
            v1::PayloadKind::Unspecified => Ok(Payload::guess(event.payload)),
            v1::PayloadKind::Text => Payload::new(PayloadKind::Text, event.payload),
            v1::PayloadKind::Json => Payload::new(PayloadKind::Json, event.payload),
            v1::PayloadKind::Bytes => Payload::new(PayloadKind::Bytes, event.payload),
        };
        let (partition, timestamp_ms) = (event.partition.map(i128::from), event.timestamp_ms.map(i128::from));
        let key = event.idempotency_key.or_else(|| self.key_at(place));
        self.event(payload.map_err(bad_payload)?, partition, timestamp_ms, key, event.headers)
    }

    fn event(
        &self,
        payload: Payload,
        partition: Option<i128>,
        timestamp_ms: Option<i128>,
        idempotency_key: Option<String>,
        headers: Headers,
    ) -> Result<Placed, Problem> {
        let partition = match (partition, self.partition) {
            (Some(own), Some(other)) if own != i128::from(other) => {
                let detail = format!("the record names partition {own}, the request's header {other}");
                return Err(Problem::new(Code::BadPartition, detail));
            }
            (Some(own), _) => extract::partition_number(own, self.limits)?,
            (None, other) => other.unwrap_or(0),
        };
        let timestamp_ms = match timestamp_ms {
            None => self.now_ms,
            Some(given) => i64::try_from(given).ok().filter(|ms| (MIN_TIMESTAMP_MS..=MAX_TIMESTAMP_MS).contains(ms)).ok_or_else(|| {
                let detail = format!("timestamp_ms {given} is outside the years 1 to 9999, {MIN_TIMESTAMP_MS} to {MAX_TIMESTAMP_MS}");
                Problem::new(Code::TimestampOutOfRange, detail)
            })?,
        };
        let key_limit = self.limits.idempotency_key_bytes;
        if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > key_limit) {
            return Err(Problem::new(Code::IdempotencyKeyOutOfRange, format!("idempotency_key must have 1 to {key_limit} bytes")));
        }
        let mut event = Event { payload, timestamp_ms, appended_ms: self.now_ms, idempotency_key, headers };
        let size = event.size();
        if size > self.limits.record_bytes {
            return Err(too_large(size, self.limits));
        }
        // What is read can be written again as it is: we add nothing that would not fit then.
        if let Some(traceparent) = self.traceparent
            && event.headers.len() < self.limits.record_headers
            && size + TRACEPARENT.len() + traceparent.len() <= self.limits.record_bytes
        {
            event.headers.entry(TRACEPARENT.to_owned()).or_insert_with(|| traceparent.to_owned());
        }
        Ok((partition, event))
    }
}

impl From<Wrong> for Problem {
    fn from(wrong: Wrong) -> Self {
        Self::new(Code::BadProtobuf, wrong)
    }
}

/// A decoder takes the last of two headers of one name.
fn check_headers(event: &v1::Event, sent: usize) -> Result<(), Problem> {
    let is_right = event.headers.len() == sent;
    if is_right { Ok(()) } else { Err(Wrong::Type("a header stands there twice".to_owned()).into()) }
}

fn decode<M: Message + Default>(body: Bytes) -> Result<M, Problem> {
    M::decode(body).map_err(|error| Wrong::from(error).into())
}

fn no_records() -> Problem {
    Problem::new(Code::NoRecords, "`records` is empty")
}

fn too_many_headers(limits: &Limits) -> Problem {
    Problem::new(Code::TooManyHeaders, format!("the record has more headers than limits.record_headers of {}", limits.record_headers))
}

fn too_large(size: usize, limits: &Limits) -> Problem {
    Problem::new(Code::RecordTooLarge, format!("the record has {size} bytes, limits.record_bytes is {}", limits.record_bytes))
}

fn bad_payload(error: BadPayload) -> Problem {
    match error {
        BadPayload::Json(_) | BadPayload::LoneSurrogate(_) => bad_json(error),
        _ => Problem::new(Code::BadPayload, error),
    }
}
