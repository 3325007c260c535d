//! What writes send becomes events, or a problem that says what is wrong with it. Everything is counted while
//! it is read, and its memory is charged to the budget before it is allocated.

mod cloudevents;
mod json;
mod list;
mod protobuf;
mod quick;
mod raw;

use std::collections::BTreeMap;

pub use self::{
    cloudevents::{CloudEventHead, CloudEventMode, CloudEventToWrite},
    json::{BulkToWrite, EventToWrite},
    raw::{RawEnvelope, RawSettings, either},
};
use super::{
    code::Code,
    error::Problem,
    extract,
    json_body::{bad_json, too_many},
    limits::Limits,
    memory::Share,
    trace::TRACEPARENT,
};
use contracts::{
    clock::{MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, TimestampMs},
    event::{Event, EventKey, IdempotencyKey},
    name::PartitionNumber,
    payload::{BadPayload, Payload},
};

type Headers = BTreeMap<String, String>;

/// An event that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The partition that it must go to; `None` if none was named, and its key decides.
    pub partition: Option<PartitionNumber>,
    /// The event.
    pub event: Event,
}

/// Turns what a request sends into events.
#[derive(Debug, Clone, Copy)]
pub struct RecordParser<'a> {
    /// How large an event may be, and how many there may be.
    pub limits: &'a Limits,
    /// The server's clock.
    pub now_ms: TimestampMs,
    /// The trace that the request belongs to. Events keep it, so that a consumer can continue the trace.
    pub traceparent: Option<&'a str>,
    /// The partition of events that name none, whatever their keys; events that name another one are refused.
    pub partition: Option<PartitionNumber>,
    /// The idempotency key of an event that has none; of several events each has its index after the key. Not
    /// parsed yet: the limit holds for the key that an event gets.
    pub idempotency_key: Option<&'a str>,
}

#[cfg(test)]
impl<'a> RecordParser<'a> {
    /// Of a request that came at 7 ms, in no trace and to no partition.
    pub(super) fn of_test(limits: &'a Limits, idempotency_key: Option<&'a str>) -> Self {
        Self { limits, now_ms: 7, traceparent: None, partition: None, idempotency_key }
    }
}

/// An event as it was sent: its numbers and keys may still be out of range, and its partition and time may be
/// missing.
struct SentEvent {
    payload: Payload,
    partition: Option<i128>,
    timestamp_ms: Option<i128>,
    key: Option<String>,
    idempotency_key: Option<String>,
    headers: Headers,
}

impl RecordParser<'_> {
    /// Refuses the event at `index` if there may not be so many.
    fn count(&self, index: usize) -> Result<(), Problem> {
        let limit = self.limits.bulk_records;
        if index < limit { Ok(()) } else { Err(too_many(limit)) }
    }

    fn key_at(&self, place: Option<u64>) -> Option<String> {
        let key = self.idempotency_key?;
        Some(match place {
            None => key.to_owned(),
            Some(place) => format!("{key}/{place}"),
        })
    }

    fn event(&self, sent: SentEvent) -> Result<NewEvent, Problem> {
        let partition = self.partition_of(sent.partition)?;
        let timestamp_ms = match sent.timestamp_ms {
            None => self.now_ms,
            Some(given) => i64::try_from(given)
                .ok()
                .filter(|ms| (MIN_TIMESTAMP_MS..=MAX_TIMESTAMP_MS).contains(ms))
                .ok_or_else(|| {
                    let detail = format!(
                        "timestamp_ms {given} is outside the years 1 to 9999, {MIN_TIMESTAMP_MS} to \
                         {MAX_TIMESTAMP_MS}"
                    );
                    Problem::new(Code::TimestampOutOfRange, detail)
                })?,
        };
        let SentEvent { payload, key, idempotency_key, headers, .. } = sent;
        let key = key
            .map(|key| EventKey::parse(key, self.limits.key_bytes))
            .transpose()
            .map_err(|error| Problem::new(Code::BadKey, error))?;
        let idempotency_key = idempotency_key
            .map(|key| IdempotencyKey::parse(key, self.limits.idempotency_key_bytes))
            .transpose()
            .map_err(|error| Problem::new(Code::IdempotencyKeyOutOfRange, error))?;
        let appended_ms = self.now_ms;
        let mut event = Event { payload, timestamp_ms, appended_ms, key, idempotency_key, headers };
        let size = event.size();
        if size > self.limits.record_bytes {
            return Err(too_large(size, self.limits));
        }
        // What is read can be written again as it is, so nothing is added that would not fit then.
        if let Some(traceparent) = self.traceparent
            && event.headers.len() < self.limits.record_headers
            && size + TRACEPARENT.as_str().len() + traceparent.len() <= self.limits.record_bytes
        {
            event.headers.entry(TRACEPARENT.as_str().to_owned()).or_insert_with(|| traceparent.to_owned());
        }
        Ok(NewEvent { partition, event })
    }

    /// The event's own partition, else the request's.
    fn partition_of(&self, own: Option<i128>) -> Result<Option<PartitionNumber>, Problem> {
        match (own, self.partition) {
            (Some(own), Some(other)) if own != i128::from(other) => Err(Problem::new(
                Code::BadPartition,
                format!("the event names partition {own}, the request's header {other}"),
            )),
            (Some(own), _) => extract::partition_number(own, self.limits).map(Some),
            (None, other) => Ok(other),
        }
    }
}

/// Charges the events of one body to the budget, beside the body itself.
struct Charged<'a> {
    share: &'a mut Share,
    start: usize,
    used: usize,
    most: usize,
}

impl<'a> Charged<'a> {
    fn new(share: &'a mut Share, limits: &Limits) -> Self {
        let start = share.bytes();
        Self { share, start, used: start, most: start + 2 * limits.decoded_body_bytes }
    }

    /// Begins anew with the first event. What has been taken from the budget is kept for the same events.
    fn again(&mut self) {
        self.used = self.start;
    }

    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        self.used += bytes;
        if self.used > self.most {
            return Err(Problem::new(
                Code::BodyTooLarge,
                "the events take more memory than twice limits.decoded_body_bytes",
            ));
        }
        self.share.try_grow_to(self.used)
    }
}

fn no_records() -> Problem {
    Problem::new(Code::NoRecords, "`records` is empty")
}

fn too_many_headers(limits: &Limits) -> Problem {
    Problem::new(
        Code::TooManyHeaders,
        format!("the event has more headers than limits.record_headers of {}", limits.record_headers),
    )
}

fn too_large(size: usize, limits: &Limits) -> Problem {
    Problem::new(
        Code::RecordTooLarge,
        format!("the event has {size} bytes, limits.record_bytes is {}", limits.record_bytes),
    )
}

fn bad_payload(error: BadPayload) -> Problem {
    match error {
        BadPayload::Json(_) | BadPayload::LoneSurrogate(_) => bad_json(error),
        _ => Problem::new(Code::BadPayload, error),
    }
}
