//! Events as protobuf: one, or a bulk write. The generated types end here.

use bytes::Bytes;
use prost::Message;

use super::{Charged, NewEvent, RecordParser, SentEvent, bad_payload, no_records, raw, too_many_headers};
use crate::{
    http::{
        code::Code,
        error::Problem,
        memory::Share,
        strict::{self, WrongMessage},
    },
    proto::v1,
};
use contracts::{
    event::{EVENT_OVERHEAD_BYTES, HEADER_OVERHEAD_BYTES},
    payload::{Payload, PayloadKind},
};

impl RecordParser<'_> {
    /// Reads a body that is one event.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn protobuf_event(&self, body: Bytes) -> Result<NewEvent, Problem> {
        let mut headers = 0;
        strict::check(&body, strict::EVENT, &mut |_| {
            headers += 1;
            self.count_headers(headers)
        })?;
        let event: v1::Event = decode(body)?;
        check_headers(&event, headers)?;
        if is_payload_only(&event) && strict::is_otlp(&event.payload) {
            return Err(Problem::new(Code::BadProtobuf, strict::OTLP));
        }
        self.protobuf(event, None)
    }

    /// Reads a bulk write. `share` grows with its events.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the event; 503 without memory.
    pub fn protobuf_bulk(&self, body: Bytes, share: &mut Share) -> Result<Vec<NewEvent>, Problem> {
        // How many headers each event has.
        let mut events: Vec<usize> = Vec::new();
        let mut charged = Charged::new(share, self.limits);
        strict::check(&body, strict::BULK, &mut |field| {
            let index = events.len();
            match events.last_mut().filter(|_| field != "records") {
                Some(headers) => {
                    *headers += 1;
                    self.count_headers(*headers).map_err(|problem| problem.at_index(index - 1))?;
                    charged.take(HEADER_OVERHEAD_BYTES)
                }
                None => {
                    self.count(index)?;
                    events.push(0);
                    charged.take(EVENT_OVERHEAD_BYTES)
                }
            }
        })?;
        charged.take(body.len())?;
        if events.is_empty() {
            return Err(no_records());
        }
        let bulk: v1::BulkWriteRequest = decode(body)?;
        let place = |(index, (event, headers))| {
            let checked =
                check_headers(&event, headers).and_then(|()| self.protobuf(event, Some(index as u64)));
            checked.map_err(|problem| problem.at_index(index))
        };
        bulk.records.into_iter().zip(events).enumerate().map(place).collect()
    }

    fn count_headers(&self, count: usize) -> Result<(), Problem> {
        if count > self.limits.record_headers { Err(too_many_headers(self.limits)) } else { Ok(()) }
    }

    fn protobuf(&self, event: v1::Event, place: Option<u64>) -> Result<NewEvent, Problem> {
        let payload = match event.payload_kind() {
            v1::PayloadKind::Unspecified => Ok(Payload::guess(event.payload)),
            v1::PayloadKind::Json => raw::json(&event.payload),
            v1::PayloadKind::Text => Payload::new(PayloadKind::Text, event.payload).map_err(bad_payload),
            v1::PayloadKind::Bytes => Payload::new(PayloadKind::Bytes, event.payload).map_err(bad_payload),
        };
        let (partition, timestamp_ms) = (event.partition.map(i128::from), event.timestamp_ms.map(i128::from));
        let idempotency_key = event.idempotency_key.or_else(|| self.key_at(place));
        self.event(SentEvent {
            payload: payload?,
            partition,
            timestamp_ms,
            key: event.key,
            idempotency_key,
            headers: event.headers,
        })
    }
}

impl From<WrongMessage> for Problem {
    fn from(wrong: WrongMessage) -> Self {
        Self::new(Code::BadProtobuf, wrong)
    }
}

/// Whether an event has a payload, whose kind it does not say, and nothing else.
fn is_payload_only(event: &v1::Event) -> bool {
    let v1::Event { payload: _, timestamp_ms, idempotency_key, headers, payload_kind, partition, key } =
        event;
    timestamp_ms.is_none()
        && idempotency_key.is_none()
        && headers.is_empty()
        && *payload_kind == v1::PayloadKind::Unspecified as i32
        && partition.is_none()
        && key.is_none()
}

/// Refuses a header that was sent twice: the decoder keeps the last one, so that fewer are left than were
/// sent.
fn check_headers(event: &v1::Event, sent: usize) -> Result<(), Problem> {
    let is_right = event.headers.len() == sent;
    if is_right { Ok(()) } else { Err(WrongMessage::Type("a header occurs twice".to_owned()).into()) }
}

fn decode<M: Message + Default>(body: Bytes) -> Result<M, Problem> {
    M::decode(body).map_err(|error| WrongMessage::from(error).into())
}
