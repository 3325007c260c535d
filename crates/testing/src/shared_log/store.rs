//! What the log in memory holds, and the rules of a log: pure, but for entries that arrive late.

use std::collections::BTreeMap;

use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize};
use tokio::time::Instant;

/// What an entry takes beside its bytes.
const OVERHEAD: u64 = 64;

/// What a log takes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLogOptions {
    /// The most bytes that it may have, and the most of an entry.
    pub max_bytes: u64,
    /// An entry has a place for each of so many bytes.
    pub part_bytes: usize,
}

impl Default for MemoryLogOptions {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, part_bytes: 896 << 10 }
    }
}

/// The entries.
#[derive(Debug)]
pub(super) struct LogStore {
    options: MemoryLogOptions,
    /// By number. One in parts has as many places, and the number of the last.
    entries: BTreeMap<LogSeq, KeptEntry>,
    /// The first place that is there, or the next one if there is none.
    first: LogSeq,
    last: LogSeq,
    last_term: Option<LogSeq>,
    bytes: u64,
    late: Vec<LateAppend>,
}

#[derive(Debug)]
struct KeptEntry {
    /// Its first place.
    first: LogSeq,
    kind: EntryKind,
    bytes: Bytes,
}

/// An append that has been sent and has not arrived.
#[derive(Debug)]
struct LateAppend {
    at: Instant,
    append: LogAppend,
}

/// What is to be appended.
#[derive(Debug, Clone)]
pub(super) struct LogAppend {
    pub(super) last: LogSeq,
    pub(super) kind: EntryKind,
    pub(super) bytes: Bytes,
}

/// What becomes of an append that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    Stored(LogSeq),
    /// Its place is taken, or has not come yet.
    WrongLast,
    Full,
}

/// What is where an append wanted to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AtPlace {
    Same(LogSeq),
    Other(LogSeq),
    Trimmed(LogSeq),
    Nothing,
}

impl LogStore {
    pub(super) fn new(options: MemoryLogOptions) -> Self {
        Self {
            options,
            entries: BTreeMap::new(),
            first: LogSeq(1),
            last: LogSeq(0),
            last_term: None,
            bytes: 0,
            late: Vec::new(),
        }
    }

    /// # Errors
    /// `TooLarge`.
    pub(super) fn check(&self, append: &LogAppend) -> Result<(), LogError> {
        let max = match append.kind {
            EntryKind::Data => usize::try_from(self.options.max_bytes).unwrap(),
            EntryKind::Term => self.options.part_bytes,
        };
        let bytes = append.bytes.len();
        if bytes > max { Err(LogError::TooLarge { bytes, max }) } else { Ok(()) }
    }

    pub(super) fn append(&mut self, append: &LogAppend) -> Arrived {
        if append.last != self.last {
            return Arrived::WrongLast;
        }
        let bytes = size_of_entry(&append.bytes);
        if self.bytes + bytes > self.options.max_bytes {
            return Arrived::Full;
        }
        let places = append.bytes.len().div_ceil(self.options.part_bytes).max(1);
        let number = LogSeq(self.last.0 + places as u64);
        let entry = KeptEntry { first: self.last.next(), kind: append.kind, bytes: append.bytes.clone() };
        self.entries.insert(number, entry);
        self.last = number;
        self.bytes += bytes;
        if append.kind == EntryKind::Term {
            self.last_term = Some(number);
        }
        Arrived::Stored(number)
    }

    pub(super) fn append_at(&mut self, at: Instant, append: LogAppend) {
        self.late.push(LateAppend { at, append });
    }

    /// Appends what is due by now, in the order in which it arrives; whether there was any.
    pub(super) fn arrive(&mut self, now: Instant) -> bool {
        self.late.sort_by_key(|late| late.at);
        let due = self.late.partition_point(|late| late.at <= now);
        let due: Vec<LateAppend> = self.late.drain(..due).collect();
        for late in &due {
            self.append(&late.append);
        }
        !due.is_empty()
    }

    /// When the next late append arrives.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.late.iter().map(|late| late.at).min()
    }

    pub(super) fn at_place(&self, append: &LogAppend) -> AtPlace {
        let place = append.last.next();
        if place < self.first {
            return AtPlace::Trimmed(self.first);
        }
        match self.entries.range(place..).next() {
            None => AtPlace::Nothing,
            Some((number, entry)) => {
                let is_same =
                    entry.first == place && entry.kind == append.kind && entry.bytes == append.bytes;
                if is_same { AtPlace::Same(*number) } else { AtPlace::Other(*number) }
            }
        }
    }

    /// # Errors
    /// `Trimmed`; `Damaged` from within an entry.
    pub(super) fn read(&self, from: LogSeq, max_bytes: usize) -> Result<Vec<LogEntry>, LogError> {
        let from = from.max(LogSeq(1));
        if from < self.first {
            return Err(LogError::Trimmed(self.first));
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        for (number, entry) in self.entries.range(from..) {
            if found.is_empty() && entry.first != from {
                return Err(LogError::Damaged { seq: from, what: "it is within an entry".to_owned() });
            }
            bytes += entry.bytes.len();
            found.push(LogEntry { seq: *number, bytes: entry.bytes.clone() });
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(found)
    }

    pub(super) fn term(&self) -> Option<LogEntry> {
        let number = self.last_term?;
        Some(LogEntry { seq: number, bytes: self.entries[&number].bytes.clone() })
    }

    pub(super) fn trim(&mut self, upto: LogSeq) {
        let kept = self.last_term.unwrap_or(self.last.next());
        let from = upto.next().min(kept);
        let rest = self.entries.split_off(&from);
        let gone = std::mem::replace(&mut self.entries, rest);
        self.bytes -= gone.values().map(|entry| size_of_entry(&entry.bytes)).sum::<u64>();
        self.first = self.entries.values().next().map_or(self.last.next(), |entry| entry.first);
    }

    pub(super) fn size(&self) -> LogSize {
        LogSize { first: self.first, last: self.last, bytes: self.bytes, max_bytes: self.options.max_bytes }
    }
}

fn size_of_entry(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + OVERHEAD
}
