//! Erasing events: what is to be erased, and how far it is. What finds the events, a key or a header, is
//! looked up now and kept nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::read;
use crate::auth::policy::Resource;
use crate::http::{
    body::Incoming,
    code::Code,
    connection::Connection,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, Table},
    json_body::{self, WholeNumber},
    params::{NoParams, Params},
    scope::{RequestScope, RequestSender},
    state::AppState,
};
use contracts::{
    catalog::{PartitionStatus, TableStatus},
    erasure::{ErasedPart, Erasure, ErasureProgress, ExpiredSearch, RecordTest},
    error::StorageError,
    event::IdempotencyKey,
    filter::{EventCondition, EventField, ReadFilter, TextPattern},
    name::{Partition, PartitionNumber, TableName},
    read::{ReadLimit, ReadOrder},
    sequence::Offset,
};
use tiering::{Positions, ReadQuery};

/// What is read at once while the events are looked for; they are not kept.
const LOOK: ReadLimit = ReadLimit { records: 1024, bytes: 256 << 10 };
/// Bytes that a reason may have.
const REASON_BYTES: usize = 1024;

/// What is to be erased: one of `offsets`, `key`, `header` and `idempotency_key`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"partition": 0, "offsets": [17, 18], "reason": "ticket 4711"}))]
pub(crate) struct ErasureAsked<'a> {
    /// The partition of the offsets, 0 if left out; the only one that is searched for the others.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    pub partition: Option<WholeNumber>,
    /// These events: at most `erase.offsets`.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Vec<u64>>)]
    pub offsets: Option<&'a RawValue>,
    /// All events with this key.
    #[serde(default)]
    pub key: Option<String>,
    /// All events with these headers.
    #[serde(default, deserialize_with = "json_body::texts")]
    pub header: Option<BTreeMap<String, String>>,
    /// The event with this idempotency key, in each partition that has one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Why, for the record. It is kept: name a ticket, not a person.
    #[serde(default)]
    pub reason: Option<String>,
}

/// An erasure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErasureShown {
    /// Its id.
    pub id: String,
    /// `pending`, `hot_done` once the volume holds nothing of the events, `done` once nothing else does.
    #[schema(example = "pending")]
    pub status: &'static str,
    /// The table.
    pub table: String,
    /// How many events it is about.
    pub events: u64,
    /// Why, as whoever asked for it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub reason: Option<String>,
    /// The principal that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub asked_by: Option<String>,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_ms: i64,
    /// When the volume held nothing of the events any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub hot_done_ms: Option<i64>,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub done_ms: Option<i64>,
    /// Segments that were written anew.
    pub segments: u64,
    /// Objects that were deleted.
    pub objects: u64,
    /// Why its last attempt failed; it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub trouble: Option<String>,
}

impl From<ErasureProgress> for ErasureShown {
    fn from(progress: ErasureProgress) -> Self {
        let ErasureProgress { erasure, trouble } = progress;
        Self {
            id: erasure.id.to_string(),
            status: erasure.status().name(),
            table: erasure.table.to_string(),
            events: erasure.events,
            reason: erasure.reason,
            asked_by: erasure.asked_by,
            asked_ms: erasure.asked_ms,
            hot_done_ms: erasure.hot_done_ms,
            done_ms: erasure.done_ms,
            segments: erasure.segments,
            objects: erasure.objects,
            trouble,
        }
    }
}

/// The `{id}` of a path; `None` if it is none.
pub(crate) struct ErasurePath(Option<Uuid>);

impl<S: Send + Sync> FromRequestParts<S> for ErasurePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self(Uuid::try_parse(&RequestScope::parameter(parts, 1)?).ok()))
    }
}

