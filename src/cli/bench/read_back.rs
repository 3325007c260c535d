//! Reads what was written, and compares.

use contracts::name::TableName;
use reqwest::StatusCode;
use serde::Deserialize;

use super::{
    load::LoadResult,
    payload::{BenchRun, HashSum},
};
use crate::cli::{
    answer::Unanswered,
    client::{ClientRequest, PageReader, ServerClient},
    output::ShownRecord,
};

/// Where the events of a run are, beside those of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadRange<'a> {
    pub(super) table: &'a TableName,
    pub(super) partition: u32,
    /// The first offset.
    pub(super) begin: u64,
    /// The first offset after them.
    pub(super) end: u64,
}

/// What was read back, and what the comparison says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadBack {
    /// Events of this run, without those of which nobody knows whether they were written.
    pub(super) events: u64,
    /// Whether they are those that were acknowledged.
    pub(super) is_right: bool,
}

#[derive(Debug, Deserialize)]
struct TableEnds {
    partitions: Vec<PartitionEnd>,
}

#[derive(Debug, Deserialize)]
struct PartitionEnd {
    partition: u32,
    next: u64,
}

/// The next offset of a partition; 0 if it is not there.
pub(super) async fn end_of(
    client: &ServerClient,
    table: &TableName,
    partition: u32,
) -> Result<u64, Unanswered> {
    let ends: TableEnds = match client
        .ask_json(&ClientRequest::get(format!("/tables/{table}/partitions")))
        .await
    {
        Ok(ends) => ends,
        Err(error) if error.refusal().is_some_and(|no| no.status == StatusCode::NOT_FOUND) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    Ok(ends.partitions.iter().find(|end| end.partition == partition).map_or(0, |end| end.next))
}

/// Reads the range, and compares what is of this run in it with what was acknowledged.
pub(super) async fn read_back(
    client: &ServerClient,
    range: ReadRange<'_>,
    run: BenchRun,
    batch: u32,
    loaded: &LoadResult,
) -> Result<ReadBack, Unanswered> {
    let mut sum = HashSum::default();
    if range.begin < range.end {
        let parameters = [("partition", u64::from(range.partition)), ("offset", range.begin)];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_string()));
        let mut pages = PageReader::new(client, range.table.clone(), parameters.into(), None);
        'pages: while let Some(page) = pages.next().await? {
            for record in &page.records {
                let record = ShownRecord::parse(record)?;
                if record.offset >= range.end {
                    break 'pages;
                }
                let payload = record.payload()?;
                let Some((connection, number)) = run.of(&payload) else { continue };
                let first = number - number % u64::from(batch);
                if !loaded.open.contains(&(connection, first)) {
                    sum.add(&payload);
                }
            }
        }
    }
    Ok(ReadBack { events: sum.events, is_right: sum == loaded.sum })
}
