//! The first manifest of a chain that begins with a state: after a restore, or made anew.

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    manifest::{self, Changes, Manifest, VERSION},
    place::ObjectPlace,
    s3::Created,
    state::ColdState,
};
use contracts::{clock::TimestampMs, error::StorageError};

/// What a chain begins with.
#[derive(Debug)]
pub(super) struct FirstLink {
    pub(super) state: ColdState,
    pub(super) store_id: Uuid,
    /// Greater than that of any segment which the state names.
    pub(super) epoch: u64,
    pub(super) now_ms: TimestampMs,
}

impl FirstLink {
    /// Its bytes, after a check that they can be read as what they should be.
    ///
    /// # Errors
    /// `Corrupt` with what contradicts itself in the state.
    fn encode(mut self) -> Result<Bytes, StorageError> {
        // What those say is of another chain.
        self.state.retired.clear();
        self.state.openings.clear();
        self.state.log = None;
        let link = Manifest {
            version: VERSION,
            number: 0,
            epoch: self.epoch,
            nonce: Uuid::new_v4(),
            store_id: self.store_id,
            written_ms: self.now_ms,
            checkpoint: 0,
            lease_secs: 0,
            awaits_secs: 0,
            released: false,
            opens: true,
            moved: false,
            changes: Changes::default(),
            state: Some(self.state.checkpoint()),
        };
        let bytes = manifest::encode(&link);
        let read = ColdState::begin(&mut manifest::decode(0, &bytes)?)?;
        if read.partitions != self.state.partitions {
            return Err(StorageError::corrupt("the first manifest", "it does not say what it should"));
        }
        Ok(bytes.into())
    }

    /// Begins the chain. Finding one of the same store there is as good: the answer to an earlier attempt was
    /// lost.
    ///
    /// # Errors
    /// `Refused` if another chain is there; those of the place.
    pub(super) async fn create(self, place: &dyn ObjectPlace) -> Result<(), StorageError> {
        let (store_id, key) = (self.store_id, manifest::key(0));
        let bytes = self.encode()?;
        if place.create(&key, bytes).await? == Created::Yes {
            return Ok(());
        }
        let found = place.get(&key).await?.unwrap_or_default();
        match manifest::decode(0, &found) {
            Ok(found) if found.store_id == store_id => Ok(()),
            _ => Err(StorageError::Refused(format!(
                "{}{key} was created meanwhile by somebody else; nothing was overwritten",
                place.place()
            ))),
        }
    }
}
