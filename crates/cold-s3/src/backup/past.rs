//! The state of a store or a backup at an earlier manifest.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::records::{BackupMark, BackupRecord, ClusterNote, MARK, NOTE, RECORD, RestoreNote};
use crate::{
    chain,
    cluster::recorded,
    links::Links,
    manifest::{self, Manifest},
    place::ObjectPlace,
    state::ColdState,
};
use contracts::{clock::TimestampMs, error::StorageError};

/// Manifests read at once.
const PARALLEL_GETS: usize = 16;

/// To which state a restore goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestorePoint {
    /// The last one: of a backup the one at which it is consistent.
    #[default]
    Latest,
    /// That after this manifest.
    Manifest(u64),
    /// That after the last manifest that was written by this time.
    Time(TimestampMs),
}

/// The manifests of a store or a backup.
#[derive(Debug)]
pub(super) struct Past<'a> {
    place: &'a dyn ObjectPlace,
    /// Those that count.
    pub(super) links: Links,
    /// The last of them.
    pub(super) latest: u64,
    /// The one that a backup names, whether or not it is there.
    named: Option<u64>,
}

/// What a place is a backup of; `None` if it is none.
///
/// # Errors
/// `Refused` if no run of the backup has ended yet.
pub(crate) async fn backup_of(place: &dyn ObjectPlace) -> Result<Option<BackupRecord>, StorageError> {
    if let Some(record) = BackupRecord::of(place).await? {
        return Ok(Some(record));
    }
    match BackupMark::of(place).await? {
        None => Ok(None),
        Some(_) => Err(StorageError::Refused(format!(
            "{} is a backup that was begun and not ended: run the same zombi backup again",
            place.place()
        ))),
    }
}

/// The chain of a store; of a backup as far as `backup.json` names it. What a run that was killed has brought
/// beyond that has gaps.
///
/// # Errors
/// `Refused` if no run of the backup has ended yet, or the manifest that it names is gone; those of
/// [`chain::load`].
pub async fn load_consistent(place: &dyn ObjectPlace) -> Result<chain::Found, StorageError> {
    let named = backup_of(place).await?.map(|record| record.manifest);
    let found = chain::load_upto(place, named).await?;
    match named.filter(|named| found.last.as_ref().is_none_or(|last| last.number != *named)) {
        None => Ok(found),
        Some(named) => Err(named_in_vain(place, named, &found.links)),
    }
}

/// Refuses a place in which no server may write, and which nobody may make a cluster of: a backup, whose past
/// would be swept away as objects that nobody names, or a restore that has not ended. One that only its note
/// is left of is a store, or a cluster. It is asked of the whole place, not of a shard.
///
/// # Errors
/// `Refused`; those of the place.
pub async fn must_be_a_store(place: &dyn ObjectPlace) -> Result<(), StorageError> {
    if has(place, MARK).await? || has(place, RECORD).await? {
        return Err(StorageError::Refused(format!(
            "{} is a backup, not a store: restore it into an empty prefix; nothing was changed",
            place.place()
        )));
    }
    no_restore_is_open(place).await
}

/// Refuses a place in which a restore was begun and has not ended: it has segments, and not all of them.
///
/// # Errors
/// `Refused`; those of the place.
pub(super) async fn no_restore_is_open(place: &dyn ObjectPlace) -> Result<(), StorageError> {
    if !has(place, NOTE).await? {
        return Ok(());
    }
    let Some(note) = place.get(NOTE).await? else { return Ok(()) };
    if is_begun(place, &note).await? {
        return Ok(());
    }
    Err(StorageError::Refused(format!(
        "a restore was begun in {} and not ended: run it again ({}); nothing was changed",
        place.place(),
        String::from_utf8_lossy(&note)
    )))
}

/// Whether the restore that a note is of has come as far as its store or its cluster.
async fn is_begun(place: &dyn ObjectPlace, note: &[u8]) -> Result<bool, StorageError> {
    let (id, is_cluster) = match ClusterNote::decode(note) {
        Ok(note) => (note.id, !note.single),
        Err(_) => (RestoreNote::decode(note)?.store_id, false),
    };
    if is_cluster {
        // Of a cluster that has left since, the chain of one Zombi is there.
        let is_there = recorded(place).await?.is_some_and(|record| record.cluster == id);
        return Ok(is_there || chain::links(place).await?.last().is_some());
    }
    Ok(match place.get(&manifest::key(0)).await? {
        Some(bytes) => manifest::decode(0, &bytes)?.store_id == id,
        None => false,
    })
}

/// Whether a place lists an object. A store that is not probed yet may answer any GET with something.
async fn has(place: &dyn ObjectPlace, key: &str) -> Result<bool, StorageError> {
    Ok(place.first(key).await?.is_some_and(|found| found == key))
}

