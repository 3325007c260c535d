//! `zombi tables` and `zombi table`: which tables there are, where their partitions stand, their settings
//! and their end.

use std::time::Duration;

use clap::{Args, Subcommand};
use contracts::name::TableName;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    answer::Unanswered,
    client::ClientRequest,
    exit,
    flags::{ClientFlags, Endurance, Session},
    output::{Column, ShownItem, StatusLine, text},
    times,
};

#[derive(Debug, Args)]
pub(super) struct TablesArgs {
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct TableArgs {
    #[command(subcommand)]
    command: Option<TableCommand>,
    /// The table to show
    #[arg(value_parser = TableName::parse)]
    table: Option<TableName>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

#[derive(Debug, Subcommand)]
enum TableCommand {
    /// Show its partitions and settings
    Show {
        /// The table
        #[arg(value_parser = TableName::parse)]
        table: TableName,
        #[command(flatten, next_help_heading = "Server and output")]
        client: ClientFlags,
    },
    /// Change its settings; what is left out stays. A table that is not there is made
    Set {
        /// The table
        #[arg(value_parser = TableName::parse)]
        table: TableName,
        #[command(flatten)]
        settings: NewTableValues,
        #[command(flatten, next_help_heading = "Server and output")]
        client: ClientFlags,
    },
    /// Delete it: its events in both tiers, its settings, its consumers' offsets
    Delete {
        /// The table
        #[arg(value_parser = TableName::parse)]
        table: TableName,
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten, next_help_heading = "Server and output")]
        client: ClientFlags,
    },
}

#[derive(Debug, Args)]
struct NewTableValues {
    /// Over how many partitions keys are spread; it may grow, but not shrink
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// How long events are kept at least: 7d, 12h; `default` for the server's
    #[arg(long, value_name = "DURATION|default", value_parser = parse_retention)]
    retention: Option<NewValue>,
    /// How many bytes are kept at least; `default` for the server's
    #[arg(long, value_name = "BYTES|default", value_parser = parse_bytes)]
    retention_bytes: Option<NewValue>,
}

/// A number, or back to the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewValue {
    Default,
    Number(u64),
}

fn parse_retention(text: &str) -> Result<NewValue, String> {
    if text == "default" {
        return Ok(NewValue::Default);
    }
    // Events are kept at least so long, and 0 would be none at all.
    let whole = |length: Duration| length.as_secs() + u64::from(length.subsec_nanos() > 0);
    times::parse_length(text).map(|length| NewValue::Number(whole(length)))
}

fn parse_bytes(text: &str) -> Result<NewValue, String> {
    match text {
        "default" => Ok(NewValue::Default),
        _ => text.parse().map(NewValue::Number).map_err(|_| format!("{text:?} is no number of bytes")),
    }
}

impl NewTableValues {
    /// The body of the request.
    fn body(&self) -> Value {
        let number = |value: NewValue| match value {
            NewValue::Default => Value::Null,
            NewValue::Number(number) => number.into(),
        };
        let values = [
            ("partitions", self.partitions.map(Value::from)),
            ("retention_secs", self.retention.map(number)),
            ("retention_bytes", self.retention_bytes.map(number)),
        ];
        let given = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<String, Value>>())
    }
}

