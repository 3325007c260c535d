//! Payloads that say which run they are of, and sums that say whether all of them are there.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What a payload begins with: run, connection, number; the rest fills it up.
const HEAD_BYTES: usize = 32 + 1 + 8 + 1 + 12 + 1;

/// One run of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BenchRun {
    id: Uuid,
    size: usize,
}

impl BenchRun {
    /// A run with payloads of so many bytes, or as few as say what they are.
    pub(super) fn new(size: usize) -> Self {
        Self { id: Uuid::new_v4(), size: size.max(HEAD_BYTES) }
    }

    /// The payload of an event: always the same for the same numbers. It has nothing that JSON would escape.
    pub(super) fn payload(self, connection: u32, number: u64) -> String {
        let mut text = format!("{}-{connection:08x}-{number:012x}-", self.id.simple());
        // Not the same letter throughout, so that compression has something to do.
        let mut state = (number ^ (u64::from(connection) << 40)) | 1;
        while text.len() < self.size {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(char::from(b'a' + (state >> 59) as u8 % 26));
        }
        text
    }

    /// Whose payload it is, if it is of this run: connection and number.
    pub(super) fn of(self, payload: &[u8]) -> Option<(u32, u64)> {
        let text = std::str::from_utf8(payload).ok()?;
        let rest = text.strip_prefix(&self.id.simple().to_string())?.strip_prefix('-')?;
        let (connection, rest) = rest.split_once('-')?;
        let (number, _) = rest.split_once('-')?;
        Some((u32::from_str_radix(connection, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
    }
}

/// A sum of hashes: the same for the same events in any order, and for no others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HashSum {
    pub(super) events: u64,
    sum: u128,
}

impl HashSum {
    /// Adds a payload.
    pub(super) fn add(&mut self, payload: &[u8]) {
        let digest = Sha256::digest(payload);
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        self.events += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(half));
    }

    /// Adds what another sum has.
    pub(super) fn join(&mut self, other: Self) {
        self.events += other.events;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_whose_it_is() {
        let run = BenchRun::new(100);
        for (connection, number) in [(0, 0), (7, 123_456), (u32::MAX, 0xffff_ffff_ffff)] {
            let payload = run.payload(connection, number);
            assert_eq!(payload.len(), 100);
            assert_eq!(run.of(payload.as_bytes()), Some((connection, number)));
            assert_eq!(run.payload(connection, number), payload);
            assert_eq!(BenchRun::new(100).of(payload.as_bytes()), None);
        }
        assert_eq!(BenchRun::new(1).payload(0, 0).len(), HEAD_BYTES);
        assert_eq!(run.of(b"another"), None);
    }

    #[test]
    fn sums_are_equal_for_the_same_events_only() {
        let sum = |payloads: &[&str]| {
            let mut sum = HashSum::default();
            payloads.iter().for_each(|payload| sum.add(payload.as_bytes()));
            sum
        };
        assert_eq!(sum(&["a", "b", "c"]), sum(&["c", "a", "b"]));
        assert_ne!(sum(&["a", "b"]), sum(&["a", "b", "b"]));
        assert_ne!(sum(&["a", "b"]), sum(&["a", "c"]));
        let mut joined = sum(&["a"]);
        joined.join(sum(&["b"]));
        assert_eq!(joined, sum(&["a", "b"]));
    }
}
