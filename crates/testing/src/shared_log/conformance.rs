//! What every log that pods share must do, whatever it is made of: [`suite`].

use std::time::Duration;

use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogEntry, LogError, LogSeq, SharedLog};
use tokio::time::{sleep, timeout};

use crate::server::PATIENCE;

/// The most bytes that a log of the suite may have.
const MAX_BYTES: u64 = 64 << 20;
/// All that is there.
const ALL: usize = usize::MAX;
/// For whom does not want to wait.
const NO_WAIT: Duration = Duration::ZERO;

/// A log of its own for each case.
pub trait LogUnderTest {
    /// Another pod's handle on it.
    fn handle(&self) -> impl Future<Output = Box<dyn SharedLog>>;

    /// The next entry that is stored is not answered.
    fn lose_next_answer(&self);
}

/// Runs every case on an empty log of its own, which may have so many bytes.
pub async fn suite<L: LogUnderTest>(empty: impl AsyncFn(u64) -> L) {
    macro_rules! cases {
        ($($case:ident)*) => {
            $(
                println!(stringify!($case));
                let log = empty(MAX_BYTES).await;
                timeout(PATIENCE, $case(log)).await.expect("it ends");
            )*
        };
    }
    cases! {
        entries_follow_one_another
        of_two_at_one_place_one_is_refused
        a_lost_answer_is_settled
        the_same_entry_again_is_the_same_entry
        a_chain_is_read_as_it_was_written
        a_large_entry_is_one_entry
        what_is_too_large_is_refused
        a_full_log_refuses_until_it_is_trimmed
        a_read_before_the_beginning_says_where_it_is
        a_read_ends_at_its_bytes
        a_read_waits_for_the_first
        who_has_waited_is_told_of_a_trim
        the_last_term_stays
        a_log_without_terms_may_be_trimmed_to_nothing
    }
}

async fn data(log: &dyn SharedLog, last: LogSeq, entry: impl Into<Bytes>) -> Result<LogSeq, LogError> {
    log.append(last, EntryKind::Data, entry.into()).await
}

async fn term(log: &dyn SharedLog, last: LogSeq, entry: impl Into<Bytes>) -> Result<LogSeq, LogError> {
    log.append(last, EntryKind::Term, entry.into()).await
}

async fn read(log: &dyn SharedLog, from: LogSeq) -> Vec<LogEntry> {
    let mut entries: Vec<LogEntry> = Vec::new();
    loop {
        let next = entries.last().map_or(from, |entry| entry.seq.next());
        let more = log.read(next, ALL, NO_WAIT).await.unwrap();
        if more.is_empty() {
            return entries;
        }
        entries.extend(more);
    }
}

fn entry(seq: u64, bytes: impl Into<Bytes>) -> LogEntry {
    LogEntry { seq: LogSeq(seq), bytes: bytes.into() }
}

