//! What writes answer: JSON, or headers alone.

use std::{collections::BTreeMap, ops::Range};

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::rejected::RejectedLine;
use crate::http::body::Incoming;
use contracts::{
    append::Appended,
    name::TableName,
    payload::{write_json_number, write_json_string},
};

const PARTITION: HeaderName = HeaderName::from_static("zombi-partition");
const OFFSET: HeaderName = HeaderName::from_static("zombi-offset");
const DUPLICATE: HeaderName = HeaderName::from_static("zombi-duplicate");
const COUNT: HeaderName = HeaderName::from_static("zombi-count");
const DUPLICATES: HeaderName = HeaderName::from_static("zombi-duplicates");
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Headers of an answer to a write, those included that every answer gets. Without room for them all they
/// would be moved once.
const HEADERS: usize = 9;
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Bytes that a [`Written`] has at most, its table's name apart.
const WRITTEN_BYTES: usize = 88;

/// Where an event is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Written {
    /// Its offset: the first write's, for a duplicate.
    pub offset: u64,
    /// Its partition.
    pub partition: u32,
    /// Its table.
    pub table: String,
    /// There, and true, if the idempotency key was seen before and nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub duplicate: bool,
}

/// Where events that were sent together are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkWritten {
    /// In the order sent.
    pub offsets: Vec<u64>,
    /// How many.
    pub count: usize,
    /// How many of them were known.
    pub duplicates: usize,
}

/// What became of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamWritten {
    /// Events taken, duplicates included.
    pub count: u64,
    /// How many of them were known.
    pub duplicates: u64,
    /// Lines that were passed over, as their events were erased; left out if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub erased: Option<u64>,
    /// Where they are, by partition.
    #[schema(value_type = BTreeMap<String, Span>)]
    pub partitions: BTreeMap<u32, Span>,
    /// Lines that were left out, with `on_error=skip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub rejected_count: Option<u64>,
    /// The first 100 of them, with `on_error=skip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub rejected: Option<Vec<RejectedLine>>,
}

/// The offsets of a stream's events in one partition.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Span {
    /// The smallest.
    pub first: u64,
    /// The largest.
    pub last: u64,
}

/// What a write of a body of any kind answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum WriteAnswer {
    /// One event.
    #[expect(dead_code, reason = "only described; `WrittenText` is what is answered")]
    One(Written),
    /// Several, all or nothing.
    Several(BulkWritten),
    /// A stream of lines.
    Stream(StreamWritten),
}

/// The text of a [`Written`], and its numbers for headers. They are parts of the text: by itself each would
/// take two allocations.
struct WrittenText {
    text: Bytes,
    partition: HeaderValue,
    offset: HeaderValue,
}

impl WrittenText {
    fn of(table: &TableName, appended: Appended) -> Self {
        const BEFORE_OFFSET: &str = r#"{"offset":"#;
        const BEFORE_PARTITION: &str = r#","partition":"#;
        let Appended { partition, offset, duplicate } = appended;
        let mut text = Vec::with_capacity(WRITTEN_BYTES + table.as_str().len());
        write_json_number(&mut text, BEFORE_OFFSET, offset);
        let offset_ends = text.len();
        write_json_number(&mut text, BEFORE_PARTITION, partition);
        let partition_ends = text.len();
        text.extend_from_slice(br#","table":"#);
        write_json_string(&mut text, table.as_str());
        text.extend_from_slice(if duplicate { &br#","duplicate":true}"#[..] } else { b"}" });
        let text = Bytes::from(text);
        // Digits can always stand in a header.
        let part = |place: Range<usize>| HeaderValue::from_maybe_shared(text.slice(place));
        let offset = part(BEFORE_OFFSET.len()..offset_ends).unwrap_or_else(|_| HeaderValue::from(offset));
        let partition = part(offset_ends + BEFORE_PARTITION.len()..partition_ends)
            .unwrap_or_else(|_| HeaderValue::from(partition));
        Self { text, partition, offset }
    }
}

/// How a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerForm {
    /// JSON.
    Json,
    /// Headers, since the client has asked for that.
    Minimal,
    /// Headers: a body would be taken for an event.
    Headers,
}

impl AnswerForm {
    /// JSON, unless `Prefer: return=minimal` asks for less (RFC 7240).
    pub(super) fn preferred(incoming: &Incoming) -> Self {
        if incoming.has_usual_head { Self::Json } else { Self::by_preference(&incoming.headers) }
    }

    fn by_preference(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let preferences = lines.flat_map(|line| line.split(','));
        let is_minimal = |preference: &str| {
            let named = preference.split(';').next().and_then(|one| one.split_once('='));
            named.is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("return")
                    && value.trim().trim_matches('"').eq_ignore_ascii_case("minimal")
            })
        };
        if preferences.into_iter().any(is_minimal) { Self::Minimal } else { Self::Json }
    }

