//! `zombi consumer reset`: moves a group in a table. Without a partition the server moves all of them; of one
//! partition this command first asks where it would go, and then commits exactly that.

use clap::Args;
use contracts::name::{GroupName, TableName};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answer::Unanswered,
    client::{ClientRequest, Repeat, ServerAnswer},
    exit,
    flags::{ClientFlags, Endurance, Session},
    output::{Column, ShownItem, StatusLine},
    times::{TimeBound, parse_length},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  zombi consumer reset billing orders --to earliest --dry-run
  zombi consumer reset billing orders --to -1h
  zombi consumer reset billing orders --to 2026-11-26T12:00:00Z
  zombi consumer reset billing orders --to 1200 --partition 3";

#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// The group
    #[arg(value_parser = GroupName::parse)]
    group: GroupName,
    /// The table
    #[arg(value_parser = TableName::parse)]
    table: TableName,
    /// Where to: earliest, latest, a time in RFC 3339, an offset, or by how much: -1h, +10m
    #[arg(long, value_name = "PLACE", value_parser = NewPlace::parse, allow_hyphen_values = true)]
    to: NewPlace,
    /// Only this partition
    #[arg(long)]
    partition: Option<u32>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

/// Where a group is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NewPlace {
    Earliest,
    Latest,
    Time(String),
    Offset(u64),
    /// Signed.
    By(String),
}

impl NewPlace {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        let is_length = text.strip_prefix(['-', '+']).is_some_and(|length| parse_length(length).is_ok());
        match TimeBound::parse(text) {
            _ if is_length => Ok(Self::By(text.to_owned())),
            Ok(TimeBound::At(time)) => Ok(Self::Time(time)),
            Ok(TimeBound::Ago(_)) => Err(format!("{text:?} has no sign: write -{text} to go back")),
            Err(_) => Err(format!(
                "{text:?} is no place: write earliest, latest, an offset, -1h, or a time such as \
                 2026-11-26T12:00:00Z"
            )),
        }
    }

    /// As the server takes it; an offset needs its partition.
    fn to_json(&self, partition: Option<u32>) -> Value {
        match self {
            Self::Earliest => json!("earliest"),
            Self::Latest => json!("latest"),
            Self::Time(time) => json!({"time": time}),
            Self::Offset(offset) => json!({"offset": offset, "partition": partition}),
            Self::By(length) => json!({"by": length}),
        }
    }
}

#[derive(Debug, Deserialize)]
struct ResetAnswer {
    #[serde(alias = "partitions")]
    offsets: Vec<MovedOffset>,
}

/// Where a group was, and where it is.
#[derive(Debug, Deserialize)]
struct MovedOffset {
    partition: u32,
    old: Option<u64>,
    new: Option<u64>,
}

const COLUMNS: &[Column] =
    &[Column::text("table"), Column::number("partition"), Column::number("old"), Column::number("new")];

/// Moves a group.
pub(super) async fn reset(args: ResetArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = args.client.clone().over(before).session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let to = match (&args.to, args.partition) {
        (NewPlace::Offset(_), None) => args.to.to_json(Some(only_partition(&session, &args.table).await?)),
        (NewPlace::Offset(_), partition) | (_, partition @ None) => args.to.to_json(partition),
        (_, Some(partition)) => {
            let would = ask(&session, &args, args.to.to_json(None), true).await?;
            let ResetAnswer { offsets } = session.client.parse(&would)?;
            let moved = offsets.iter().find(|moved| moved.partition == partition);
            let new = moved.and_then(|moved| moved.new);
            let Some(new) = new else {
                let why = format!("{} has no partition {partition}", args.table);
                return Err(Unanswered::Failed(why));
            };
            NewPlace::Offset(new).to_json(Some(partition))
        }
    };
    let answer = ask(&session, &args, to, args.dry_run).await?;
    print(&mut session, &args, &answer)?;
    if args.dry_run {
        session.status.note("nothing was changed: --dry-run");
    }
    Ok(exit::DONE)
}

async fn ask(
    session: &Session,
    args: &ResetArgs,
    to: Value,
    is_dry: bool,
) -> Result<ServerAnswer, Unanswered> {
    // Twice by an hour is two hours.
    let is_relative = to.get("by").is_some() && !is_dry;
    let repeat = if is_relative { Repeat::IfNotDone } else { Repeat::Always };
    let body = json!({"table": args.table.as_str(), "to": to, "dry_run": is_dry});
    let request =
        ClientRequest::new(Method::POST, format!("/consumers/{}/reset", args.group)).json(body.to_string());
    Ok(session.client.ask(&request.repeat(repeat)).await?)
}

/// The partition of a table that has one only.
async fn only_partition(session: &Session, table: &TableName) -> Result<u32, Unanswered> {
    #[derive(Deserialize)]
    struct Partitions {
        partitions: Vec<Numbered>,
    }
    #[derive(Deserialize)]
    struct Numbered {
        partition: u32,
    }
    let request = ClientRequest::get(format!("/tables/{table}/partitions"));
    let Partitions { partitions } = session.client.ask_json(&request).await?;
    match partitions.as_slice() {
        [only] => Ok(only.partition),
        _ => {
            let why = format!("{table} has {} partitions: say which with --partition", partitions.len());
            Err(Unanswered::Usage(why))
        }
    }
}

fn print(session: &mut Session, args: &ResetArgs, answer: &ServerAnswer) -> Result<(), Unanswered> {
    let ResetAnswer { offsets } = session.client.parse(answer)?;
    let shown = |offset: Option<u64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    let after = |moved: &MovedOffset| match moved.new {
        new @ Some(_) if new != moved.old => shown(new),
        _ => "stays".to_owned(),
    };
    let item = |moved: &MovedOffset| ShownItem {
        name: format!("{}/{}", args.table, moved.partition),
        json: String::new(),
        cells: vec![args.table.to_string(), moved.partition.to_string(), shown(moved.old), after(moved)],
    };
    let items: Vec<ShownItem> = if session.output.is_for_people() {
        offsets.iter().map(item).collect()
    } else {
        let json = String::from_utf8_lossy(&answer.body).into_owned();
        vec![ShownItem { name: args.group.to_string(), json, cells: Vec::new() }]
    };
    session.output.items(COLUMNS, &items)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        for (text, expected) in [
            ("earliest", json!("earliest")),
            ("latest", json!("latest")),
            ("1200", json!({"offset": 1200, "partition": 3})),
            ("-1h", json!({"by": "-1h"})),
            ("+1h30m", json!({"by": "+1h30m"})),
            ("2026-11-26T12:00:00Z", json!({"time": "2026-11-26T12:00:00Z"})),
        ] {
            assert_eq!(NewPlace::parse(text).unwrap().to_json(Some(3)), expected, "{text}");
        }
        assert!(NewPlace::parse("1h").unwrap_err().contains("-1h"));
        for text in ["", "yesterday", "-", "+", "2026-11-26"] {
            assert!(NewPlace::parse(text).is_err(), "{text}");
        }
    }
}
