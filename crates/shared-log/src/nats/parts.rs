//! Entries in parts: NATS takes messages of at most 1 MiB, and stores up to 1,000 of them as one.

use std::{fmt, str::FromStr};

use bytes::{Bytes, BytesMut};
use contracts::shared_log::{LogEntry, LogSeq};

/// The most bytes of a part: 1 MiB is what NATS takes, with its headers.
pub(super) const PART_BYTES: usize = 896 << 10;
/// The most messages that NATS stores as one.
const MAX_PARTS: usize = 1000;
/// The header that says which part a message is; an entry that is one message has none.
pub(super) const PART_HEADER: &str = "Zombi-Part";

/// Which part of an entry a message is: `2/6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartNumber {
    /// From 1 on.
    pub(super) number: u64,
    /// How many parts the entry has.
    pub(super) of: u64,
}

impl PartNumber {
    /// Of an entry that is one message.
    pub(super) const WHOLE: Self = Self { number: 1, of: 1 };

    /// As a message's headers say, in the form that NATS gives them.
    ///
    /// # Errors
    /// What they say instead.
    pub(super) fn of_headers(headers: &str) -> Result<Self, String> {
        let mut values = headers.lines().filter_map(|line| line.split_once(": "));
        match values.find(|(name, _)| *name == PART_HEADER) {
            Some((_, value)) => value.parse().map_err(|()| format!("{PART_HEADER} is {value:?}")),
            None => Ok(Self::WHOLE),
        }
    }

    fn is_last(self) -> bool {
        self.number == self.of
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for PartNumber {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, of) = text.split_once('/').ok_or(())?;
        let part = Self { number: number.parse().map_err(|_| ())?, of: of.parse().map_err(|_| ())? };
        if part.number == 0 || part.number > part.of { Err(()) } else { Ok(part) }
    }
}

/// The most bytes that an entry may have in a log that may have so many.
pub(super) fn max_entry_bytes(max_log_bytes: u64) -> usize {
    let by_log = usize::try_from(max_log_bytes).unwrap_or(usize::MAX);
    by_log.min(MAX_PARTS * PART_BYTES)
}

/// An entry's parts, in order: at least one.
pub(super) fn split(entry: &Bytes) -> Vec<(PartNumber, Bytes)> {
    let of = entry.len().div_ceil(PART_BYTES).max(1);
    let part = |number: usize| {
        let start = (number - 1) * PART_BYTES;
        let end = entry.len().min(start + PART_BYTES);
        (PartNumber { number: number as u64, of: of as u64 }, entry.slice(start..end))
    };
    (1..=of).map(part).collect()
}

/// Puts entries together from messages that follow one another.
#[derive(Debug, Default)]
pub(super) struct PartJoiner {
    /// How many parts of the entry are here, and how many it has.
    begun: Option<PartNumber>,
    bytes: BytesMut,
}

impl PartJoiner {
    /// Whether an entry has begun that is not whole.
    pub(super) fn is_within_entry(&self) -> bool {
        self.begun.is_some()
    }

    /// Takes the message at a place; returns the entry that it makes whole.
    ///
    /// # Errors
    /// What is wrong: it is not the part that follows.
    pub(super) fn push(
        &mut self,
        seq: LogSeq,
        part: PartNumber,
        data: Bytes,
    ) -> Result<Option<LogEntry>, String> {
        let expected = match self.begun {
            Some(here) => PartNumber { number: here.number + 1, ..here },
            None => PartNumber { number: 1, of: part.of },
        };
        if part != expected {
            return Err(format!("part {part} is where {expected} should be"));
        }
        if part == PartNumber::WHOLE {
            return Ok(Some(LogEntry { seq, bytes: data }));
        }
        self.bytes.extend_from_slice(&data);
        if !part.is_last() {
            self.begun = Some(part);
            return Ok(None);
        }
        self.begun = None;
        Ok(Some(LogEntry { seq, bytes: self.bytes.split().freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(length: usize) -> Bytes {
        (0..length).map(|place| (place % 251) as u8).collect::<Vec<u8>>().into()
    }

    #[test]
    fn an_entry_is_cut_where_a_message_is_full() {
        let lengths = |length| split(&entry(length)).iter().map(|(_, part)| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(0), [0]);
        assert_eq!(lengths(PART_BYTES), [PART_BYTES]);
        assert_eq!(lengths(PART_BYTES + 1), [PART_BYTES, 1]);
        assert_eq!(split(&entry(PART_BYTES + 1))[1].0.to_string(), "2/2");
    }

    #[test]
    fn no_entry_is_larger_than_a_batch_or_the_log() {
        assert_eq!(max_entry_bytes(5 << 20), 5 << 20);
        assert_eq!(max_entry_bytes(u64::MAX), 1000 * PART_BYTES);
    }

    #[test]
    fn headers_say_which_part_it_is() {
        let of = |headers: &str| PartNumber::of_headers(headers);
        assert_eq!(
            of("NATS/1.0\r\nNats-Batch-Id: b\r\nZombi-Part: 2/6\r\n\r\n"),
            Ok(PartNumber { number: 2, of: 6 })
        );
        assert_eq!(of(""), Ok(PartNumber::WHOLE));
        for wrong in ["0/1", "3/2", "1", "1/x", "-1/2"] {
            assert!(of(&format!("NATS/1.0\r\nZombi-Part: {wrong}\r\n\r\n")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_part_that_does_not_follow_is_an_error() {
        let part = |number, of| PartNumber { number, of };
        let mut joiner = PartJoiner::default();
        assert!(joiner.push(LogSeq(5), part(2, 3), Bytes::new()).is_err(), "the first is missing");
        assert_eq!(joiner.push(LogSeq(5), part(1, 3), Bytes::new()), Ok(None));
        assert!(joiner.is_within_entry());
        assert!(joiner.push(LogSeq(6), part(3, 3), Bytes::new()).is_err(), "the second is missing");
        assert!(joiner.push(LogSeq(6), part(2, 2), Bytes::new()).is_err(), "of another entry");
        assert!(joiner.push(LogSeq(6), PartNumber::WHOLE, Bytes::new()).is_err(), "another entry");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_was_split_is_joined(lengths in prop::collection::vec(0..3 * PART_BYTES, 1..4)) {
            let mut joiner = PartJoiner::default();
            let mut seq = LogSeq(0);
            for length in lengths {
                let whole = entry(length);
                let mut joined = None;
                for (part, data) in split(&whole) {
                    prop_assert!(joined.is_none());
                    seq = seq.next();
                    joined = joiner.push(seq, part, data).unwrap();
                }
                prop_assert_eq!(joined, Some(LogEntry { seq, bytes: whole }));
                prop_assert!(!joiner.is_within_entry());
            }
        }
    }
}