/// Erase events: their payloads, keys, headers and idempotency keys go, from both tiers.
///
/// Their offsets and times stay, and reads show them with `"erased": true`. The hash of an idempotency key
/// stays too, so that a retry is a duplicate. What a key or a header finds is what is there when it is asked
/// for; the answer comes once it was found, and that takes as long as a read of the table. The erasure itself
/// goes on after the answer, and after a restart. Of segments that retention or DELETE removed, and that are
/// kept for a while, those that hold one of the events are deleted whole.
#[utoipa::path(
    post,
    path = "/tables/{table}/erase",
    tag = "tables",
    params(Table),
    request_body(content = ErasureAsked),
    responses(
        (status = 202, description = "It is noted, and is being carried out", body = ErasureShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn erase(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
    by: RequestSender,
    incoming: Incoming,
) -> Result<(StatusCode, Json<ErasureShown>), Problem> {
    extract::json_only(&incoming.headers, "an erasure is application/json")?;
    let (body, share) = incoming.receive(&state.limits, &state.inflight).await?;
    let asked: ErasureAsked<'_> = json_body::parse(&body)?;
    let table = state.catalog.existing(&name)?;
    let (named, reason) = Named::of(asked, &state)?;
    drop((body, share));
    let parts = match named {
        Named::Offsets(partition, offsets) => given(&table, partition, offsets)?,
        Named::Search { partition, filter, key } => {
            let query = ReadQuery {
                table: name.clone(),
                partition,
                filter,
                order: ReadOrder::Oldest,
                from: Positions::new(),
            };
            find(&state, query, key, &by.connection).await?
        }
    };
    let mut erasure = Erasure::asked(name, parts, state.clock.now_ms());
    erasure.reason = reason;
    let shown = ask(&state, erasure, &by).await?;
    Ok((StatusCode::ACCEPTED, Json(shown)))
}

/// Show an erasure and how far it is. It can be asked for after its table was deleted, too.
#[utoipa::path(
    get,
    path = "/tables/{table}/erase/{id}",
    tag = "tables",
    params(Table, ("id" = String, Path, description = "The erasure")),
    responses(
        (status = 200, description = "The erasure", body = ErasureShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn erasure(
    State(state): State<AppState>,
    Table(name): Table,
    ErasurePath(id): ErasurePath,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<ErasureShown>, Problem> {
    let found = id.and_then(|id| state.erasures.find(&name, id));
    let found = found.ok_or_else(|| {
        Problem::new(Code::UnknownErasure, format!("table {name} has no erasure with this id"))
    })?;
    Ok(Json(found.into()))
}

/// Hands an erasure over, in the name of whoever asks for it.
pub(super) async fn ask(
    state: &AppState,
    mut erasure: Erasure,
    by: &RequestSender,
) -> Result<ErasureShown, Problem> {
    erasure.asked_by = by.caller.principal().map(ToString::to_string);
    let mut asked = AskedFor { erasure: erasure.clone(), by, is_refused: false };
    // Who is fenced has noted it, and could not list it.
    let may_be_noted =
        |error: &StorageError| error.may_be_written() || matches!(error, StorageError::Fenced(_));
    let erasure =
        state.erasures.ask(erasure).await.inspect_err(|error| asked.is_refused = !may_be_noted(error))?;
    Ok(ErasureProgress { erasure, trouble: None }.into())
}

/// Logs at its end who has asked for an erasure, unless it was refused: also where the client went away before it
/// was told, or nobody knows whether it was noted.
struct AskedFor<'a> {
    erasure: Erasure,
    by: &'a RequestSender,
    is_refused: bool,
}

impl Drop for AskedFor<'_> {
    fn drop(&mut self) {
        if self.is_refused {
            return;
        }
        let Erasure { id, table, events, reason, .. } = &self.erasure;
        let detail = format!("{id}, events {events}: {}", reason.as_deref().unwrap_or("no reason given"));
        self.by.log("erasure asked for", Resource::Table(table), Some(&detail));
    }
}

/// What an erasure names, and that is right.
enum Named {
    /// Events by their offsets.
    Offsets(PartitionNumber, Vec<Offset>),
    /// Events by what they have.
    Search { partition: Option<PartitionNumber>, filter: ReadFilter, key: Option<IdempotencyKey> },
}

impl Named {
    /// What a body names, and the reason.
    fn of(asked: ErasureAsked<'_>, state: &AppState) -> Result<(Self, Option<String>), Problem> {
        let ErasureAsked { partition, offsets, key, header, idempotency_key, reason } = asked;
        let wrong = |detail: &str| Problem::new(Code::BadErasure, detail);
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES) {
            return Err(wrong("reason has more than 1024 bytes"));
        }
        let partition = partition.map(|WholeNumber(number)| extract::partition_number(number, &state.limits));
        let partition = partition.transpose()?;
        let search = |conditions: Vec<EventCondition>, key| Self::Search {
            partition,
            filter: ReadFilter { conditions: conditions.into(), ..ReadFilter::default() },
            key,
        };
        let exact = |field, text| EventCondition { field, pattern: TextPattern::Exact(text) };
        let named = match (offsets, key, header, idempotency_key) {
            (Some(offsets), None, None, None) => {
                let offsets = read_offsets(offsets, state.erase.offsets)?;
                if offsets.is_empty() {
                    return Err(wrong("offsets is empty"));
                }
                Self::Offsets(partition.unwrap_or(0), offsets)
            }
            (None, Some(key), None, None) if !key.is_empty() => {
                search(vec![exact(EventField::Key, key)], None)
            }
            (None, None, Some(header), None) if !header.is_empty() => {
                if header.len() > state.limits.filters {
                    return Err(wrong("header has more members than limits.filters"));
                }
                let conditions =
                    header.into_iter().map(|(name, value)| exact(EventField::Header(name), value));
                search(conditions.collect(), None)
            }
            (None, None, None, Some(key)) if !key.is_empty() => {
                search(Vec::new(), Some(IdempotencyKey::stored(key)))
            }
            _ => {
                let detail =
                    "name exactly one of offsets, key, header and idempotency_key, and not an empty one";
                return Err(wrong(detail));
            }
        };
        Ok((named, reason))
    }
}

/// Reads offsets, which are counted before they take memory.
fn read_offsets(text: &RawValue, most: usize) -> Result<Vec<Offset>, Problem> {
    let numbers: Vec<WholeNumber> = json_body::list(text, "an array of offsets", most, too_many)?;
    numbers.into_iter().map(WholeNumber::offset).collect()
}

fn too_many(most: usize) -> Problem {
    Problem::new(Code::TooManyOffsets, format!("there are more events than erase.offsets of {most}"))
        .with("limit", most)
}

/// Offsets that were named, if all of them were given to events.
fn given(
    table: &TableStatus,
    partition: PartitionNumber,
    offsets: Vec<Offset>,
) -> Result<Vec<ErasedPart>, Problem> {
    let next = table.partition(partition).map_or(0, |status| status.watermarks.next);
    if let Some(offset) = offsets.iter().copied().find(|offset| *offset >= next) {
        let detail = format!("partition {partition} ends at {next}: offset {offset} was not given yet");
        let problem = Problem::new(Code::EraseBeyondEnd, detail);
        return Err(problem.with("partition", partition).with("offset", offset).with("next", next));
    }
    Ok(vec![ErasedPart::of(partition, offsets)])
}

/// Looks for the events that can be read now, and for those that have expired and are in objects still.
async fn find(
    state: &AppState,
    query: ReadQuery,
    key: Option<IdempotencyKey>,
    connection: &Arc<Connection>,
) -> Result<Vec<ErasedPart>, Problem> {
    let most = state.erase.offsets;
    let mut share = state.responses.sending(connection);
    let ReadQuery { table, partition, filter, .. } = query.clone();
    let mut merge = state.reader.rest(query, LOOK)?;
    let mut found: BTreeMap<PartitionNumber, BTreeSet<Offset>> = BTreeMap::new();
    let mut count = 0;
    let is_wanted: RecordTest = Arc::new(move |record| {
        let event = &record.event;
        let has_key = key.as_ref().is_none_or(|key| event.idempotency_key.as_ref() == Some(key));
        !event.is_erased() && has_key && filter.wants(event)
    });
    while let Some(record) = read::next_record(state, &mut merge, &mut share, connection).await? {
        if !is_wanted(&record) {
            continue;
        }
        if count == most {
            return Err(too_many(most));
        }
        count += 1;
        found.entry(record.partition).or_default().insert(record.offset);
    }
    drop((merge, share));
    // The earliest offsets as they are now: what has expired during the search is below them, and not missed.
    for status in &state.catalog.existing(&table)?.partitions {
        let (number, before) = (status.number, status.watermarks.earliest);
        if before == 0 || partition.is_some_and(|asked| asked != number) {
            continue;
        }
        let of = Partition::new(table.clone(), number);
        let search = ExpiredSearch { before, most, is_wanted: Arc::clone(&is_wanted) };
        let _waits_for_s3 = connection.wait();
        let expired = tokio::select! {
            expired = state.erasures.expired_offsets(&of, search) => expired?,
            () = state.stopping.cancelled() => return Err(StorageError::Closed.into()),
        };
        for offset in expired {
            count += usize::from(found.entry(number).or_default().insert(offset));
        }
        if count > most {
            return Err(too_many(most));
        }
    }
    let part =
        |(partition, offsets): (_, BTreeSet<_>)| ErasedPart::of(partition, offsets.into_iter().collect());
    Ok(found.into_iter().map(part).collect())
}

/// The erasure of all that a deleted table has left in either tier: of the events before it was deleted, not
/// of those that were written since. `before` is the table before it was deleted.
pub(super) fn whole(name: &TableName, before: &TableStatus, after: &TableStatus, now_ms: i64) -> Erasure {
    let ended = after.partitions.iter().filter(|status| status.watermarks.earliest > 0);
    let part = |status: &PartitionStatus| ErasedPart {
        partition: status.number,
        ranges: vec![(0, status.watermarks.earliest)],
    };
    let mut erasure = Erasure::asked(name.clone(), ended.map(part).collect(), now_ms);
    let kept = |status: &PartitionStatus| status.watermarks.next - status.watermarks.earliest;
    erasure.events = before.partitions.iter().map(kept).sum();
    erasure.reason = Some("DELETE of the table with now=true".to_owned());
    erasure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(text: &str, most: usize) -> Result<Vec<Offset>, Problem> {
        read_offsets(serde_json::from_str(text).unwrap(), most)
    }

    #[test]
    fn offsets_are_counted_and_are_whole_numbers() {
        assert_eq!(offsets("[3, 1,1]", 3).unwrap(), [3, 1, 1]);
        assert!(offsets("[]", 3).unwrap().is_empty());
        assert_eq!(offsets("[18446744073709551616]", 3).unwrap(), [Offset::MAX]);
        assert_eq!(offsets("[1,2,3,4]", 3).unwrap_err().code(), Code::TooManyOffsets);
        for wrong in ["1", "[-1]", "[1.5]", "[\"1\"]", "{}", "[null]"] {
            assert_eq!(offsets(wrong, 3).unwrap_err().code(), Code::BadJson, "{wrong}");
        }
    }
}
