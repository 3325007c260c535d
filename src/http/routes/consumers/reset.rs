//! Resets of consumer groups: all partitions of a table at once, to one end, to a time, or one to an offset.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::{COMMITTED_BYTES, commit};
use crate::auth::{policy::Resource, verb::Verb};
use crate::http::{
    answers,
    body::Incoming,
    code::Code,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, AnyGroup, GroupPath},
    json_body::{self, WholeNumber},
    limits::Limits,
    params::{NoParams, Params},
    scope::RequestSender,
    state::AppState,
    times,
};
use contracts::{
    catalog::TableStatus,
    clock::TimestampMs,
    consumers::Commit,
    error::StorageError,
    name::{Partition, PartitionNumber},
    sequence::{Offset, Watermarks},
};

/// Where to move a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"table": "events", "to": {"by": "-1h"}, "dry_run": true}))]
pub(crate) struct ResetToMake<'a> {
    /// The table; `topic` is accepted too.
    #[serde(alias = "topic")]
    table: String,
    /// The place: `"earliest"`, `"latest"`, `{"time": T}`, `{"by": "-1h"}`, or one partition's
    /// `{"offset": N, "partition": P}`.
    #[serde(borrow)]
    #[schema(value_type = ResetTo)]
    to: &'a RawValue,
    /// Whether to show what would be done, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

/// The place to which a group is moved.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described; `target` reads one or the other")]
pub(crate) enum ResetTo {
    /// An end of each partition.
    End(ResetEnd),
    /// A place between the two.
    Place(ResetPlace),
}

/// An end of each partition: its first event that can be read, or where the next one will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ResetEnd {
    /// The first event that can be read.
    Earliest,
    /// Where the next event will be.
    Latest,
}

/// A place between the two ends: `time`, or `by`, or `offset` with `partition`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetPlace {
    /// The first event that is not before then: milliseconds, or RFC 3339.
    time: Option<Value>,
    /// The next offset to read.
    #[schema(value_type = Option<u64>)]
    offset: Option<WholeNumber>,
    /// The partition that it is in.
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1023)]
    partition: Option<WholeNumber>,
    /// The first event that is not older: `-1h`, `-7d`.
    by: Option<String>,
}

/// A group as it was, and as it is now or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResetShown {
    /// The group.
    pub group: String,
    /// The table.
    pub table: String,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Every partition of the table, in order of their numbers.
    pub partitions: Vec<ResetPartition>,
}

/// A partition before and after a reset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResetPartition {
    /// The partition.
    pub partition: u32,
    /// The next offset to read before; null if the group has committed none.
    #[schema(required = true)]
    pub old: Option<u64>,
    /// The next offset to read after.
    #[schema(required = true)]
    pub new: Option<u64>,
}

/// A place to which a group is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResetTarget {
    End(ResetEnd),
    Since(TimestampMs),
    Offset(PartitionNumber, Offset),
}

