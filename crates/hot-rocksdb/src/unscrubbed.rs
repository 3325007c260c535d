//! Notes of partitions whose files may hold what was erased, as bytes: where the offsets begin and end, and
//! how often it was noted, each u64, big endian.
//!
//! Whoever scrubs forgets only notes that are as they were before: what was erased meanwhile has changed
//! them.

use contracts::{error::StorageError, sequence::OffsetRange};

use crate::keys;

/// A note. Without offsets it is of idempotency keys alone, which are scrubbed with every note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unscrubbed {
    /// From the first offset to the last.
    pub(crate) span: OffsetRange,
    /// How often it was noted since the last scrub.
    times: u64,
}

impl Unscrubbed {
    /// The note of more offsets, where there may be one already.
    pub(crate) fn with(known: Option<Self>, span: OffsetRange) -> Self {
        let Some(Self { span: known, times }) = known else { return Self { span, times: 1 } };
        let both = match (known.is_empty(), span.is_empty()) {
            (true, _) => span,
            (_, true) => known,
            _ => OffsetRange::new(known.start.min(span.start), known.end.max(span.end)),
        };
        Self { span: both, times: times + 1 }
    }

    /// The stored form.
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.span.start, self.span.end, self.times].map(u64::to_be_bytes).concat()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let numbers: Option<Vec<u64>> = bytes.chunks(size_of::<u64>()).map(keys::decode_u64).collect();
        match numbers.as_deref() {
            Some(&[start, end, times]) if start <= end => {
                Ok(Self { span: OffsetRange::new(start, end), times })
            }
            _ => Err(StorageError::corrupt("a note of what is to be scrubbed", format!("{bytes:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_a_partition_become_one_that_has_changed() {
        let (none, first, second) = (OffsetRange::new(0, 0), OffsetRange::new(5, 7), OffsetRange::new(2, 3));
        let keys = Unscrubbed::with(None, none);
        assert!(keys.span.is_empty());
        let one = Unscrubbed::with(Some(keys), first);
        assert_eq!(one.span, first);
        assert_eq!(Unscrubbed::with(Some(one), none).span, first);
        let both = Unscrubbed::with(Some(one), second);
        assert_eq!(both.span, OffsetRange::new(2, 7));
        assert_ne!(Unscrubbed::with(Some(both), second), both, "what was erased since is noted");
        assert_eq!(Unscrubbed::decode(&both.encode()).unwrap(), both);
        for bad in [&b""[..], &[0; 23], &[0; 32], &Unscrubbed { span: first, times: 1 }.encode()[1..]] {
            assert!(Unscrubbed::decode(bad).is_err(), "{bad:?}");
        }
        let mut backward = both.encode();
        backward[..8].copy_from_slice(&9_u64.to_be_bytes());
        assert!(Unscrubbed::decode(&backward).is_err());
    }
}
