//! A state dealt out to shards, and the states of shards put together. Pure: whatever a state holds belongs
//! to one table, and a table to one shard.

use std::collections::BTreeSet;

use crate::{names, state::ColdState};
use contracts::{error::StorageError, name::TableName, shards::shard_of};

fn damaged(why: String) -> StorageError {
    StorageError::corrupt("the manifest chain", why)
}

/// The number of the shard of a table that a state names.
fn shard_named(table: &str, shards: u32) -> Result<usize, StorageError> {
    let table = TableName::parse(table).map_err(|error| damaged(error.to_string()))?;
    Ok(shard_of(&table, shards) as usize)
}

/// A state by shards. The manifests that began epochs belong to a chain, and stay behind.
///
/// # Errors
/// `Corrupt` if it names something that cannot be.
pub(super) fn split(state: &ColdState, shards: u32) -> Result<Vec<ColdState>, StorageError> {
    let mut parts = vec![ColdState::default(); shards as usize];
    for (partition, cold) in &state.partitions {
        let part = &mut parts[shard_of(&partition.table, shards) as usize];
        part.partitions.insert(partition.clone(), cold.clone());
    }
    for (key, why) in &state.retired {
        let parsed = names::parse(key).ok_or_else(|| damaged(format!("{key} is no segment's key")))?;
        parts[shard_of(&parsed.partition.table, shards) as usize].retired.insert(key.clone(), *why);
    }
    for (name, entry) in &state.tables {
        parts[shard_named(name, shards)?].tables.insert(name.clone(), entry.clone());
    }
    for (key, offset) in &state.consumers {
        parts[shard_named(&key.table, shards)?].consumers.insert(key.clone(), *offset);
    }
    for (id, erasure) in &state.erasures {
        parts[shard_of(&erasure.table, shards) as usize].erasures.insert(*id, erasure.clone());
    }
    Ok(parts)
}

/// The states of all shards as one, with the openings of the chain that it goes to.
///
/// # Errors
/// `Corrupt` if a shard has a table that belongs to another: the same table would be there twice.
pub(super) fn merge(
    parts: impl IntoIterator<Item = ColdState>,
    shards: u32,
    openings: BTreeSet<u64>,
) -> Result<ColdState, StorageError> {
    let mut whole = ColdState { openings, ..ColdState::default() };
    for (number, part) in parts.into_iter().enumerate() {
        let strays = split(&part, shards)?;
        let is_own = |(other, stray): (usize, &ColdState)| other == number || *stray == ColdState::default();
        if !strays.iter().enumerate().all(is_own) {
            return Err(damaged(format!("shard {number} has a table that belongs to another")));
        }
        whole.partitions.extend(part.partitions);
        whole.retired.extend(part.retired);
        whole.tables.extend(part.tables);
        whole.consumers.extend(part.consumers);
        whole.erasures.extend(part.erasures);
    }
    Ok(whole)
}
