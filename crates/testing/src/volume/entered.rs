//! The changes that entries of a shard's log name, and what is on its way into that log.

use std::sync::Arc;

use bytes::Bytes;
use contracts::{error::StorageError, replica::SharedRole};
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as Turn, oneshot},
    task::JoinSet,
};

use super::VolumeState;

/// The bytes of a change's name: as many as a small event has, so that a log fills with changes, as it does
/// elsewhere, and not with ticks.
const NAME_BYTES: usize = 256;

type SharedChange = Arc<dyn Fn(&mut VolumeState) + Send + Sync>;

/// Who waits for a confirm.
type AskedConfirm = oneshot::Sender<Result<(), StorageError>>;

/// The changes that entries of one log name. Its clones are the same one.
#[derive(Clone, Default)]
pub struct EnteredChanges(Arc<Mutex<Vec<SharedChange>>>);

impl std::fmt::Debug for EnteredChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EnteredChanges").field(&self.0.lock().len()).finish()
    }
}

impl EnteredChanges {
    pub(super) fn keep(&self, change: SharedChange) -> Bytes {
        let mut changes = self.0.lock();
        changes.push(change);
        let mut name = (changes.len() as u64 - 1).to_be_bytes().to_vec();
        name.resize(NAME_BYTES, 0);
        name.into()
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<SharedChange> {
        let number = u64::from_be_bytes(*name.first_chunk()?);
        self.0.lock().get(usize::try_from(number).ok()?).cloned()
    }
}

/// What the tasks that enter changes have of the engine. They end with it.
#[derive(Default)]
pub(super) struct Entering {
    pub(super) role: Arc<SharedRole>,
    /// One change is on its way at a time, and none while an entry is applied.
    pub(super) turn: Arc<Turn<()>>,
    /// Those who wait for one that is not on its way yet.
    pub(super) confirms: Arc<Mutex<Vec<AskedConfirm>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Entering {
    pub(super) fn spawn(&self, entering: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(entering);
    }
}
