//! `zombi flush`: moves a table, or everything, to S3 now.

use std::time::Duration;

use clap::Args;
use contracts::name::TableName;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{
    answer::Unanswered,
    client::ClientRequest,
    exit,
    flags::{ClientFlags, Endurance},
    output::{Column, ShownItem, StatusLine, text},
};

/// A flush waits for S3.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(super) struct FlushArgs {
    /// Only this table
    #[arg(value_parser = TableName::parse)]
    table: Option<TableName>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

/// What was moved.
#[derive(Debug, Deserialize)]
struct FlushAnswer {
    events: u64,
    bytes: u64,
    segments: Vec<Value>,
}

const COLUMNS: &[Column] =
    &[Column::text("table"), Column::number("events"), Column::number("bytes"), Column::number("segments")];

/// Flushes, and prints what was moved.
pub(super) async fn flush(args: FlushArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let path = match &args.table {
        Some(table) => format!("/tables/{table}/flush"),
        None => "/flush".to_owned(),
    };
    let flags = args.client.over(before);
    let mut session =
        flags.session(Endurance::AsksFor(TIMEOUT), StatusLine::waiting("moving events to S3"))?;
    session.refuse_payload()?;
    let answer = session.client.ask(&ClientRequest::new(Method::POST, path)).await;
    session.status.end();
    let answer = answer?;
    let FlushAnswer { events, bytes, segments } = session.client.parse(&answer)?;
    let table = args.table.map_or_else(|| "(all)".to_owned(), |table| table.to_string());
    let item = ShownItem {
        name: table.clone(),
        json: String::from_utf8_lossy(&answer.body).into_owned(),
        cells: vec![table, text::count(events), text::bytes(bytes), text::count(segments.len() as u64)],
    };
    session.output.items(COLUMNS, &[item])?;
    Ok(exit::DONE)
}
