//! The segments of a table: the objects in S3 that other programs may read without Zombi.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    extract::{FromRequestParts, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::read::X_ACCEL_BUFFERING;
use crate::http::{
    accept::{self, Shape},
    answers::{answer, json, page_end},
    code::Code,
    encode::NDJSON,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::Table,
    limits::Limits,
    params::{AfterParam, FormatParam, LimitParam, Params, PartitionParam, TimeParam},
    scope::OnConnection,
    state::AppState,
};
use contracts::{
    cold::ListedSegment,
    filter::TimeFilter,
    name::{Partition, PartitionNumber, TableName},
    sequence::Offset,
};

/// Segments of a page that names no limit.
const DEFAULT_LIMIT: usize = 1000;
/// Segments that are looked up at once.
const LOOK_UP: usize = 256;
/// Bytes of an answer that are sent at once.
const PIECE_BYTES: usize = 32 << 10;
/// What an answer holds: a piece, and the segments that were looked up for it.
const HELD_BYTES: usize = PIECE_BYTES + LOOK_UP * 1024;

/// Parameters of a list of segments.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SegmentsParams {
    /// Segments of a page, 1,000 if left out; all in NDJSON
    #[param(inline)]
    limit: Option<LimitParam>,
    /// Only segments behind this place: `next` of the page before
    #[param(inline)]
    after: Option<AfterParam>,
    /// Only segments that may have events from then on: milliseconds, or RFC 3339
    #[param(inline)]
    since: Option<TimeParam>,
    /// Only segments that may have events before then: milliseconds, or RFC 3339
    #[param(inline)]
    until: Option<TimeParam>,
    /// One partition only
    #[param(inline)]
    partition: Option<PartitionParam>,
    /// The shape of the answer, whatever `Accept` says: `json` or `ndjson`
    #[param(inline)]
    format: Option<FormatParam>,
}

/// A page of the segments.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SegmentsShown {
    /// In order of partitions and offsets.
    pub segments: Vec<SegmentShown>,
    /// Whether there are more.
    pub has_more: bool,
    /// Where to go on, `after` it; null if there are no more.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// A segment: one immutable object with a run of one partition's events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SegmentShown {
    /// Where the object is.
    #[schema(example = "s3://bucket/segments/events/00000/0-1000-1.jsonl.zst")]
    pub url: String,
    /// The partition.
    pub partition: u32,
    /// Its first offset.
    pub start: u64,
    /// The first offset after it.
    pub end: u64,
    /// How many events it holds.
    pub events: u64,
    /// The length of the object.
    pub bytes: u64,
    /// The smallest timestamp in it.
    pub min_timestamp_ms: i64,
    /// The largest timestamp in it.
    pub max_timestamp_ms: i64,
    /// SHA-256 of the object, in hex.
    pub sha256: String,
}

impl SegmentShown {
    fn of(partition: PartitionNumber, listed: &ListedSegment) -> Self {
        let meta = &listed.meta;
        Self {
            url: listed.url.clone(),
            partition,
            start: meta.range.start,
            end: meta.range.end,
            events: meta.range.len(),
            bytes: meta.bytes,
            min_timestamp_ms: meta.min_ms,
            max_timestamp_ms: meta.max_ms,
            sha256: meta.sha256.clone(),
        }
    }
}

/// The shape that `Accept` wants.
pub(crate) struct AcceptedShape(Result<Shape, Problem>);

impl<S: Send + Sync> FromRequestParts<S> for AcceptedShape {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self(accept::shape(&parts.headers)))
    }
}

