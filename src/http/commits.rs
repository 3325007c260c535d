//! Commits of consumer offsets as clients write them: for the route, and for what passes them on by shard.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    code::Code,
    error::Problem,
    extract,
    json_body::{self, Object, WholeNumber, too_many},
    limits::Limits,
};
use contracts::{name::Partition, sequence::Offset};

/// Offsets to commit: `table` and `offset`, with `partition`, or `commits`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"table": "events", "partition": 0, "offset": 42}))]
pub(crate) struct CommitToWrite<'a> {
    /// The table; `topic` is accepted too.
    #[serde(alias = "topic")]
    table: Option<String>,
    /// 0 if left out.
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1023)]
    partition: Option<WholeNumber>,
    /// The next offset to read.
    #[schema(value_type = Option<u64>)]
    offset: Option<WholeNumber>,
    /// Several at once, all or nothing.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<OneCommit>>)]
    commits: Option<&'a RawValue>,
    /// Whether an offset may step back.
    #[serde(default)]
    force: bool,
}

/// One of several commits.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneCommit {
    /// The table; `topic` is accepted too.
    #[serde(alias = "topic")]
    table: String,
    /// 0 if left out.
    #[serde(default)]
    #[schema(value_type = u32, minimum = 0, maximum = 1023)]
    partition: WholeNumber,
    /// The next offset to read.
    #[schema(value_type = u64)]
    offset: WholeNumber,
}

/// The offsets of a request, each partition at most once, and whether they may step back.
///
/// # Errors
/// 400, 413 or 422.
pub(super) fn read(body: &[u8], limits: &Limits) -> Result<(Vec<(Partition, Offset)>, bool), Problem> {
    let request: CommitToWrite<'_> = json_body::parse(body)?;
    let force = request.force;
    let commits: Vec<Object<OneCommit>> = match request {
        CommitToWrite { table: Some(table), partition, offset: Some(offset), commits: None, .. } => {
            vec![Object(OneCommit { table, partition: partition.unwrap_or_default(), offset })]
        }
        CommitToWrite { table: None, partition: None, offset: None, commits: Some(commits), .. } => {
            json_body::list(commits, "an array", limits.bulk_records, too_many)?
        }
        _ => return Err(either()),
    };
    if commits.is_empty() {
        return Err(either());
    }
    let (mut offsets, mut named) = (Vec::with_capacity(commits.len()), HashSet::new());
    for Object(one) in commits {
        let partition = Partition::new(
            extract::table_name(&one.table)?,
            extract::partition_number(one.partition.0, limits)?,
        );
        if !named.insert(partition.clone()) {
            return Err(Problem::new(Code::DuplicateCommit, format!("{partition} is named twice")));
        }
        offsets.push((partition, one.offset.offset()?));
    }
    Ok((offsets, force))
}

fn either() -> Problem {
    Problem::new(Code::BadJson, "give either table, partition and offset, or commits")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_description_states_the_bounds_that_hold_by_default() {
        for schema in [CommitToWrite::schema(), OneCommit::schema()] {
            let described: Value = serde_json::to_value(schema).unwrap();
            let most = described["properties"]["partition"]["maximum"].as_u64();
            assert_eq!(most, Some(u64::from(Limits::DEFAULT.partitions_per_table - 1)));
        }
    }

    #[test]
    fn a_commit_is_one_offset_or_a_list_and_names_each_partition_once() {
        let limits = Limits { bulk_records: 2, ..Limits::DEFAULT };
        let offsets = |body: &str| {
            read(body.as_bytes(), &limits)
                .map(|(offsets, force)| (offsets.len(), force))
                .map_err(|problem| problem.code())
        };
        for (body, expected) in [
            (r#"{"table":"t","offset":1}"#, Ok((1, false))),
            (r#"{"topic":"t","partition":3,"offset":1,"force":true}"#, Ok((1, true))),
            (
                r#"{"commits":[{"table":"t","offset":1},{"topic":"t","partition":1,"offset":0}]}"#,
                Ok((2, false)),
            ),
            (r#"{"commits":[]}"#, Err(Code::BadJson)),
            (r#"{"table":"t"}"#, Err(Code::BadJson)),
            (r#"{"table":"t","offset":1,"commits":[{"table":"t","offset":1}]}"#, Err(Code::BadJson)),
            (r#"{"table":"t","offset":-1}"#, Err(Code::BadJson)),
            (r#"{"table":"t","partition":1024,"offset":1}"#, Err(Code::PartitionOutOfRange)),
            (
                r#"{"table":"t","partition":999999999999999999999999999999999999999999,"offset":1}"#,
                Err(Code::PartitionOutOfRange),
            ),
            (r#"{"table":"t","offset":99999999999999999999999999}"#, Ok((1, false))),
            (r#"{"table":"t","offset":1.0}"#, Err(Code::BadJson)),
            (r#"{"table":"a b","offset":1}"#, Err(Code::BadTableName)),
            (
                r#"{"commits":[{"table":"t","offset":1},{"table":"t","partition":0,"offset":2}]}"#,
                Err(Code::DuplicateCommit),
            ),
            (
                r#"{"commits":[{"table":"a","offset":1},{"table":"b","offset":1},{"table":"c","offset":1}]}"#,
                Err(Code::TooManyRecords),
            ),
        ] {
            assert_eq!(offsets(body), expected, "{body}");
        }
    }
}
