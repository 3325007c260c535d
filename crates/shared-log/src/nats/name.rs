//! What a log is called in NATS: its stream, and the subjects of its two kinds of entries.

use contracts::shared_log::EntryKind;
use uuid::Uuid;

/// Which log of which cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamName {
    /// The cluster's id.
    pub cluster: Uuid,
    /// The shard.
    pub shard: u32,
    /// How many shards the cluster has.
    pub shards: u32,
    /// Counts how often the shard's log was begun anew, so that an append to an earlier one goes nowhere.
    pub generation: u32,
}

impl StreamName {
    /// The cluster's first eight digits: what tells it from others in the same NATS.
    fn cluster8(&self) -> String {
        self.cluster.simple().to_string()[..8].to_owned()
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> String {
        format!("ZOMBI_{}_{:03}_{}", self.cluster8(), self.shard, self.generation)
    }

    /// The subject of entries of a kind.
    #[must_use]
    pub fn subject(&self, kind: EntryKind) -> String {
        let kind = match kind {
            EntryKind::Data => "data",
            EntryKind::Term => "term",
        };
        format!("zombi.{}.{:03}.{}.{kind}", self.cluster8(), self.shard, self.generation)
    }

    /// The subjects of entries about ownership, of the log however often it was begun anew.
    pub(super) fn subject_of_any(&self) -> String {
        format!("zombi.{}.{:03}.*.term", self.cluster8(), self.shard)
    }

    /// The generation of the log that a stream is, if it is this shard's.
    pub(super) fn generation_of(&self, stream: &str) -> Option<u32> {
        let (_, generation) = stream.rsplit_once('_')?;
        let generation = generation.parse().ok()?;
        (Self { generation, ..*self }.stream() == stream).then_some(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let cluster = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let name = StreamName { cluster, shard: 7, shards: 12, generation: 2 };
        assert_eq!(name.stream(), "ZOMBI_01234567_007_2");
        assert_eq!(name.subject(EntryKind::Data), "zombi.01234567.007.2.data");
        assert_eq!(name.subject(EntryKind::Term), "zombi.01234567.007.2.term");
        assert_eq!(name.subject_of_any(), "zombi.01234567.007.*.term");
        for (stream, generation) in [
            ("ZOMBI_01234567_007_2", Some(2)),
            ("ZOMBI_01234567_007_13", Some(13)),
            ("ZOMBI_01234567_007_02", None),
            ("ZOMBI_01234567_008_2", None),
            ("ZOMBI_11234567_007_2", None),
            ("ZOMBI_01234567_007_", None),
            ("other", None),
        ] {
            assert_eq!(name.generation_of(stream), generation, "{stream}");
        }
    }
}