    /// The answer to a write of one event; `written` is the status if it was stored.
    pub(super) fn one(self, table: &TableName, appended: Appended, written: StatusCode) -> Response {
        let (mut response, partition, offset) = match self {
            Self::Json => {
                let status = if appended.duplicate { StatusCode::OK } else { written };
                let WrittenText { text, partition, offset } = WrittenText::of(table, appended);
                (as_json(status, text), partition, offset)
            }
            Self::Minimal | Self::Headers => {
                let (partition, offset) = (appended.partition.into(), appended.offset.into());
                (self.without_body(written), partition, offset)
            }
        };
        let headers = response.headers_mut();
        headers.insert(PARTITION, partition);
        headers.insert(OFFSET, offset);
        if appended.duplicate {
            headers.insert(DUPLICATE, HeaderValue::from_static("true"));
        }
        response
    }

    /// The answer to a write of several events; `written` is the status if one of them was stored.
    pub(super) fn several(self, appended: &[Appended], written: StatusCode) -> Response {
        let duplicates = appended.iter().filter(|one| one.duplicate).count();
        if self == Self::Json {
            let offsets: Vec<u64> = appended.iter().map(|one| one.offset).collect();
            let status = if duplicates == appended.len() { StatusCode::OK } else { written };
            let answer = BulkWritten { count: offsets.len(), offsets, duplicates };
            return (status, Json(WriteAnswer::Several(answer))).into_response();
        }
        self.counted(appended.len() as u64, duplicates as u64, written)
    }

    /// The answer to a stream; `written` is its status.
    pub(super) fn stream(self, answer: StreamWritten, written: StatusCode) -> Response {
        if self == Self::Json {
            return (written, Json(WriteAnswer::Stream(answer))).into_response();
        }
        self.counted(answer.count, answer.duplicates, written)
    }

    /// An answer that says by headers how many events there were.
    fn counted(self, count: u64, duplicates: u64, written: StatusCode) -> Response {
        let mut response = self.without_body(written);
        response.headers_mut().insert(COUNT, HeaderValue::from(count));
        response.headers_mut().insert(DUPLICATES, HeaderValue::from(duplicates));
        response
    }

    /// 204; 202 where only the operating system has the events so far.
    fn without_body(self, written: StatusCode) -> Response {
        let status =
            if written == StatusCode::ACCEPTED { StatusCode::ACCEPTED } else { StatusCode::NO_CONTENT };
        let mut response = status.into_response();
        if self == Self::Minimal {
            response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("return=minimal"));
        }
        response
    }
}

/// An answer in JSON, with room for its headers.
fn as_json(status: StatusCode, text: Bytes) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn where_an_event_is_stands_in_the_body_as_serde_writes_it_and_in_headers() {
        let table = TableName::parse("a.table-1").unwrap();
        for (partition, offset, duplicate) in [(0, 0, false), (7, 10, true), (u32::MAX, u64::MAX, true)] {
            let appended = Appended { partition, offset, duplicate };
            let response = AnswerForm::Json.one(&table, appended, StatusCode::CREATED);
            assert_eq!(response.status().as_u16(), if duplicate { 200 } else { 201 });
            let header = |name: HeaderName| response.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header(PARTITION), Some(partition.to_string().as_str()));
            assert_eq!(header(OFFSET), Some(offset.to_string().as_str()));
            assert_eq!(header(DUPLICATE), duplicate.then_some("true"));
            let same = Written { offset, partition, table: table.to_string(), duplicate };
            let text = to_bytes(response.into_body(), WRITTEN_BYTES + 128).await.unwrap();
            assert_eq!(text, serde_json::to_vec(&same).unwrap());
        }
    }

    #[test]
    fn less_is_answered_where_less_is_asked_for() {
        for (lines, form) in [
            (vec![], AnswerForm::Json),
            (vec!["return=minimal"], AnswerForm::Minimal),
            (vec!["respond-async, Return = \"minimal\"; foo=1"], AnswerForm::Minimal),
            (vec!["wait=10", "return=minimal"], AnswerForm::Minimal),
            (vec!["return=representation"], AnswerForm::Json),
            (vec!["minimal"], AnswerForm::Json),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(PREFER, HeaderValue::from_static(line));
            }
            assert_eq!(AnswerForm::by_preference(&headers), form, "{lines:?}");
        }
    }
}