#[derive(Debug, Deserialize)]
struct TablesPage {
    tables: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// What is shown of a table.
#[derive(Debug, Deserialize)]
struct TableSeen {
    table: String,
    hot_bytes: u64,
    cold_bytes: u64,
    partitions: Vec<PartitionSeen>,
    config: ConfigSeen,
}

#[derive(Debug, Deserialize)]
struct PartitionSeen {
    partition: u32,
    earliest: u64,
    low: u64,
    flushed: u64,
    next: u64,
    hot_bytes: u64,
    cold_bytes: u64,
    #[serde(default)]
    lost: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct ConfigSeen {
    retention_secs: Option<u64>,
    retention_bytes: Option<u64>,
    partitions: u32,
    /// What the server has to say about a change.
    warning: Option<String>,
}

impl ConfigSeen {
    /// How long events are kept.
    fn kept(&self) -> String {
        let long = |secs: u64| times::shown_length(Duration::from_secs(secs));
        match (self.retention_secs.map(long), self.retention_bytes.map(text::bytes)) {
            (None, None) => "ever".to_owned(),
            (Some(limit), None) | (None, Some(limit)) => limit,
            (Some(long), Some(bytes)) => format!("{long}, {bytes}"),
        }
    }
}

const TABLE_COLUMNS: &[Column] = &[
    Column::text("table"),
    Column::number("partitions"),
    Column::number("events"),
    Column::number("hot"),
    Column::number("cold"),
    Column::wide("not in S3"),
    Column::wide("kept for"),
];

const PARTITION_COLUMNS: &[Column] = &[
    Column::number("partition"),
    Column::number("earliest"),
    Column::number("low"),
    Column::number("flushed"),
    Column::number("next"),
    Column::number("hot"),
    Column::number("cold"),
    Column::number("lost ranges"),
];

const CONFIG_COLUMNS: &[Column] =
    &[Column::text("table"), Column::number("partitions"), Column::text("kept for")];

/// Lists the tables.
pub(super) async fn list(args: TablesArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = args.client.over(before).session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let mut after: Option<String> = None;
    let mut count = 0;
    loop {
        let page: TablesPage = session
            .client
            .ask_json(&ClientRequest::get("/tables").with_some("after", after.as_ref()))
            .await?;
        let items =
            page.tables.iter().map(|table| table_item(&session, table)).collect::<Result<Vec<_>, _>>()?;
        count += items.len();
        if !items.is_empty() {
            session.output.items(TABLE_COLUMNS, &items)?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if count == 0 && session.output.is_for_people() {
        session.status.note("there are no tables that you may read");
    }
    Ok(exit::DONE)
}

fn table_item(session: &Session, json: &RawValue) -> Result<ShownItem, Unanswered> {
    let TableSeen { table, hot_bytes, cold_bytes, partitions, config } =
        serde_json::from_str(json.get()).map_err(|error| session.client.strange(&error))?;
    let sum = |of: fn(&PartitionSeen) -> u64| text::count(partitions.iter().map(of).sum());
    let cells = vec![
        table.clone(),
        text::count(partitions.len() as u64),
        sum(|partition| partition.next.saturating_sub(partition.earliest)),
        text::bytes(hot_bytes),
        text::bytes(cold_bytes),
        sum(|partition| partition.next.saturating_sub(partition.flushed)),
        config.kept(),
    ];
    Ok(ShownItem { name: table, json: json.get().to_owned(), cells })
}

/// Looks at a table, changes or deletes it.
pub(super) async fn table(args: TableArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    match (args.command, args.table) {
        (Some(TableCommand::Show { table, client }), _) => show(&table, client.over(before)).await,
        (Some(TableCommand::Set { table, settings, client }), _) => {
            set(&table, &settings, client.over(before)).await
        }
        (Some(TableCommand::Delete { table, yes, client }), _) => {
            if !yes {
                let why = format!("this deletes all events of {table}, for ever: say --yes to do it");
                return Err(Unanswered::Usage(why));
            }
            let session = client.over(before).session(Endurance::Asks, StatusLine::none())?;
            session.client.ask(&ClientRequest::new(Method::DELETE, format!("/tables/{table}"))).await?;
            session.status.note(&format!("{table} is deleted"));
            Ok(exit::DONE)
        }
        (None, Some(table)) => show(&table, args.client.over(before)).await,
        (None, None) => Err(Unanswered::Usage("which table? `zombi tables` lists them".to_owned())),
    }
}

async fn show(table: &TableName, flags: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = flags.session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let answer = session.client.ask(&ClientRequest::get(format!("/tables/{table}/partitions"))).await?;
    let seen: TableSeen = session.client.parse(&answer)?;
    if !session.output.is_for_people() {
        let json = String::from_utf8_lossy(&answer.body).into_owned();
        let item = ShownItem { name: table.to_string(), json, cells: Vec::new() };
        session.output.items(PARTITION_COLUMNS, &[item])?;
        return Ok(exit::DONE);
    }
    let partitions = seen.config.partitions;
    let plural = if partitions == 1 { "" } else { "s" };
    let kept = seen.config.kept();
    let head = format!("{table}: keys over {partitions} partition{plural}, events kept for {kept}\n\n");
    session.output.text(head.as_bytes())?;
    let item = |partition: &PartitionSeen| ShownItem {
        name: format!("{table}/{}", partition.partition),
        json: String::new(),
        cells: vec![
            partition.partition.to_string(),
            partition.earliest.to_string(),
            partition.low.to_string(),
            partition.flushed.to_string(),
            partition.next.to_string(),
            text::bytes(partition.hot_bytes),
            text::bytes(partition.cold_bytes),
            partition.lost.len().to_string(),
        ],
    };
    let items: Vec<ShownItem> = seen.partitions.iter().map(item).collect();
    session.output.items(PARTITION_COLUMNS, &items)?;
    Ok(exit::DONE)
}

async fn set(table: &TableName, settings: &NewTableValues, flags: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = flags.session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let request =
        ClientRequest::new(Method::PUT, format!("/tables/{table}/config")).json(settings.body().to_string());
    let answer = session.client.ask(&request).await?;
    let config: ConfigSeen = session.client.parse(&answer)?;
    if let Some(warning) = &config.warning {
        session.status.note(warning);
    }
    let item = ShownItem {
        name: table.to_string(),
        json: String::from_utf8_lossy(&answer.body).into_owned(),
        cells: vec![table.to_string(), config.partitions.to_string(), config.kept()],
    };
    session.output.items(CONFIG_COLUMNS, &[item])?;
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_given_is_not_changed() {
        let values = |partitions, retention, retention_bytes| {
            NewTableValues { partitions, retention, retention_bytes }.body()
        };
        assert_eq!(values(None, None, None), json!({}));
        let week = parse_retention("7d").unwrap();
        assert_eq!(parse_retention("500ms"), Ok(NewValue::Number(1)));
        assert_eq!(parse_retention("0"), Ok(NewValue::Number(0)));
        let expected = json!({"partitions": 4, "retention_secs": 604_800, "retention_bytes": null});
        assert_eq!(values(Some(4), Some(week), Some(NewValue::Default)), expected);
        assert_eq!(parse_bytes("10"), Ok(NewValue::Number(10)));
        assert!(parse_bytes("10 GiB").is_err() && parse_retention("long").is_err());
    }
}
