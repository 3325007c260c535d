//! Requests become values that are right by their type, or a problem that says what is wrong. Prost types end here.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use prost::Message;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::value::RawValue;

use super::{code::Code, error::Problem, limits::Limits, trace::TRACEPARENT};
use crate::{
    contracts::{
        clock::{MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, TimestampMs},
        event::Event,
        name::{GroupName, PartitionNumber, TableName},
        payload::{self, BadPayload, Payload, PayloadKind},
        storage::TimeFilter,
    },
    proto::v1,
};

/// The header with the partition of a protobuf write.
const PARTITION_HEADER: &str = "x-partition";

/// The `{table}` of a path.
pub struct Table(pub TableName);

/// The `{group}` of a path.
pub struct Group(pub GroupName);

/// Query parameters; an unknown one is an error.
pub struct Params<T>(pub T);

/// For routes without query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

async fn path_text<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let Path(text) =
        Path::<String>::from_request_parts(parts, state).await.map_err(|error| Problem::new(Code::BadPath, error.body_text()))?;
    Ok(text)
}

impl<S: Send + Sync> FromRequestParts<S> for Table {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        table_name(&path_text(parts, state).await?).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Group {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = path_text(parts, state).await?;
        GroupName::parse(&text).map(Self).map_err(|error| Problem::new(Code::BadGroupName, error))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) =
            Query::<T>::from_request_parts(parts, state).await.map_err(|error| Problem::new(Code::BadQuery, error.body_text()))?;
        Ok(Self(params))
    }
}

/// A table's name from outside.
///
/// # Errors
/// 400 with the rule.
pub fn table_name(text: &str) -> Result<TableName, Problem> {
    TableName::parse(text).map_err(|error| Problem::new(Code::BadTableName, error))
}

/// The encodings of a write's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// One JSON document.
    Json,
    /// One protobuf message.
    Protobuf,
    /// A JSON record a line, streamed.
    Ndjson,
}

/// The body's encoding by its content type; JSON if it says nothing.
///
/// # Errors
/// 415 for another type.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Encoding::Json) };
    let text = value.to_str().unwrap_or("not text");
    let essence = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Encoding::Json),
        "application/x-protobuf" | "application/protobuf" => Ok(Encoding::Protobuf),
        "application/x-ndjson" => Ok(Encoding::Ndjson),
        _ => Err(unsupported(format!(
            "content type {text:?} is not supported: send application/json, application/x-protobuf or application/x-ndjson"
        ))),
    }
}

/// 415 with what would be supported.
pub fn unsupported(detail: impl ToString) -> Problem {
    Problem::new(Code::UnsupportedMediaType, detail)
}

/// The partition of a protobuf write.
///
/// # Errors
/// 400 if the header is not a number.
pub fn partition_header(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(PARTITION_HEADER) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::new(Code::BadPartition, format!("X-Partition {value:?} is not a number")))
}

/// A number in a query parameter.
///
/// # Errors
/// 400 naming the parameter.
pub fn number(name: &str, text: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| Problem::new(Code::BadQuery, format!("{name}={text:?} is not a whole number from 0 to {}", u64::MAX)))
}

/// The bounds `since` and `until`: milliseconds, or RFC 3339.
///
/// # Errors
/// 400 naming the parameter.
pub fn time_filter(since: Option<&str>, until: Option<&str>) -> Result<TimeFilter, Problem> {
    let parse = |name: &str, text: Option<&str>| text.map(|text| instant(name, text)).transpose();
    Ok(TimeFilter { since: parse("since", since)?, until: parse("until", until)? })
}

fn instant(name: &str, text: &str) -> Result<TimestampMs, Problem> {
    if let Ok(ms) = text.parse::<TimestampMs>() {
        return Ok(ms);
    }
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(|time| time.as_millisecond())
        .map_err(|error| Problem::new(Code::BadQuery, format!("{name}={text:?} is neither milliseconds nor RFC 3339: {error}")))
}

/// Turns records from outside into events, or says what is wrong with them.
#[derive(Debug, Clone, Copy)]
pub struct Intake<'a> {
    /// What a record may be.
    pub limits: &'a Limits,
    /// The server's clock.
    pub now_ms: TimestampMs,
    /// The trace that the request belongs to: events keep it, so that a consumer can continue it.
    pub traceparent: Option<&'a str>,
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
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
}

