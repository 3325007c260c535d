//! Reads entries, each message from the leader of the stream: other servers may lag behind, or be stopped.

use std::time::Duration;

use contracts::{
    retry::RetryWait,
    shared_log::{EntryKind, LogEntry, LogError, LogSeq},
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    api::{StoredMessage, StreamApi},
    connect::CallError,
    parts::{PartJoiner, PartNumber},
};

/// The most messages that are asked for at once.
const MAX_AT_ONCE: usize = 16;
/// The first pause of whoever waits for an entry, and the longest: each look is work for the stream's leader,
/// and most find nothing.
const PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// How often a message that should be there is asked for before it counts as lost, and the pause between.
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// The place behind what the last read has found, where no whole entry was then. Whoever reads on from there
/// pauses first, and longer each time.
#[derive(Debug, Default)]
pub(super) struct AwaitedPlace(Mutex<Option<(LogSeq, RetryWait)>>);

impl AwaitedPlace {
    /// Takes the pauses of whoever waits at a place, if that is this one; a read elsewhere forgets it too.
    fn take(&self, place: LogSeq) -> Option<RetryWait> {
        self.0.lock().take().filter(|(awaited, _)| *awaited == place).map(|(_, pauses)| pauses)
    }

    fn note(&self, place: LogSeq, pauses: RetryWait) {
        *self.0.lock() = Some((place, pauses));
    }

    /// Forgets the place if the log, as it is now, has something there or has trimmed it: the next read then
    /// finds out why it came to nothing. Whoever follows a log asks how long it is all the time.
    pub(super) fn compare(&self, first: LogSeq, last: LogSeq) {
        self.0.lock().take_if(|(place, _)| last >= *place || first > *place);
    }
}

/// What a look has found.
struct FoundEntries {
    entries: Vec<LogEntry>,
    /// Whether no other whole entry is behind them yet.
    is_all: bool,
}

/// Entries from `from` on, until `max_bytes` are reached; waits for the first.
///
/// # Errors
/// `Trimmed`, `Damaged` or `Unavailable`.
pub(super) async fn read(
    api: &StreamApi,
    awaited: &AwaitedPlace,
    (from, max_bytes): (LogSeq, usize),
    wait: Duration,
) -> Result<Vec<LogEntry>, LogError> {
    let from = from.max(LogSeq(1));
    let until = Instant::now() + wait;
    let carried = awaited.take(from);
    let mut pauses = carried.unwrap_or(RetryWait::new(PAUSE, MAX_PAUSE));
    let mut asks_why = carried.is_none() || wait.is_zero();
    let mut pauses_first = carried.is_some();
    let found = loop {
        if pauses_first {
            sleep(pauses.failed().min(until.saturating_duration_since(Instant::now()))).await;
        }
        let found = there(api, from, max_bytes).await?;
        if found.entries.is_empty() && asks_why {
            why_nothing(api, from).await?;
        }
        if !found.entries.is_empty() || Instant::now() >= until {
            break found;
        }
        (asks_why, pauses_first) = (false, true);
    };
    match found.entries.last() {
        None => awaited.note(from, pauses),
        Some(last) if found.is_all => awaited.note(last.seq.next(), RetryWait::new(PAUSE, MAX_PAUSE)),
        Some(_) => {}
    }
    Ok(found.entries)
}

/// The last entry about ownership.
///
/// # Errors
/// `Damaged` or `Unavailable`.
pub(super) async fn term(api: &StreamApi) -> Result<Option<LogEntry>, LogError> {
    let Some(StoredMessage { seq, part, data, .. }) = api.last_of(EntryKind::Term).await? else {
        return Ok(None);
    };
    if part != PartNumber::WHOLE {
        return Err(LogError::Damaged { seq, what: format!("an entry about ownership has part {part}") });
    }
    Ok(Some(LogEntry { seq, bytes: data }))
}

/// The entries that are there now, whole ones only.
async fn there(api: &StreamApi, from: LogSeq, max_bytes: usize) -> Result<FoundEntries, LogError> {
    let (mut entries, mut joiner) = (Vec::new(), PartJoiner::default());
    let mut messages: Vec<_> = message_at(api, from).await?.into_iter().collect();
    let (mut next, mut bytes, mut at_once, mut asked) = (from, 0, 1, 1);
    loop {
        let is_end = messages.len() < asked;
        for message in messages {
            next = message.seq.next();
            match joiner.push(message.seq, message.part, message.data) {
                Ok(Some(entry)) => {
                    bytes += entry.bytes.len();
                    entries.push(entry);
                }
                Ok(None) => {}
                // What is before the damage can be had.
                Err(_) if !entries.is_empty() => return Ok(FoundEntries { entries, is_all: false }),
                Err(what) => return Err(LogError::Damaged { seq: message.seq, what }),
            }
            if bytes >= max_bytes && !entries.is_empty() {
                return Ok(FoundEntries { entries, is_all: false });
            }
        }
        if is_end {
            break;
        }
        asked = at_once;
        messages = self::messages(api, next, asked).await?;
        at_once = (at_once * 2).min(MAX_AT_ONCE);
    }
    // The parts of an entry come into the log at once, so the rest of one is lost or only just arrives.
    if entries.is_empty() && joiner.is_within_entry() {
        why_nothing(api, next).await?;
    }
    let is_all = !joiner.is_within_entry();
    Ok(FoundEntries { entries, is_all })
}

/// The message at a place, if it is there. One behind it must not be there without it.
async fn message_at(api: &StreamApi, place: LogSeq) -> Result<Option<StoredMessage>, LogError> {
    let found = api.get_from(place).await?;
    if found.as_ref().is_some_and(|message| message.seq != place) {
        why_nothing(api, place).await?;
        return Ok(api.get(place).await?);
    }
    Ok(found)
}

/// So many messages from a place on, up to the first that is not there.
async fn messages(api: &StreamApi, from: LogSeq, count: usize) -> Result<Vec<StoredMessage>, CallError> {
    let asked = (from.0..).take(count).map(|seq| api.get(LogSeq(seq)));
    let mut messages = Vec::new();
    for message in join_all(asked).await {
        match message? {
            Some(message) => messages.push(message),
            None => break,
        }
    }
    Ok(messages)
}

/// Finds out why there was no message at a place: fine if it is the end of the log, or if the message is
/// there now.
async fn why_nothing(api: &StreamApi, seq: LogSeq) -> Result<(), LogError> {
    for look in 1.. {
        let info = api.info().await?;
        if info.first() > seq {
            return Err(LogError::Trimmed(info.first()));
        }
        if info.last() < seq || api.get(seq).await?.is_some() {
            return Ok(());
        }
        if look == LOOKS {
            break;
        }
        sleep(LOOK_PAUSE).await;
    }
    Err(LogError::Damaged {
        seq,
        what: "it is missing, and the leader of the stream has what follows".to_owned(),
    })
}