/// Bytes that no part of which is like another.
fn large(bytes: usize) -> Bytes {
    (0..bytes as u32 / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

async fn entries_follow_one_another<L: LogUnderTest>(log: L) {
    let log = log.handle().await;
    let empty = log.size().await.unwrap();
    assert_eq!((empty.first, empty.last, empty.max_bytes), (LogSeq(1), LogSeq(0), MAX_BYTES));
    assert_eq!(log.term().await.unwrap(), None);
    assert!(read(&*log, LogSeq(0)).await.is_empty());
    assert_eq!(data(&*log, LogSeq(0), "a").await.unwrap(), LogSeq(1));
    assert_eq!(term(&*log, LogSeq(1), "b").await.unwrap(), LogSeq(2));
    assert_eq!(data(&*log, LogSeq(2), "").await.unwrap(), LogSeq(3));
    assert_eq!(read(&*log, LogSeq(1)).await, [entry(1, "a"), entry(2, "b"), entry(3, "")]);
    assert_eq!(read(&*log, LogSeq(3)).await, [entry(3, "")]);
    let size = log.size().await.unwrap();
    assert_eq!((size.first, size.last), (LogSeq(1), LogSeq(3)));
    assert!(size.bytes > 0, "{size:?}");
}

async fn of_two_at_one_place_one_is_refused<L: LogUnderTest>(log: L) {
    let (one, two) = (log.handle().await, log.handle().await);
    let (first, second) = tokio::join!(data(&*one, LogSeq(0), "one"), data(&*two, LogSeq(0), "two"));
    let winner = match (&first, &second) {
        (Ok(LogSeq(1)), Err(LogError::Taken(LogSeq(1)))) => "one",
        (Err(LogError::Taken(LogSeq(1))), Ok(LogSeq(1))) => "two",
        other => panic!("{other:?}"),
    };
    assert_eq!(read(&*one, LogSeq(1)).await, [entry(1, winner)]);
    let behind = data(&*two, LogSeq(0), "three").await;
    assert!(matches!(behind, Err(LogError::Taken(LogSeq(1)))), "{behind:?}");
    // Bytes are not all: what it is about counts, too.
    let other_kind = term(&*two, LogSeq(0), winner).await;
    assert!(matches!(other_kind, Err(LogError::Taken(LogSeq(1)))), "{other_kind:?}");
    assert_eq!(read(&*two, LogSeq(1)).await, [entry(1, winner)]);
}

async fn a_lost_answer_is_settled<L: LogUnderTest>(log: L) {
    let pod = log.handle().await;
    log.lose_next_answer();
    assert_eq!(data(&*pod, LogSeq(0), "a").await.unwrap(), LogSeq(1));
    log.lose_next_answer();
    let parts = large(2 << 20);
    let number = data(&*pod, LogSeq(1), parts.clone()).await.unwrap();
    assert_eq!(data(&*pod, number, "b").await.unwrap(), number.next());
    let expected = [entry(1, "a"), entry(number.0, parts), entry(number.0 + 1, "b")];
    assert!(read(&*pod, LogSeq(1)).await == expected, "each once, in order");
}

async fn the_same_entry_again_is_the_same_entry<L: LogUnderTest>(log: L) {
    let (one, two) = (log.handle().await, log.handle().await);
    for pod in [&one, &two] {
        assert_eq!(data(&**pod, LogSeq(0), "a").await.unwrap(), LogSeq(1));
    }
    assert_eq!(read(&*one, LogSeq(1)).await, [entry(1, "a")]);
}

async fn a_chain_is_read_as_it_was_written<L: LogUnderTest>(log: L) {
    let (writer, reader) = (log.handle().await, log.handle().await);
    let mut expected = Vec::new();
    for number in 1..=256_u64 {
        let text = format!("entry {number}");
        assert_eq!(data(&*writer, LogSeq(number - 1), text.clone()).await.unwrap(), LogSeq(number));
        expected.push(entry(number, text));
    }
    assert_eq!(read(&*reader, LogSeq(1)).await, expected);
}

async fn a_large_entry_is_one_entry<L: LogUnderTest>(log: L) {
    let (one, two) = (log.handle().await, log.handle().await);
    data(&*one, LogSeq(0), "before").await.unwrap();
    let bytes = large(5_000_000);
    let number = data(&*one, LogSeq(1), bytes.clone()).await.unwrap();
    assert!(number > LogSeq(2), "{number}: it has parts");
    let other = data(&*two, LogSeq(1), large(5_000_004)).await;
    assert!(matches!(&other, Err(LogError::Taken(seq)) if *seq == number), "{other:?}");
    let within = data(&*two, LogSeq(2), "within").await;
    assert!(matches!(within, Err(LogError::Taken(_))), "{within:?}: nothing comes between its parts");
    assert_eq!(data(&*two, number, "after").await.unwrap(), number.next());
    let read = read(&*two, LogSeq(1)).await;
    let expected = [entry(1, "before"), entry(number.0, bytes), entry(number.0 + 1, "after")];
    assert!(read == expected, "its bytes are those that were written");
    let middle = two.read(LogSeq(3), ALL, NO_WAIT).await;
    assert!(matches!(middle, Err(LogError::Damaged { seq: LogSeq(3), .. })), "no entry begins there");
}

async fn what_is_too_large_is_refused<L: LogUnderTest>(log: L) {
    let log = log.handle().await;
    let bytes = MAX_BYTES as usize + 1;
    let refused = data(&*log, LogSeq(0), vec![0_u8; bytes]).await;
    assert!(matches!(refused, Err(LogError::TooLarge { bytes: of, max }) if of == bytes && max < bytes));
    assert_eq!(data(&*log, LogSeq(0), "small").await.unwrap(), LogSeq(1));
}

async fn a_full_log_refuses_until_it_is_trimmed<L: LogUnderTest>(log: L) {
    let log = log.handle().await;
    let mut last = term(&*log, LogSeq(0), "term").await.unwrap();
    let bytes = large(1_600_000);
    let refused = loop {
        match data(&*log, last, bytes.clone()).await {
            Ok(number) => last = number,
            Err(error) => break error,
        }
        assert!(last < LogSeq(1000), "it is full some time");
    };
    assert!(matches!(refused, LogError::Full), "{refused:?}");
    let size = log.size().await.unwrap();
    assert_eq!(size.last, last, "nothing of it was appended");
    assert!(size.bytes > MAX_BYTES / 2 && size.bytes <= MAX_BYTES, "{size:?}");
    // A term fits in what is left, so that what is before it may go.
    let owned = term(&*log, last, "next term").await.unwrap();
    log.trim(last).await.unwrap();
    let trimmed = log.size().await.unwrap();
    assert_eq!((trimmed.first, trimmed.last), (owned, owned));
    data(&*log, owned, bytes).await.unwrap();
}

async fn a_read_before_the_beginning_says_where_it_is<L: LogUnderTest>(log: L) {
    let (writer, reader) = (log.handle().await, log.handle().await);
    for last in 0..10 {
        data(&*writer, LogSeq(last), format!("{last}")).await.unwrap();
    }
    writer.trim(LogSeq(4)).await.unwrap();
    writer.trim(LogSeq(2)).await.unwrap(); // it does not come back, and it does no harm
    let gone = reader.read(LogSeq(4), ALL, NO_WAIT).await;
    assert!(matches!(gone, Err(LogError::Trimmed(LogSeq(5)))), "{gone:?}");
    assert_eq!(read(&*reader, LogSeq(5)).await[0], entry(5, "4"));
    // Trimmed if an answer was lost on the way: then nobody can tell any more what was there.
    let behind = data(&*reader, LogSeq(2), "late").await;
    assert!(matches!(behind, Err(LogError::Taken(_) | LogError::Trimmed(_))), "{behind:?}");
}

async fn a_read_ends_at_its_bytes<L: LogUnderTest>(log: L) {
    let log = log.handle().await;
    for last in 0..10 {
        data(&*log, LogSeq(last), vec![last as u8; 1000]).await.unwrap();
    }
    for (max_bytes, count) in [(1, 1), (1000, 1), (1001, 2), (2500, 3), (ALL, 8)] {
        let read = log.read(LogSeq(3), max_bytes, NO_WAIT).await.unwrap();
        let seqs: Vec<u64> = read.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(seqs, (3..3 + count).collect::<Vec<u64>>(), "{max_bytes}");
    }
    let looked_at = log.look_at(LogSeq(3)).await.unwrap();
    assert_eq!(looked_at.map(|entry| entry.seq), Some(LogSeq(3)));
    assert_eq!(log.look_at(LogSeq(11)).await.unwrap(), None);
}

async fn a_read_waits_for_the_first<L: LogUnderTest>(log: L) {
    let (writer, reader) = (log.handle().await, log.handle().await);
    data(&*writer, LogSeq(0), "a").await.unwrap();
    let nothing = reader.read(LogSeq(2), ALL, Duration::from_millis(300)).await.unwrap();
    assert!(nothing.is_empty(), "{nothing:?}");
    let write = async {
        sleep(Duration::from_millis(300)).await;
        data(&*writer, LogSeq(1), "b").await.unwrap();
    };
    let (read, ()) = tokio::join!(reader.read(LogSeq(2), ALL, PATIENCE), write);
    assert_eq!(read.unwrap(), [entry(2, "b")]);
}

async fn who_has_waited_is_told_of_a_trim<L: LogUnderTest>(log: L) {
    let (writer, reader) = (log.handle().await, log.handle().await);
    let wait = Duration::from_millis(100);
    data(&*writer, LogSeq(0), "a").await.unwrap();
    assert!(reader.read(LogSeq(2), ALL, wait).await.unwrap().is_empty());
    data(&*writer, LogSeq(1), "b").await.unwrap();
    data(&*writer, LogSeq(2), "c").await.unwrap();
    writer.trim(LogSeq(2)).await.unwrap();
    let gone = reader.read(LogSeq(2), ALL, wait).await;
    assert!(matches!(gone, Err(LogError::Trimmed(LogSeq(3)))), "{gone:?}");
    assert_eq!(read(&*reader, LogSeq(3)).await, [entry(3, "c")]);
    // With nothing behind it that shows it: whoever asks how long the log is, as a copy does, is told.
    assert!(reader.read(LogSeq(4), ALL, wait).await.unwrap().is_empty());
    data(&*writer, LogSeq(3), "d").await.unwrap();
    writer.trim(LogSeq(100)).await.unwrap();
    reader.size().await.unwrap();
    let gone = reader.read(LogSeq(4), ALL, wait).await;
    assert!(matches!(gone, Err(LogError::Trimmed(LogSeq(5)))), "{gone:?}");
}

async fn the_last_term_stays<L: LogUnderTest>(log: L) {
    let (writer, reader) = (log.handle().await, log.handle().await);
    for (last, kind) in
        [EntryKind::Term, EntryKind::Data, EntryKind::Term, EntryKind::Data].into_iter().enumerate()
    {
        writer.append(LogSeq(last as u64), kind, format!("{last}").into()).await.unwrap();
    }
    assert_eq!(reader.term().await.unwrap(), Some(entry(3, "2")));
    writer.trim(LogSeq(4)).await.unwrap();
    assert_eq!(reader.term().await.unwrap(), Some(entry(3, "2")));
    assert_eq!(read(&*reader, LogSeq(3)).await, [entry(3, "2"), entry(4, "3")]);
    assert_eq!(term(&*writer, LogSeq(4), "4").await.unwrap(), LogSeq(5));
    assert_eq!(reader.term().await.unwrap(), Some(entry(5, "4")));
    writer.trim(LogSeq(100)).await.unwrap();
    assert_eq!(reader.size().await.unwrap().first, LogSeq(5));
    assert_eq!(data(&*writer, LogSeq(5), "5").await.unwrap(), LogSeq(6), "no number is used up");
}

async fn a_log_without_terms_may_be_trimmed_to_nothing<L: LogUnderTest>(log: L) {
    let log = log.handle().await;
    for last in 0..3 {
        data(&*log, LogSeq(last), "x").await.unwrap();
    }
    log.trim(LogSeq(100)).await.unwrap();
    let size = log.size().await.unwrap();
    assert_eq!((size.first, size.last), (LogSeq(4), LogSeq(3)));
    let gone = log.read(LogSeq(1), ALL, NO_WAIT).await;
    assert!(matches!(gone, Err(LogError::Trimmed(LogSeq(4)))), "{gone:?}");
    assert!(read(&*log, LogSeq(4)).await.is_empty());
    assert_eq!(data(&*log, LogSeq(3), "y").await.unwrap(), LogSeq(4));
}