/// List the segments of a table that exist now.
///
/// A segment that is merged while the list is being read may be listed once more as a part of the merged
/// one: `start` and `end` say what each holds. NDJSON has all of them, one a line. Without a bucket there are
/// none.
#[utoipa::path(
    get,
    path = "/tables/{table}/segments",
    tag = "tables",
    params(Table, SegmentsParams),
    responses(
        (
            status = 200,
            description = "A page of the segments, or all",
            content((SegmentsShown = "application/json"), (String = "application/x-ndjson"))
        ),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn segments(
    State(state): State<AppState>,
    Table(name): Table,
    Params(params): Params<SegmentsParams>,
    OnConnection(connection): OnConnection,
    AcceptedShape(accepted): AcceptedShape,
) -> Result<Response, Problem> {
    let shape = params.format.as_ref().map(FormatParam::shape).transpose()?.map_or(accepted, Ok)?;
    let most = state.limits.page_records;
    let limit = params.limit.as_ref().map(|limit| limit.up_to(most)).transpose()?;
    let mut walk = SegmentWalk::new(&params, &state, name)?;
    // An error now becomes a status; later it can only break the answer off.
    walk.look().await?;
    let mut share = state.responses.sending(&connection);
    share.grow_to(HELD_BYTES).await?;
    match shape {
        Shape::Json => {
            Ok(answer(share.stream::<Problem>(page(walk, limit.unwrap_or(DEFAULT_LIMIT).min(most)))))
        }
        Shape::Ndjson => {
            let body = share.stream::<Problem>(lines(walk, limit.unwrap_or(usize::MAX)));
            let headers = [(header::CONTENT_TYPE, NDJSON), (X_ACCEL_BUFFERING, "no")];
            Ok((headers, body).into_response())
        }
        Shape::Protobuf | Shape::Events | Shape::CloudEvents => {
            Err(Problem::new(Code::NotAcceptable, "a list of segments is application/json or NDJSON"))
        }
    }
}

fn page(mut walk: SegmentWalk, limit: usize) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    async_stream::try_stream! {
        let (mut count, mut next) = (0, None);
        let mut out = br#"{"segments":["#.to_vec();
        while count < limit {
            let Some(segment) = walk.next().await? else { break };
            if count > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&json(&segment)?);
            (count, next) = (count + 1, Some(format!("{}-{}", segment.partition, segment.end)));
            if out.len() >= PIECE_BYTES {
                yield Bytes::from(std::mem::take(&mut out));
            }
        }
        let has_more = walk.look().await?;
        out.extend_from_slice(&page_end(has_more, next)?);
        yield Bytes::from(out);
    }
}

fn lines(mut walk: SegmentWalk, limit: usize) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    async_stream::try_stream! {
        let (mut count, mut out) = (0, Vec::new());
        while count < limit {
            let Some(segment) = walk.next().await? else { break };
            out.extend_from_slice(&json(&segment)?);
            out.push(b'\n');
            count += 1;
            if out.len() >= PIECE_BYTES {
                yield Bytes::from(std::mem::take(&mut out));
            }
        }
        if !out.is_empty() {
            yield Bytes::from(out);
        }
    }
}

/// Goes through the segments of a table in order of partitions and offsets, some at a time: neither the
/// manifests' state nor a worker is kept from others.
struct SegmentWalk {
    state: AppState,
    table: TableName,
    time: TimeFilter,
    /// The partitions that are left; the first is being looked at.
    partitions: VecDeque<PartitionNumber>,
    /// Segments of it that end behind this are left.
    from: Offset,
    listed: VecDeque<ListedSegment>,
}

impl SegmentWalk {
    fn new(params: &SegmentsParams, state: &AppState, table: TableName) -> Result<Self, Problem> {
        let limits: &Limits = &state.limits;
        let partition = params.partition.as_ref().map(|one| one.number(limits)).transpose()?;
        let since = params.since.as_ref().map(|since| since.bound("since")).transpose()?;
        let until = params.until.as_ref().map(|until| until.bound("until")).transpose()?;
        let (first, from) = params.after.as_ref().map_or(Ok((0, 0)), AfterParam::place)?;
        let status = state.catalog.existing(&table)?;
        let numbers = status.partitions.iter().map(|status| status.number);
        let partitions: VecDeque<_> = numbers
            .filter(|number| partition.is_none_or(|wanted| wanted == *number) && *number >= first)
            .collect();
        let from = if partitions.front() == Some(&first) { from } else { 0 };
        let time = TimeFilter { since, until };
        Ok(Self { state: Arc::clone(state), table, time, partitions, from, listed: VecDeque::new() })
    }

    /// Looks up segments until there is one that is wanted; returns whether there is.
    ///
    /// # Errors
    /// 503 while the bucket is not open.
    async fn look(&mut self) -> Result<bool, Problem> {
        loop {
            while let Some(listed) = self.listed.front() {
                if self.time.wants_any(listed.meta.min_ms, listed.meta.max_ms) {
                    return Ok(true);
                }
                self.listed.pop_front();
            }
            let Some(number) = self.partitions.front().copied() else { return Ok(false) };
            tokio::task::yield_now().await;
            let partition = Partition::new(self.table.clone(), number);
            // What retention or DELETE has taken from readers exists for a while.
            let table = self.state.catalog.table(&self.table);
            let status = table.as_ref().and_then(|table| table.partition(number));
            let earliest = status.map_or(Offset::MAX, |status| status.watermarks.earliest);
            let found = self.state.reader.segments(&partition, self.from.max(earliest), LOOK_UP)?;
            match found.last() {
                Some(last) => self.from = last.meta.range.end,
                None => {
                    self.partitions.pop_front();
                    self.from = 0;
                }
            }
            self.listed.extend(found);
        }
    }

    /// The next segment that is wanted.
    async fn next(&mut self) -> Result<Option<SegmentShown>, Problem> {
        if !self.look().await? {
            return Ok(None);
        }
        let (number, listed) = (self.partitions.front().copied(), self.listed.pop_front());
        Ok(number.zip(listed).map(|(number, listed)| SegmentShown::of(number, &listed)))
    }
}
