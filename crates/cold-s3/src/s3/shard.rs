//! Where the objects of a shard are: its manifests, and the hint to them, below a directory of its own, its
//! segments among those of all shards.

use super::Objects;
use crate::names::HINT;
use contracts::shards::{CHAIN, Shard};

impl Objects {
    /// The same objects as a shard has them: the manifests are its own, the segments everybody's.
    pub fn of_shard(&self, shard: Shard) -> Self {
        Self { shard: Some(shard), ..self.clone() }
    }

    /// The same objects as the whole place has them, whichever shard this is about.
    pub(crate) fn of_all(&self) -> Self {
        Self { shard: None, ..self.clone() }
    }

    /// The shard whose chain this is about; `None` for a store that is one.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Where the chain is, for people: of a shard below its own directory.
    pub(crate) fn chain_place(&self) -> String {
        self.place() + &self.shard.map(Shard::directory).unwrap_or_default()
    }

    /// The key below the prefix, or below the shard's own directory.
    pub(super) fn own<'a>(&self, full: &'a str) -> Option<&'a str> {
        let below = full.strip_prefix(&self.prefix)?;
        let own = self.shard.and_then(|shard| below.strip_prefix(shard.directory().as_str()));
        Some(own.unwrap_or(below))
    }

    /// The whole key of an object.
    pub(super) fn full(&self, key: &str) -> String {
        match self.shard.filter(|_| key.starts_with(CHAIN) || key == HINT) {
            Some(shard) => format!("{}{}{key}", self.prefix, shard.directory()),
            None => format!("{}{key}", self.prefix),
        }
    }
}
