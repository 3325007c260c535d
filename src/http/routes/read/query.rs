//! What a read asks for: its parameters, and the query that they make.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use utoipa::IntoParams;

use super::{goes_on, next_record};
use crate::http::{
    accept::Shape,
    code::Code,
    connection::Connection,
    error::Problem,
    filters,
    limits::Limits,
    params::{
        CursorParam, FilterParam, FilteredParams, FormatParam, LastParam, LimitParam, OffsetParam,
        OrderParam, PartitionParam, TimeParam, WaitParam,
    },
    state::AppState,
};
use contracts::{
    filter::{ReadFilter, TimeFilter},
    name::TableName,
    read::{ReadLimit, ReadOrder},
};
use tiering::{FetchLimits, Positions, ReadQuery};

/// What is fetched at once while the last events are looked for; they are not kept.
const LAST_FETCH: FetchLimits =
    FetchLimits { chunk: ReadLimit { records: 1024, bytes: 256 << 10 }, most_bytes: 1 << 20 };

/// Parameters of a read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadParams {
    /// Records of a page; 100 if left out, at most `limits.page_records`
    #[param(inline)]
    limit: Option<LimitParam>,
    /// Only events from then on: milliseconds, or RFC 3339
    #[param(inline)]
    since: Option<TimeParam>,
    /// Only events before then: milliseconds, or RFC 3339
    #[param(inline)]
    until: Option<TimeParam>,
    /// Only events with this key; `*` at the end: with a key that begins so
    #[param(inline)]
    key: Option<FilterParam>,
    /// Only events whose header `type` is this; `*` at the end: begins so. Any header: `header.NAME=VALUE`
    #[param(inline)]
    r#type: Option<FilterParam>,
    /// Only events whose header `subject` is this; `*` at the end: begins so
    #[param(inline)]
    subject: Option<FilterParam>,
    /// One partition only
    #[param(inline)]
    partition: Option<PartitionParam>,
    /// Goes with `partition`: from this offset on
    #[param(inline)]
    offset: Option<OffsetParam>,
    /// `newest` begins at the end and goes back; not with `wait`, `last` or server-sent events
    #[param(inline)]
    order: Option<OrderParam>,
    /// Begins so many events before the end, at most `limits.page_records`
    #[param(inline)]
    last: Option<LastParam>,
    /// Goes on where an earlier page ended, with its filters and its order; alone beside `limit` and `wait`
    #[param(inline)]
    cursor: Option<CursorParam>,
    /// Wait so long for the first new event if there is none: `30s`, `1m`; at most `limits.wait_secs`
    #[param(inline)]
    wait: Option<WaitParam>,
    /// The shape of the answer, whatever `Accept` says: `json`, `ndjson` or `cloudevents`
    #[param(inline)]
    format: Option<FormatParam>,
}

/// A read as it was asked for.
pub(super) struct AskedRead {
    /// The shape of the answer.
    pub(super) shape: Shape,
    /// What to read. `order` is not in it yet: see [`AskedRead::query`].
    query: ReadQuery,
    order: ReadOrder,
    last: Option<usize>,
    /// How many records are wanted at most, if the client says so.
    pub(super) limit: Option<usize>,
    /// How long the client waits for the first record.
    pub(super) wait: Duration,
}

impl AskedRead {
    /// What the parameters ask for.
    ///
    /// # Errors
    /// 400; 422 for a partition that is out of range.
    pub(super) fn new(
        asked: &FilteredParams<ReadParams>,
        shape: Shape,
        limits: &Limits,
        table: TableName,
    ) -> Result<Self, Problem> {
        let params = &asked.params;
        let limit = params.limit.as_ref().map(|limit| limit.up_to(limits.page_records)).transpose()?;
        // As long as the client asks for, but no longer than proxies wait.
        let most = limits.wait_secs.duration();
        let wait = params.wait.as_ref().map_or(Ok(Duration::ZERO), |wait| wait.up_to(most))?;
        let last = params.last.as_ref().map(|last| last.up_to(limits.page_records)).transpose()?;
        let order = params.order.as_ref().map_or(Ok(ReadOrder::Oldest), OrderParam::order)?;
        if let Some(cursor) = &params.cursor {
            if !params.is_of_cursor() || !asked.headers.is_empty() {
                let detail = "a cursor carries the filters and the order of its read: it goes with limit, \
                              wait and format only";
                return Err(Problem::new(Code::BadQuery, detail));
            }
            let query = cursor.query(&table)?;
            let order = query.order;
            return Self { shape, query, order, last, limit, wait }.checked();
        }
        let query = ReadQuery {
            filter: params.filter(&asked.headers, limits)?,
            partition: params.partition.as_ref().map(|one| one.number(limits)).transpose()?,
            order: ReadOrder::Oldest,
            from: Positions::new(),
            table,
        };
        let query = params.beginning_at(query)?;
        Self { shape, query, order, last, limit, wait }.checked()
    }

