//! Which shard of a cluster a table belongs to. Every pod, and every program that looks at the bucket, must
//! come to the same one for ever.

use sha2::{Digest, Sha256};

use super::name::TableName;

/// What the keys of a store's manifests begin with; of a shard's, below its directory.
pub const CHAIN: &str = "manifests/";
/// The key of the object that says what a cluster is.
pub const CLUSTER: &str = "cluster.json";

/// One of the shards that a cluster deals its tables out to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// Its number, from 0.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl Shard {
    /// Whether a table belongs to it.
    pub fn has(self, table: &TableName) -> bool {
        shard_of(table, self.of) == self.number
    }

    /// What the keys of its own objects begin with, below the prefix of the store.
    pub fn directory(self) -> String {
        format!("shards/{}/", self.name())
    }

    /// Its number as keys, directories and metrics have it.
    pub fn name(self) -> String {
        format!("{:03}", self.number)
    }
}

/// The number of the shard that a table belongs to: the first eight bytes of the SHA-256 of its name, as one
/// number, modulo the number of shards (`sha256-64`).
pub fn shard_of(table: &TableName, shards: u32) -> u32 {
    let digest = Sha256::digest(table.as_str().as_bytes());
    let number = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    u32::try_from(number % u64::from(shards.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [(&str, u32, u32); 8] = [
        ("events", 11, 2),
        ("orders", 4, 1),
        ("a", 10, 1),
        ("t", 5, 2),
        ("audit.log", 3, 0),
        ("metrics-2026", 8, 2),
        ("x_1", 10, 1),
        ("payments", 0, 0),
    ];

    /// Once and for all: a table whose shard changes is lost from sight.
    #[test]
    fn a_table_belongs_to_the_shard_that_it_always_belonged_to() {
        for (table, of_12, of_3) in GOLDEN {
            let table = TableName::parse(table).unwrap();
            assert_eq!((shard_of(&table, 12), shard_of(&table, 3)), (of_12, of_3), "{table}");
            assert_eq!((0..12).filter(|number| Shard { number: *number, of: 12 }.has(&table)).count(), 1);
        }
        assert_eq!(Shard { number: 7, of: 12 }.directory(), "shards/007/");
    }
}
