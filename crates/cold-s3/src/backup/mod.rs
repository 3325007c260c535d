//! A store as a whole: backups, restores, manifests made anew, and what a volume has beyond the chain.
//!
//! All of it works on two places ([`ObjectPlace`](super::place::ObjectPlace)), beside a running server or
//! without one, and none of it ever changes or deletes a segment, but for what a restore itself has put.
//! Deciding is pure (`plan`, `cover`); the rest acts.
//!
//! **A backup** (`save`) is a prefix that looks like a bucket, consistent at the source's manifest N:
//!
//! 1. `backup-of.json`, created: from now on the place holds a backup of one store and nothing else;
//! 2. the segments that the state after N names, and what retention and DELETE took away and is still kept;
//! 3. the links up to N that the source still has, byte for byte;
//! 4. the list of all segments' objects with their SHA-256;
//! 5. `backup.json`, replaced: it names N and the list; the list before it is deleted.
//!
//! What counts is what `backup.json` names, and all that it names exists before it. Killed before 5, the
//! backup is the one before, with more objects beside it; after 1, it is none yet, and is refused as one. The
//! next run finds the objects that are there and copies none of them again: one that the list does not know
//! is read and compared. No object is there in part: a PUT is whole or nothing, a file is moved to its place.
//!
//! **A restore** (`restore`) begins a new store in an empty place:
//!
//! 1. `restore.json`, created: which store at which manifest is restored, as which new store;
//! 2. segments, copied, or cut where what held their events was merged with later ones;
//! 3. manifest 0 of the new chain, created: a checkpoint with the state, and the store is there;
//! 4. what a run that was killed had put, and the state does not name, is deleted;
//! 5. `restore.json` is deleted.
//!
//! Until 3 a server refuses the place, since it has segments and no manifests; a run with the same words goes
//! on as `restore.json` says. Killed after 3, the next run finds its own manifest and does 5: what 4 has left
//! a server sweeps away. A server refuses a backup, too, whose past it would sweep away: no manifest names it.
//!
//! **Manifests made anew** (`rebuild`) are one object: manifest 0, created, after every segment was read.
//! Segments that overlap are cut before that, into objects of their own; of the last epoch's nothing is cut
//! away, since a writer that was overtaken may have put others beside them. Killed at any time, the bucket
//! has no manifest, and the next run does the same again.
//!
//! **A cluster** (`cluster`, `restore::cluster`) is that for each of its shards, with something before them
//! and behind them.

mod beyond;
mod cluster;
mod conflicts;
mod copying;
mod cover;
mod first_link;
mod past;
mod plan;
mod rebuild;
mod records;
mod restore;
mod save;
#[cfg(test)]
mod tests;

pub use self::{
    beyond::Beyond,
    cluster::{cluster_in, rebuild, restore, save},
    cover::{Cover, Piece, Preferred, cover},
    past::{RestorePoint, load_consistent, must_be_a_store},
    plan::{CopyPlan, WantedObject, plan},
    rebuild::{RebuildOptions, RebuildReport},
    records::{
        BackupEntry, BackupMark, BackupRecord, ClusterBackup, ClusterNote, RestoreNote, SavedShard,
        ShardPoint,
    },
    restore::{RestoreOptions, RestoreReport},
    save::{BackupReport, SaveOptions},
};
pub(crate) use self::{cluster::saved_shards, past::backup_of};
