//! `zombi tail`: the last events of a table, and then each new one as it is appended.

use std::{io, pin::pin, time::Duration};

use clap::Args;
use contracts::name::TableName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::{
    answer::Unanswered,
    client::{Follower, PageReader, TailItem},
    exit,
    flags::{ClientFlags, Endurance, Session},
    output::StatusLine,
    read::note_lost,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  zombi tail orders
  zombi tail orders -n 0 -f -o payload
  zombi tail orders -f --key customer-7";

/// How often it is looked whether anybody still reads.
const HANG_UP_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// The table
    #[arg(value_parser = TableName::parse)]
    table: TableName,
    /// So many of the last events
    #[arg(short = 'n', long = "last", value_name = "N", default_value_t = 10)]
    last: u64,
    /// Go on with new events, over restarts of the server
    #[arg(short, long)]
    follow: bool,
    /// Of this partition only
    #[arg(long)]
    partition: Option<u32>,
    /// Only events with this key; one that ends in * is a beginning
    #[arg(long)]
    key: Option<String>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

/// Shows the end of a table.
pub(super) async fn tail(args: TailArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let endurance = if args.follow { Endurance::WorksOn } else { Endurance::Asks };
    let mut session = args.client.over(before).session(endurance, StatusLine::none())?;
    let Session { client, output, status } = &mut session;
    let filters = [("partition", args.partition.map(|partition| partition.to_string())), ("key", args.key)];
    let filters = filters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    // Without any of the last ones, the place behind them is still wanted.
    let last = ("last".to_owned(), args.last.max(1).to_string());
    let parameters: Vec<(String, String)> = filters.chain([last]).collect();
    let mut pages = PageReader::new(client, args.table.clone(), parameters.clone(), None);
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        note_lost(status, &page.lost);
        count += page.records.len();
        if args.last > 0 {
            output.records(args.table.as_str(), &page.records)?;
            output.flush()?;
        }
    }
    if let Some(most) = pages.last().filter(|most| *most < args.last) {
        status.note(&format!("the server shows no more than {most} of the last events: limits.page_records"));
    }
    if !args.follow {
        if count == 0 && output.is_for_people() {
            status.note("there is no such event");
        }
        return Ok(exit::DONE);
    }
    let place = pages.cursor().map(str::to_owned);
    let mut follower = Follower::new(client, args.table.clone(), parameters, place);
    let mut hang_up = pin!(nobody_reads());
    loop {
        let item = tokio::select! {
            item = follower.next() => item?,
            () = &mut hang_up => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        };
        match item {
            TailItem::Record(record) => {
                let record = RawValue::from_string(record)
                    .map_err(|error| Unanswered::Failed(format!("an event is no JSON: {error}")))?;
                output.records(args.table.as_str(), &[record])?;
                output.flush()?;
            }
            TailItem::Gap(why) => status.note(&format!("{why}; going on behind the gap")),
        }
    }
}

/// Returns once nobody reads what is printed any more, as behind `| head`: a table in which nothing happens has
/// nothing to print by which it would be noticed.
async fn nobody_reads() {
    while !is_hung_up() {
        sleep(HANG_UP_LOOK).await;
    }
}

/// Whether the other end of standard output is closed.
fn is_hung_up() -> bool {
    let stdout = rustix::stdio::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let is_polled = poll(&mut polled, Some(&Timespec::default())).is_ok();
    is_polled && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}
