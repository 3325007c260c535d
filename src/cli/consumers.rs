//! `zombi consumers` and `zombi consumer`: which groups there are, how far they are, and their end. Resets
//! are in `reset`.

use clap::{Args, Subcommand};
use contracts::name::GroupName;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{
    answer::Unanswered,
    client::{ClientRequest, ServerAnswer},
    exit,
    flags::{ClientFlags, Endurance},
    output::{Column, OutputFormat, ShownItem, StatusLine, text},
    reset::{ResetArgs, reset},
};

#[derive(Debug, Args)]
pub(super) struct ConsumersArgs {
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConsumerArgs {
    #[command(subcommand)]
    command: Option<ConsumerCommand>,
    /// The group to show
    #[arg(value_parser = GroupName::parse)]
    group: Option<GroupName>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

#[derive(Debug, Subcommand)]
enum ConsumerCommand {
    /// Show its offsets and its lag
    Show {
        /// The group
        #[arg(value_parser = GroupName::parse)]
        group: GroupName,
        #[command(flatten, next_help_heading = "Server and output")]
        client: ClientFlags,
    },
    /// Move it in a table, forwards or back
    #[command(after_help = super::reset::EXAMPLES)]
    Reset(ResetArgs),
    /// Forget it
    Delete {
        /// The group
        #[arg(value_parser = GroupName::parse)]
        group: GroupName,
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten, next_help_heading = "Server and output")]
        client: ClientFlags,
    },
}

#[derive(Debug, Deserialize)]
struct GroupList {
    groups: Vec<String>,
}

/// How far a group is.
#[derive(Debug, Deserialize)]
struct GroupSeen {
    group: String,
    lag: u64,
    tables: Vec<TableLag>,
    offsets: Vec<OffsetSeen>,
}

#[derive(Debug, Deserialize)]
struct TableLag {
    table: String,
}

#[derive(Debug, Deserialize)]
struct OffsetSeen {
    table: String,
    partition: u32,
    offset: Option<u64>,
    lag: u64,
}

const GROUP_COLUMNS: &[Column] = &[Column::text("group"), Column::number("lag"), Column::text("tables")];

const OFFSET_COLUMNS: &[Column] =
    &[Column::text("table"), Column::number("partition"), Column::number("offset"), Column::number("lag")];

/// Lists the groups, and how far each is.
pub(super) async fn list(args: ConsumersArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = args.client.over(before).session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let GroupList { groups } = session.client.ask_json(&ClientRequest::get("/consumers")).await?;
    let only_names = session.output.format() == OutputFormat::Name;
    let mut items = Vec::with_capacity(groups.len());
    for name in groups {
        if only_names {
            items.push(ShownItem { name, json: String::new(), cells: Vec::new() });
            continue;
        }
        let answer = match session.client.ask(&ClientRequest::get(format!("/consumers/{name}"))).await {
            Ok(answer) => answer,
            // Forgotten meanwhile.
            Err(error) if error.refusal().is_some_and(|no| no.status == StatusCode::NOT_FOUND) => continue,
            Err(error) => return Err(error.into()),
        };
        let GroupSeen { group, lag, tables, .. } = session.client.parse(&answer)?;
        let tables: Vec<String> = tables.into_iter().map(|table| table.table).collect();
        let cells = vec![group.clone(), text::count(lag), tables.join(" ")];
        items.push(ShownItem { name: group, json: json_of(&answer), cells });
    }
    if items.is_empty() && session.output.is_for_people() {
        session.status.note("there are no consumer groups that you may see");
        return Ok(exit::DONE);
    }
    session.output.items(GROUP_COLUMNS, &items)?;
    Ok(exit::DONE)
}

/// An answer in one line.
fn json_of(answer: &ServerAnswer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Looks at a group, moves or deletes it.
pub(super) async fn consumer(args: ConsumerArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    match (args.command, args.group) {
        (Some(ConsumerCommand::Show { group, client }), _) => show(&group, client.over(before)).await,
        (Some(ConsumerCommand::Reset(args)), _) => reset(args, before).await,
        (Some(ConsumerCommand::Delete { group, yes, client }), _) => {
            if !yes {
                let why = format!("this forgets all offsets of {group}: say --yes to do it");
                return Err(Unanswered::Usage(why));
            }
            let session = client.over(before).session(Endurance::Asks, StatusLine::none())?;
            session.client.ask(&ClientRequest::new(Method::DELETE, format!("/consumers/{group}"))).await?;
            session.status.note(&format!("{group} is forgotten"));
            Ok(exit::DONE)
        }
        (None, Some(group)) => show(&group, args.client.over(before)).await,
        (None, None) => Err(Unanswered::Usage("which group? `zombi consumers` lists them".to_owned())),
    }
}

async fn show(group: &GroupName, flags: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = flags.session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let answer = session.client.ask(&ClientRequest::get(format!("/consumers/{group}"))).await?;
    let GroupSeen { group, offsets, .. } = session.client.parse(&answer)?;
    let items = if session.output.is_for_people() {
        let item = |seen: OffsetSeen| ShownItem {
            cells: vec![
                seen.table.clone(),
                seen.partition.to_string(),
                seen.offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
                text::count(seen.lag),
            ],
            name: format!("{}/{}", seen.table, seen.partition),
            json: String::new(),
        };
        offsets.into_iter().map(item).collect()
    } else {
        vec![ShownItem { name: group, json: json_of(&answer), cells: Vec::new() }]
    };
    session.output.items(OFFSET_COLUMNS, &items)?;
    Ok(exit::DONE)
}