impl<'a> Past<'a> {
    /// Looks at a place.
    ///
    /// # Errors
    /// `Refused` if it holds no store; those of the place.
    pub(super) async fn of(place: &'a dyn ObjectPlace) -> Result<Self, StorageError> {
        let mut links = chain::links(place).await?;
        let named = backup_of(place).await?.map(|record| record.manifest);
        if let Some(named) = named {
            links.end_with(named);
        }
        match links.last() {
            Some(latest) => Ok(Self { place, links, latest, named }),
            None => Err(StorageError::Refused(format!(
                "{} holds no manifests, so there is nothing to restore from",
                place.place()
            ))),
        }
    }

    /// The number of the manifest to go back to.
    ///
    /// # Errors
    /// `Refused` if there is none that early or that late, or a backup lacks its last one.
    pub(super) async fn number(&self, point: RestorePoint) -> Result<u64, StorageError> {
        match point {
            RestorePoint::Latest => match self.named.filter(|named| *named != self.latest) {
                None => Ok(self.latest),
                Some(named) => Err(named_in_vain(self.place, named, &self.links)),
            },
            RestorePoint::Manifest(number) if self.links.checkpoint_of(number).is_some() => Ok(number),
            RestorePoint::Manifest(number) => Err(StorageError::Refused(format!(
                "the state after manifest {number} cannot be read any more, or not yet; these can: {}",
                shown(&self.links.readable())
            ))),
            RestorePoint::Time(time_ms) => self.number_by(time_ms).await,
        }
    }

    /// The last manifest that was written by a time. Their times ascend, but for a clock that was set back.
    async fn number_by(&self, time_ms: TimestampMs) -> Result<u64, StorageError> {
        let readable = self.links.readable();
        let (mut low, mut high) = (0, readable.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if chain::read(self.place, readable[middle]).await?.written_ms <= time_ms {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if let Some(found) = low.checked_sub(1) {
            let number = readable[found];
            let next = readable.get(low).copied().unwrap_or(self.latest + 1);
            if next == number + 1 {
                return Ok(number);
            }
            let later_ms = time_ms.saturating_sub(chain::read(self.place, number).await?.written_ms);
            if later_ms == 0 {
                return Ok(number);
            }
            // Old ones are deleted, but for those that begin an epoch: the state of then is between the two.
            return Err(StorageError::Refused(format!(
                "the state of that time cannot be read any more: it is behind manifest {number}, which was written \
                 {} s earlier, and before {next}; those that can be restored: {}",
                later_ms / 1000,
                shown(&readable)
            )));
        }
        let oldest = match readable.first() {
            Some(number) => {
                let later_ms = chain::read(self.place, *number).await?.written_ms.saturating_sub(time_ms);
                format!("; the oldest, {number}, was written {} s later", later_ms / 1000)
            }
            None => String::new(),
        };
        Err(StorageError::Refused(format!(
            "no manifest is as old as that{oldest}; those that can be restored: {}",
            shown(&readable)
        )))
    }

    /// The state after a manifest, and that manifest.
    ///
    /// # Errors
    /// `Corrupt` if a link is missing or damaged; those of the place.
    pub(super) async fn state(&self, number: u64) -> Result<(ColdState, Manifest), StorageError> {
        let checkpoint = self.links.checkpoint_of(number).unwrap_or(number);
        let mut last = chain::read(self.place, checkpoint).await?;
        let mut state = ColdState::begin(&mut last)?;
        let mut links = self.between(checkpoint + 1, number);
        while let Some(link) = links.next().await {
            let link = link?;
            chain::Author::of(&last).followed_by(&link)?;
            last = link;
            state.apply(&last)?;
        }
        Ok((state, last))
    }

    /// The manifests from `first` to `last`, in order, where they exist.
    fn between(&self, first: u64, last: u64) -> stream::BoxStream<'_, Result<Manifest, StorageError>> {
        let numbers: Vec<u64> =
            self.links.numbers().filter(|number| (first..=last).contains(number)).collect();
        stream::iter(numbers).map(|number| chain::read(self.place, number)).buffered(PARALLEL_GETS).boxed()
    }

    /// The manifests behind `number`.
    ///
    /// # Errors
    /// `Corrupt`; those of the place.
    pub(super) async fn behind(&self, number: u64) -> Result<Vec<Manifest>, StorageError> {
        self.between(number + 1, self.latest).try_collect().await
    }
}

/// The refusal of a backup without the manifest that it names: what is left of it is an earlier state.
fn named_in_vain(place: &dyn ObjectPlace, named: u64, links: &Links) -> StorageError {
    StorageError::Refused(format!(
        "{}{RECORD} names manifest {named}, and it is not there: bring it back, run the backup again, or say with \
         --at which earlier state is good enough: {}",
        place.place(),
        shown(&links.readable())
    ))
}

/// Numbers as ranges, for people.
fn shown(numbers: &[u64]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let shown: Vec<String> = runs
        .map(|run| match run {
            [only] => only.to_string(),
            _ => format!("{} to {}", run[0], run[run.len() - 1]),
        })
        .collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_ranges() {
        for (numbers, text) in [
            (&[0u64; 0][..], "none"),
            (&[7], "7"),
            (&[1, 2, 3], "1 to 3"),
            (&[1, 2, 5, 7, 8], "1 to 2, 5, 7 to 8"),
        ] {
            assert_eq!(shown(numbers), text);
        }
    }
}