/// Move a consumer group in every partition of a table, forwards or backwards.
///
/// The offsets are durable before the answer. Without `dry_run` it needs the right to rewind the group; with
/// it the right to commit is enough.
#[utoipa::path(
    post,
    path = "/consumers/{group}/reset",
    tag = "consumers",
    params(GroupPath),
    request_body(content = ResetToMake),
    responses(
        (status = 200, description = "The old and the new offsets", body = ResetShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn reset(
    State(state): State<AppState>,
    AnyGroup(group): AnyGroup,
    Params(NoParams {}): Params<NoParams>,
    by: RequestSender,
    incoming: Incoming,
) -> Result<Response, Problem> {
    // What the caller needs follows from the body; one that may do neither is refused before it.
    if !by.caller.may(Verb::Commit, Resource::Group(&group)) {
        by.caller.allow_to(Verb::Rewind, Resource::Group(&group))?;
    }
    extract::json_only(&incoming.headers, "a reset is application/json")?;
    let (body, _received) = incoming.receive(&state.limits, &state.inflight).await?;
    let asked: ResetToMake<'_> = json_body::parse(&body)?;
    let dry_run = asked.dry_run;
    let is_tried = dry_run || contracts::mutant("reset_verb");
    let verb = if is_tried { Verb::Commit } else { Verb::Rewind };
    by.caller.allow_to(verb, Resource::Group(&group))?;
    let name = extract::table_name(&asked.table)?;
    if !contracts::mutant("reset_table") {
        by.caller.allow_to(Verb::Read, Resource::Table(&name))?;
    }
    let target = target(asked.to, &state.limits, state.clock.now_ms())?;

    let table = state.catalog.existing(&name)?;
    let mut share = state.responses.sending(&by.connection);
    share.grow_to((2 * table.partitions.len() + 1) * COMMITTED_BYTES).await?;
    let waits = by.connection.wait();
    let new = places(&state, &table, target).await?;
    drop(waits);
    let old: BTreeMap<PartitionNumber, Offset> = state
        .consumers
        .offsets(&group)
        .await?
        .into_iter()
        .filter(|(partition, _)| partition.table == name)
        .map(|(partition, offset)| (partition.number, offset))
        .collect();
    let shown = show(&table, &old, &new);
    let moved = new.iter().filter(|(number, offset)| old.get(*number) != Some(*offset));
    let offsets: Vec<_> =
        moved.map(|(&number, &offset)| (Partition::new(name.clone(), number), offset)).collect();
    if !dry_run && !offsets.is_empty() {
        let said = commit::said(&offsets);
        let commit = Commit { group: group.clone(), offsets, force: true, made_by: by.caller.maker() };
        state.consumers.commit(commit).await?;
        by.log("consumer group moved", Resource::Group(&group), Some(&said));
    }
    let (group, table) = (group.to_string(), name.to_string());
    let body = answers::json(&ResetShown { group, table, dry_run, partitions: shown })?;
    share.grow_to(body.len()).await?;
    Ok(answers::answer(share.body(body)))
}

/// Every partition that the table has or that is moved.
fn show(
    table: &TableStatus,
    old: &BTreeMap<PartitionNumber, Offset>,
    new: &BTreeMap<PartitionNumber, Offset>,
) -> Vec<ResetPartition> {
    let there = table.partitions.iter().map(|status| (status.number, None));
    let mut all: BTreeMap<PartitionNumber, Option<Offset>> = there.collect();
    all.extend(old.iter().chain(new).map(|(number, offset)| (*number, Some(*offset))));
    let one = |(partition, new)| ResetPartition { partition, old: old.get(&partition).copied(), new };
    all.into_iter().map(one).collect()
}

/// The new offsets of the partitions that are moved.
async fn places(
    state: &AppState,
    table: &TableStatus,
    target: ResetTarget,
) -> Result<BTreeMap<PartitionNumber, Offset>, Problem> {
    let all = |place: fn(Watermarks) -> Offset| {
        table.partitions.iter().map(|status| (status.number, place(status.watermarks))).collect()
    };
    match target {
        ResetTarget::End(ResetEnd::Earliest) => Ok(all(|watermarks| watermarks.earliest)),
        ResetTarget::End(ResetEnd::Latest) => Ok(all(|watermarks| watermarks.next)),
        ResetTarget::Since(since) => Ok(state.reader.first_since(table.name.clone(), since).await?),
        ResetTarget::Offset(number, offset) => {
            let watermarks = table.partition(number).map(|status| status.watermarks).unwrap_or_default();
            if offset > watermarks.next {
                let partition = Partition::new(table.name.clone(), number);
                let error = StorageError::BeyondEnd { partition, offset, next: watermarks.next };
                return Err(commit::refused(error));
            }
            // What is gone cannot be read again: the group goes on with what is left.
            Ok([(number, offset.max(watermarks.earliest))].into())
        }
    }
}

/// The place that `to` names.
fn target(to: &RawValue, limits: &Limits, now_ms: TimestampMs) -> Result<ResetTarget, Problem> {
    let wrong = || {
        let detail = "`to` is \"earliest\", \"latest\", {\"time\": T}, {\"by\": \"-1h\"} or {\"offset\": N, \
                      \"partition\": P}";
        Problem::new(Code::BadJson, detail)
    };
    if to.get().starts_with('"') {
        return serde_json::from_str(to.get()).map(ResetTarget::End).map_err(|_| wrong());
    }
    let in_body = |problem: Problem| Problem::new(Code::BadJson, problem.detail());
    match json_body::parse(to.get().as_bytes())? {
        ResetPlace { time: Some(time), offset: None, partition: None, by: None } => {
            let text = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
            Ok(ResetTarget::Since(times::bound("time", &text).map_err(in_body)?))
        }
        ResetPlace { time: None, offset: None, partition: None, by: Some(by) } => {
            let ago = times::ago("by", &by).map_err(in_body)?;
            let ago_ms = TimestampMs::try_from(ago.as_millis()).unwrap_or(TimestampMs::MAX);
            Ok(ResetTarget::Since(now_ms.saturating_sub(ago_ms)))
        }
        ResetPlace { time: None, offset: Some(offset), partition: Some(partition), by: None } => {
            let number = extract::partition_number(partition.0, limits)?;
            Ok(ResetTarget::Offset(number, offset.offset()?))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_one_place_and_nothing_else() {
        let target = |text: &str| {
            let to: &RawValue = serde_json::from_str(text).unwrap();
            super::target(to, &Limits::DEFAULT, 10_000_000).map_err(|problem| problem.code())
        };
        for (text, expected) in [
            (r#""earliest""#, ResetTarget::End(ResetEnd::Earliest)),
            (r#""latest""#, ResetTarget::End(ResetEnd::Latest)),
            (r#"{"time": 5}"#, ResetTarget::Since(5)),
            (r#"{"time": -5}"#, ResetTarget::Since(-5)),
            (r#"{"time": "5"}"#, ResetTarget::Since(5)),
            (r#"{"time": "1970-01-01T00:00:01Z"}"#, ResetTarget::Since(1000)),
            (r#"{"by": "-1h"}"#, ResetTarget::Since(6_400_000)),
            (r#"{"offset": 7, "partition": 3}"#, ResetTarget::Offset(3, 7)),
            (r#"{"offset": 18446744073709551616, "partition": 3}"#, ResetTarget::Offset(3, Offset::MAX)),
        ] {
            assert_eq!(target(text), Ok(expected), "{text}");
        }
        for text in [
            r#""Earliest""#,
            r#""beginning""#,
            "null",
            "5",
            "[5, 3]",
            "{}",
            r#"{"offset": 7}"#,
            r#"{"partition": 7}"#,
            r#"{"offset": -7, "partition": 0}"#,
            r#"{"offset": 7, "partition": 3, "time": 5}"#,
            r#"{"offset": 7, "offset": 7, "partition": 3}"#,
            r#"{"time": 5, "by": "-1h"}"#,
            r#"{"time": true}"#,
            r#"{"time": 1.5}"#,
            r#"{"time": "yesterday"}"#,
            r#"{"by": "1h"}"#,
            r#"{"by": 1}"#,
            r#"{"colour": "red"}"#,
            r#"{"earliest": null}"#,
        ] {
            assert_eq!(target(text), Err(Code::BadJson), "{text}");
        }
        assert_eq!(target(r#"{"offset": 7, "partition": 1024}"#), Err(Code::PartitionOutOfRange));
    }

    #[test]
    fn every_partition_is_shown_also_those_that_stay() {
        let shown: Vec<_> = show(
            &TableStatus {
                name: contracts::name::TableName::parse("t").unwrap(),
                settings: Default::default(),
                is_deleted: false,
                keys_elsewhere: false,
                partitions: Vec::new(),
            },
            &BTreeMap::from([(0, 5), (1, 6)]),
            &BTreeMap::from([(1, 2), (7, 0)]),
        )
        .into_iter()
        .map(|one| (one.partition, one.old, one.new))
        .collect();
        assert_eq!(shown, [(0, Some(5), Some(5)), (1, Some(6), Some(2)), (7, None, Some(0))]);
    }
}
