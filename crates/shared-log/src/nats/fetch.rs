//! Reads entries, each message from the leader of the stream: other servers may lag behind, or be stopped.

use std::time::Duration;

use contracts::{
    retry::RetryWait,
    shared_log::{EntryKind, LogEntry, LogError, LogSeq},
};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{
    api::{StoredMessage, StreamApi},
    connect::CallError,
    parts::{PartJoiner, PartNumber},
};

/// The most messages that are asked for at once.
const MAX_AT_ONCE: u64 = 16;
/// The first pause of whoever waits for an entry, and the longest.
const PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// How often a message that should be there is asked for before it counts as lost, and the pause between.
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Entries from `from` on, until `max_bytes` are reached; waits for the first.
///
/// # Errors
/// `Trimmed`, `Damaged` or `Unavailable`.
pub(super) async fn read(
    api: &StreamApi,
    from: LogSeq,
    max_bytes: usize,
    wait: Duration,
) -> Result<Vec<LogEntry>, LogError> {
    let from = from.max(LogSeq(1));
    let until = Instant::now() + wait;
    let mut entries = there(api, from, max_bytes).await?;
    if entries.is_empty() {
        // Asked once: what is trimmed or lost while somebody waits for it is seen by the next read.
        why_nothing(api, from).await?;
    }
    let mut pause = RetryWait::new(PAUSE, MAX_PAUSE);
    while entries.is_empty() && Instant::now() < until {
        sleep(pause.failed().min(until.saturating_duration_since(Instant::now()))).await;
        entries = there(api, from, max_bytes).await?;
    }
    Ok(entries)
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
async fn there(api: &StreamApi, from: LogSeq, max_bytes: usize) -> Result<Vec<LogEntry>, LogError> {
    let (mut entries, mut joiner) = (Vec::new(), PartJoiner::default());
    let (mut next, mut bytes, mut at_once) = (from, 0, 1);
    loop {
        let messages = messages(api, next, at_once).await?;
        let is_end = (messages.len() as u64) < at_once;
        for message in messages {
            next = message.seq.next();
            match joiner.push(message.seq, message.part, message.data) {
                Ok(Some(entry)) => {
                    bytes += entry.bytes.len();
                    entries.push(entry);
                }
                Ok(None) => {}
                // What is before the damage can be had.
                Err(_) if !entries.is_empty() => return Ok(entries),
                Err(what) => return Err(LogError::Damaged { seq: message.seq, what }),
            }
            if bytes >= max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
        }
        if is_end {
            break;
        }
        at_once = (at_once * 2).min(MAX_AT_ONCE);
    }
    // The parts of an entry come into the log at once, so the rest of one is lost or only just arrives.
    if entries.is_empty() && joiner.is_within_entry() {
        why_nothing(api, next).await?;
    }
    Ok(entries)
}

/// So many messages from a place on, up to the first that is not there.
async fn messages(api: &StreamApi, from: LogSeq, count: u64) -> Result<Vec<StoredMessage>, CallError> {
    let asked = (0..count).map(|n| api.get(LogSeq(from.0 + n)));
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
