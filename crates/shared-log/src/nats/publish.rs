//! One entry: published until it is known whether it is there.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use contracts::{
    metrics,
    retry::RetryWait,
    shared_log::{EntryKind, LogError, LogSeq},
};
use serde::Deserialize;
use tokio::time::sleep;
use tracing::debug;
use uuid::Uuid;

use super::{
    api::{ApiError, StoredMessage, StreamApi},
    connect::{ANSWER_TIMEOUT, CallError, Outgoing},
    parts::{PART_BYTES, PART_HEADER, PartNumber, max_entry_bytes, split},
};

/// "wrong last sequence"
const WRONG_LAST: u64 = 10071;
/// "stream store failed", of which only [`FULL_WORDS`] are a full stream.
const STORE_FAILED: u64 = 10077;
const FULL_WORDS: &str = "maximum bytes exceeded";
/// What the servers may take of an answer's time for each MiB of an entry.
const TIME_PER_MIB: Duration = Duration::from_millis(200);
/// The first pause before an entry is published again, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What appends have needed.
#[derive(Debug, Default)]
pub(super) struct AppendCounters {
    /// Entries that were published, each time counted.
    pub(super) attempts: AtomicU64,
    /// Entries that were found in the log although no answer had said so.
    pub(super) settled: AtomicU64,
}

/// An entry and where it goes.
pub(super) struct Appending {
    last: LogSeq,
    subject: String,
    parts: Vec<(PartNumber, Bytes)>,
}

/// What the stream's leader says.
#[derive(Debug, PartialEq, Eq)]
enum PublishAnswer {
    /// It is there, synced by a quorum; the place of its last message.
    Stored(LogSeq),
    /// The last message is another one, or is not known yet to be this one.
    WrongLast,
    /// It was refused: the stream is full.
    Full,
    /// Anything else: nobody knows.
    Unclear(String),
}

/// What is where the entry should be.
#[derive(Debug, PartialEq, Eq)]
enum FoundAt {
    Ours,
    /// Another entry, with its number.
    Others(LogSeq),
    /// The log begins behind it.
    Trimmed(LogSeq),
    Empty,
}

impl Appending {
    /// # Errors
    /// `TooLarge`.
    pub(super) fn new(
        api: &StreamApi,
        max_log_bytes: u64,
        last: LogSeq,
        kind: EntryKind,
        entry: &Bytes,
    ) -> Result<Self, LogError> {
        let max = match kind {
            EntryKind::Data => max_entry_bytes(max_log_bytes),
            // One message: whoever asks for the last one of the subject has all of it.
            EntryKind::Term => PART_BYTES,
        };
        if entry.len() > max {
            return Err(LogError::TooLarge { bytes: entry.len(), max });
        }
        Ok(Self { last, subject: api.name.subject(kind), parts: split(entry) })
    }

    /// The entry's number: that of its last part.
    fn number(&self) -> LogSeq {
        LogSeq(self.last.0 + self.parts.len() as u64)
    }

    /// Publishes it again and again until it is settled.
    ///
    /// # Errors
    /// `Taken` or `Full`: it is not there and never will be. `Trimmed`: its place is gone, and an attempt had
    /// no answer.
    pub(super) async fn settle(
        &self,
        api: &StreamApi,
        counters: &AppendCounters,
    ) -> Result<LogSeq, LogError> {
        let mut is_unclear = false; // whether an attempt may still be on its way
        let mut unseen = 0_u32;
        let mut pause = RetryWait::new(PAUSE, MAX_PAUSE);
        loop {
            counters.attempts.fetch_add(1, Ordering::Relaxed);
            metrics::log_attempted();
            match self.publish(api).await {
                PublishAnswer::Stored(seq) if seq == self.number() => return Ok(seq),
                PublishAnswer::Full if !is_unclear => return Err(LogError::Full),
                PublishAnswer::WrongLast => match self.look(api).await {
                    Ok(FoundAt::Ours) => {
                        counters.settled.fetch_add(1, Ordering::Relaxed);
                        metrics::log_settled();
                        return Ok(self.number());
                    }
                    Ok(FoundAt::Others(seq)) => return Err(LogError::Taken(seq)),
                    Ok(FoundAt::Trimmed(first)) if is_unclear => return Err(LogError::Trimmed(first)),
                    Ok(FoundAt::Trimmed(first)) => return Err(LogError::Taken(first)),
                    Ok(FoundAt::Empty) => {
                        unseen += 1;
                        // A leader that is cut off counts what it alone has, and it never will be there.
                        if unseen.is_multiple_of(2) {
                            api.connection.leave_gap().await;
                        }
                    }
                    Err(error) => debug!(%error, "cannot see what is in the log"),
                },
                answer => {
                    debug!(?answer, last = self.last.0, "append is unclear, repeating");
                    is_unclear = true;
                }
            }
            sleep(pause.failed()).await;
        }
    }

    /// Publishes it once.
    async fn publish(&self, api: &StreamApi) -> PublishAnswer {
        let bytes: usize = self.parts.iter().map(|(_, data)| data.len()).sum();
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let within = ANSWER_TIMEOUT + TIME_PER_MIB.saturating_mul(mib);
        match api.connection.ask(self.subject.clone(), self.messages(), within).await {
            Ok(message) => understood(&message),
            Err(error) => PublishAnswer::Unclear(error.to_string()),
        }
    }

