//! Which partition a key chooses: the one that Kafka's default partitioner chooses, so that a topic that
//! moves here keeps its layout.

use super::{event::EventKey, name::PartitionNumber};

/// The seed of Kafka's hash.
const SEED: u32 = 0x9747_b28c;
/// The multiplier of MurmurHash2.
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The partition of a key among `partitions`, which are numbered from 0: `toPositive(murmur2(key)) mod
/// partitions`. Without any it is 0.
pub fn partition_of(key: &EventKey, partitions: u32) -> PartitionNumber {
    partition_of_hash(positive_hash(key), partitions)
}

/// `toPositive(murmur2(key))`.
pub fn positive_hash(key: &EventKey) -> u32 {
    murmur2(key.as_str().as_bytes()) & 0x7fff_ffff
}

/// The partition of a key with this hash: see [`partition_of`].
pub fn partition_of_hash(positive_hash: u32, partitions: u32) -> PartitionNumber {
    positive_hash.checked_rem(partitions).unwrap_or(0)
}

/// MurmurHash2 of 32 bits, as Kafka's clients compute it.
fn murmur2(bytes: &[u8]) -> u32 {
    // Kafka takes lengths as 32 bits, too.
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn the_hash_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn a_key_has_the_partition_that_a_topic_gives_it() {
        let of = |text: &str, partitions| partition_of(&EventKey::stored(text), partitions);
        for (text, partition) in [
            ("21", 0),
            ("foobar", 6),
            ("a-little-bit-long-string", 8),
            ("a-little-bit-longer-string", 11),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 5),
            ("abc", 3),
        ] {
            assert_eq!(of(text, 12), partition, "{text}");
            assert_eq!((of(text, 1), of(text, 0)), (0, 0), "{text}");
        }
    }
}