    /// The same read from where a client was cut off. Its URL is still that of the first request.
    ///
    /// # Errors
    /// 400 if that was a read that goes back.
    pub(super) fn resumed(self, query: ReadQuery) -> Result<Self, Problem> {
        let order = query.order;
        Self { query, order, last: None, ..self }.checked()
    }

    /// Refuses what does not go together.
    fn checked(self) -> Result<Self, Problem> {
        let is_newest = self.order == ReadOrder::Newest;
        if is_newest && self.shape == Shape::Events {
            let detail = "order=newest ends at the earliest event: a stream of events goes forward";
            return Err(Problem::new(Code::BadQuery, detail));
        }
        if is_newest && self.last.is_some() {
            return Err(Problem::new(
                Code::BadQuery,
                "last gives the usual order: it does not go with newest",
            ));
        }
        if is_newest && !self.wait.is_zero() {
            let detail = "order=newest ends at the earliest event: there is nothing to wait for";
            return Err(Problem::new(Code::BadQuery, detail));
        }
        if self.last.is_some() && !self.query.from.is_empty() {
            return Err(Problem::new(Code::BadQuery, "last says where to begin: it does not go with offset"));
        }
        Ok(self)
    }

    /// Whether the answer is a stream that may have nothing to say for long while it is looked for.
    pub(super) fn may_be_silent(&self) -> bool {
        let is_stream = matches!(self.shape, Shape::Ndjson | Shape::Events);
        is_stream && (self.last.is_some() || self.query.filter.looks_into_events())
    }

    /// How many records a page has at most, unless there are many bytes.
    pub(super) fn page_records(&self, default: usize) -> usize {
        self.limit.or(self.last.filter(|last| *last > 0)).unwrap_or(default)
    }

    /// What to read, but for [`AskedRead::begin`].
    ///
    /// # Errors
    /// 404, 410 and 416.
    pub(super) fn query(&self, state: &AppState) -> Result<ReadQuery, Problem> {
        match (self.order, self.query.order) {
            (ReadOrder::Newest, ReadOrder::Oldest) => {
                state.reader.turned(&self.query).map_err(|error| {
                    // Back from the nearest place that there is.
                    match state.reader.turned(&state.reader.moved_on(&self.query)) {
                        Ok(next) => goes_on(&next, error.into()),
                        Err(_) => error.into(),
                    }
                })
            }
            _ => Ok(self.query.clone()),
        }
    }

    /// Moves a query to where it gives the last events, if these are asked for. It may have to look at
    /// everything.
    ///
    /// # Errors
    /// Those of a read.
    pub(super) async fn begin(
        &self,
        query: &mut ReadQuery,
        state: &AppState,
        connection: &Arc<Connection>,
    ) -> Result<(), Problem> {
        let Some(last) = self.last else { return Ok(()) };
        let back = ReadQuery { order: ReadOrder::Newest, ..query.clone() };
        let mut share = state.responses.sending(connection);
        let mut merge = state.reader.merge(back, LAST_FETCH)?;
        let mut found = 0;
        while found < last && next_record(state, &mut merge, &mut share, connection).await?.is_some() {
            found += 1;
        }
        query.from = merge.positions();
        // What was found may have expired meanwhile.
        *query = state.reader.moved_on(query);
        Ok(())
    }
}

impl ReadParams {
    /// The shape that is asked for, if the query says so.
    ///
    /// # Errors
    /// 400 if it is not known.
    pub(super) fn shape(&self) -> Result<Option<Shape>, Problem> {
        self.format.as_ref().map(FormatParam::shape).transpose()
    }

    /// Whether nothing is given that a cursor has.
    fn is_of_cursor(&self) -> bool {
        let Self { since, until, key, r#type, subject, partition, offset, order, last, .. } = self;
        since.is_none()
            && until.is_none()
            && key.is_none()
            && r#type.is_none()
            && subject.is_none()
            && partition.is_none()
            && offset.is_none()
            && order.is_none()
            && last.is_none()
    }

    fn filter(&self, headers: &[(String, String)], limits: &Limits) -> Result<ReadFilter, Problem> {
        let since = self.since.as_ref().map(|since| since.bound("since")).transpose()?;
        let until = self.until.as_ref().map(|until| until.bound("until")).transpose()?;
        let named = [("key", &self.key), ("type", &self.r#type), ("subject", &self.subject)];
        let named = named.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.0.as_str())));
        let headers = headers.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let conditions = filters::conditions(named.chain(headers), limits)?;
        Ok(ReadFilter { time: TimeFilter { since, until }, conditions: conditions.into() })
    }

    /// The query from the offset that is asked for.
    fn beginning_at(&self, mut query: ReadQuery) -> Result<ReadQuery, Problem> {
        match (query.partition, &self.offset) {
            (_, None) => {}
            (Some(partition), Some(offset)) => {
                query.from.insert(partition, offset.offset("offset")?);
            }
            (None, Some(_)) => return Err(Problem::new(Code::BadQuery, "offset goes with partition")),
        }
        Ok(query)
    }
}