    /// Its messages, of which the first says what must stand before it. More than one are stored as one.
    fn messages(&self) -> Vec<Outgoing> {
        let batch = Uuid::new_v4().simple().to_string();
        let message = |(part, data): &(PartNumber, Bytes)| {
            let mut headers = HeaderMap::new();
            if part.number == 1 {
                headers.insert("Nats-Expected-Last-Sequence", self.last.to_string());
            }
            if part.of > 1 {
                headers.insert("Nats-Batch-Id", batch.as_str());
                headers.insert("Nats-Batch-Sequence", part.number.to_string());
                headers.insert(PART_HEADER, part.to_string());
                if part.number == part.of {
                    headers.insert("Nats-Batch-Commit", "1");
                }
            }
            Outgoing { headers, payload: data.clone() }
        };
        self.parts.iter().map(message).collect()
    }

    /// Looks at what is where the entry should be.
    async fn look(&self, api: &StreamApi) -> Result<FoundAt, CallError> {
        for (part, data) in &self.parts {
            let seq = LogSeq(self.last.0 + part.number);
            let Some(found) = api.get(seq).await? else {
                let first = api.info().await?.first();
                return Ok(if first > seq { FoundAt::Trimmed(first) } else { FoundAt::Empty });
            };
            if !self.is_ours(&found, *part, data) {
                return Ok(FoundAt::Others(found.number()));
            }
        }
        Ok(FoundAt::Ours)
    }

    fn is_ours(&self, found: &StoredMessage, part: PartNumber, data: &Bytes) -> bool {
        found.subject == self.subject && found.part == part && found.data == *data
    }
}

#[derive(Deserialize)]
struct Acknowledged {
    /// 0 beside an error.
    seq: Option<u64>,
    error: Option<ApiError>,
}

fn understood(message: &Message) -> PublishAnswer {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return PublishAnswer::Unclear("the stream has no leader".to_owned());
    }
    understood_payload(&message.payload)
}

fn understood_payload(payload: &[u8]) -> PublishAnswer {
    match serde_json::from_slice(payload) {
        Ok(Acknowledged { error: Some(error), .. }) => match error.err_code {
            WRONG_LAST => PublishAnswer::WrongLast,
            STORE_FAILED if error.description.contains(FULL_WORDS) => PublishAnswer::Full,
            code => PublishAnswer::Unclear(format!("{} ({code})", error.description)),
        },
        Ok(Acknowledged { seq: Some(seq), error: None }) => PublishAnswer::Stored(LogSeq(seq)),
        Ok(Acknowledged { seq: None, error: None }) => PublishAnswer::Unclear("no place is told".to_owned()),
        Err(error) => PublishAnswer::Unclear(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appending(entry: &Bytes) -> Appending {
        Appending { last: LogSeq(7), subject: "s".to_owned(), parts: split(entry) }
    }

    fn header<'a>(message: &'a Outgoing, name: &str) -> Option<&'a str> {
        message.headers.get(name).map(|value| value.as_str())
    }

    #[test]
    fn one_message_expects_the_last_entry_and_is_no_batch() {
        let messages = appending(&Bytes::from("e")).messages();
        let [message] = &messages[..] else { panic!("there are {}", messages.len()) };
        assert_eq!(header(message, "Nats-Expected-Last-Sequence"), Some("7"));
        assert_eq!((header(message, "Nats-Batch-Id"), header(message, PART_HEADER)), (None, None));
    }

    #[test]
    fn parts_are_one_batch_with_an_id_of_its_own() {
        let large = appending(&Bytes::from(vec![0; 2 * PART_BYTES + 1]));
        assert_eq!(large.number(), LogSeq(10));
        let messages = large.messages();
        let all = |name: &str| messages.iter().map(|one| header(one, name)).collect::<Vec<_>>();
        assert_eq!(all("Nats-Expected-Last-Sequence"), [Some("7"), None, None]);
        assert_eq!(all("Nats-Batch-Sequence"), [Some("1"), Some("2"), Some("3")]);
        assert_eq!(all("Nats-Batch-Commit"), [None, None, Some("1")]);
        assert_eq!(all(PART_HEADER), [Some("1/3"), Some("2/3"), Some("3/3")]);
        let id = all("Nats-Batch-Id");
        assert!(id[0].is_some() && id.iter().all(|other| *other == id[0]));
        let again = large.messages();
        assert_ne!(
            header(&again[0], "Nats-Batch-Id"),
            id[0],
            "what is left of one is not mixed with another"
        );
    }

    #[test]
    fn only_what_is_certain_is_certain() {
        let of = |answer: &str| understood_payload(answer.as_bytes());
        let error = |code: u64, what: &str| {
            of(&format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"{what}"}},"seq":0}}"#))
        };
        assert_eq!(of(r#"{"stream":"S","seq":8}"#), PublishAnswer::Stored(LogSeq(8)));
        assert_eq!(of(r#"{"stream":"S","seq":11,"batch":"b","count":3}"#), PublishAnswer::Stored(LogSeq(11)));
        assert_eq!(error(10071, "wrong last sequence: 12"), PublishAnswer::WrongLast);
        assert_eq!(error(10077, "maximum bytes exceeded"), PublishAnswer::Full);
        for unclear in [error(10077, "disk failed"), error(10008, "unavailable"), of("{}"), of("")] {
            assert!(matches!(unclear, PublishAnswer::Unclear(_)), "{unclear:?}");
        }
    }
}