/// A whole number of any size, so that one out of range is said to be just that; serde's own allocates.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
    match <&RawValue>::deserialize(deserializer)?.get() {
        "null" => Ok(None),
        text => text.parse().map(Some).map_err(|_| D::Error::custom(format_args!("{text} is not a whole number"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonBulk<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// JSON from outside as a value.
///
/// # Errors
/// 400 with the place and the reason.
pub fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(Code::BadJson, error))
}

impl Intake<'_> {
    /// One JSON record.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn json_record(&self, body: &[u8]) -> Result<(PartitionNumber, Event), Problem> {
        let record: JsonRecord<'_> = json(body)?;
        let payload = Payload::from_json(record.payload, record.payload_base64.as_deref()).map_err(bad_payload)?;
        let headers = record.headers.unwrap_or_default();
        self.event(payload, record.partition.unwrap_or(0), record.timestamp_ms, record.idempotency_key, headers)
    }

    /// A JSON bulk write.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the record.
    pub fn json_bulk(&self, body: &[u8]) -> Result<Vec<(PartitionNumber, Event)>, Problem> {
        let bulk: JsonBulk<'_> = json(body)?;
        self.bulk(bulk.records.len(), bulk.records.iter().map(|record| self.json_record(record.get().as_bytes())))
    }

    /// One protobuf event for the partition in its header.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn protobuf_event(&self, body: Bytes, partition: Option<u64>) -> Result<(PartitionNumber, Event), Problem> {
        self.protobuf(protobuf(body)?, partition)
    }

    /// A protobuf bulk write; `partition` is for the events that name none.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the record.
    pub fn protobuf_bulk(&self, body: Bytes, partition: Option<u64>) -> Result<Vec<(PartitionNumber, Event)>, Problem> {
        let bulk: v1::BulkWriteRequest = protobuf(body)?;
        self.bulk(bulk.records.len(), bulk.records.into_iter().map(|event| self.protobuf(event, partition)))
    }

    fn bulk(
        &self,
        count: usize,
        records: impl Iterator<Item = Result<(PartitionNumber, Event), Problem>>,
    ) -> Result<Vec<(PartitionNumber, Event)>, Problem> {
        let limit = self.limits.bulk_records;
        if count > limit {
            return Err(
                Problem::new(Code::TooManyRecords, format!("{count} records are over limits.bulk_records of {limit}")).with("index", limit)
            );
        }
        if count == 0 {
            return Err(Problem::new(Code::NoRecords, "`records` is empty"));
        }
        records.enumerate().map(|(index, record)| record.map_err(|problem| problem.with("index", index))).collect()
    }

    fn protobuf(&self, event: v1::Event, partition: Option<u64>) -> Result<(PartitionNumber, Event), Problem> {
        let payload = match event.payload_kind() {
            v1::PayloadKind::Unspecified => Ok(Payload::guess(event.payload)),
            v1::PayloadKind::Text => Payload::new(PayloadKind::Text, event.payload),
            v1::PayloadKind::Json => Payload::new(PayloadKind::Json, event.payload),
            v1::PayloadKind::Bytes => Payload::new(PayloadKind::Bytes, event.payload),
        };
        let partition = event.partition.map(u64::from).or(partition).unwrap_or(0);
        let timestamp_ms = event.timestamp_ms.map(i128::from);
        self.event(payload.map_err(bad_payload)?, partition.into(), timestamp_ms, event.idempotency_key, event.headers)
    }

    fn event(
        &self,
        payload: Payload,
        partition: i128,
        timestamp_ms: Option<i128>,
        idempotency_key: Option<String>,
        headers: BTreeMap<String, String>,
    ) -> Result<(PartitionNumber, Event), Problem> {
        let partition = partition_number(partition, self.limits)?;
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
        let (size, limit) = (event.size(), self.limits.record_bytes);
        if size > limit {
            return Err(Problem::new(Code::RecordTooLarge, format!("the record has {size} bytes, limits.record_bytes is {limit}")));
        }
        if let Some(traceparent) = self.traceparent {
            event.headers.entry(TRACEPARENT.to_owned()).or_insert_with(|| traceparent.to_owned());
        }
        Ok((partition, event))
    }
}

/// A partition's number from outside.
///
/// # Errors
/// 422 if it is not below `limits.partitions_per_table`.
pub fn partition_number(number: i128, limits: &Limits) -> Result<PartitionNumber, Problem> {
    let limit = limits.partitions_per_table;
    let known = PartitionNumber::try_from(number).ok().filter(|number| *number < limit);
    known.ok_or_else(|| Problem::new(Code::PartitionOutOfRange, format!("partition {number} is not from 0 to {}", limit.saturating_sub(1))))
}

fn protobuf<M: Message + Default>(body: Bytes) -> Result<M, Problem> {
    M::decode(body).map_err(|error| Problem::new(Code::BadProtobuf, error))
}

fn bad_payload(error: BadPayload) -> Problem {
    Problem::new(Code::BadPayload, error)
}
