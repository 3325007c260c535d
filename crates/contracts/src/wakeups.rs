//! Wakes readers that wait for appends: an append to a partition wakes those that wait for it or for its
//! table, and no others.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::name::{PartitionNumber, TableName};

/// What a reader waits for: one partition of a table, or any.
type WakeupKey = (TableName, Option<PartitionNumber>);

/// The readers that wait.
#[derive(Debug, Default)]
pub struct Wakeups {
    places: Mutex<HashMap<WakeupKey, watch::Sender<()>>>,
    /// How many keys have waiting readers. Mostly none, and then an append costs nothing.
    count: AtomicUsize,
}

/// One waiting reader. Appends before it was made do not wake it.
#[derive(Debug)]
pub struct Wakeup {
    wakeups: Arc<Wakeups>,
    place: WakeupKey,
    receiver: watch::Receiver<()>,
}

impl Wakeups {
    /// Waits from now on for appends to a partition, or to any of the table.
    pub fn wait_for(self: &Arc<Self>, table: &TableName, partition: Option<PartitionNumber>) -> Wakeup {
        let place = (table.clone(), partition);
        let mut places = self.places.lock();
        let receiver = places.entry(place.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        self.count.store(places.len(), SeqCst);
        Wakeup { wakeups: Arc::clone(self), place, receiver }
    }

    /// Whether no reader waits.
    pub fn is_empty(&self) -> bool {
        self.count.load(SeqCst) == 0
    }

    /// Wakes the readers that wait for these partitions. Call it once readers can see the new events.
    pub fn appended(&self, partitions: impl IntoIterator<Item = (TableName, PartitionNumber)>) {
        if self.is_empty() {
            return;
        }
        let places = self.places.lock();
        for (table, partition) in partitions {
            for place in [(table.clone(), Some(partition)), (table, None)] {
                if let Some(waiting) = places.get(&place) {
                    let _ = waiting.send(()); // the reader may be gone
                }
            }
        }
    }
}

impl Wakeup {
    /// Forgets all appends so far: only a later one completes the next [`Wakeup::appended`].
    pub fn forget(&mut self) {
        self.receiver.mark_unchanged();
    }

    /// Waits for the next append.
    pub async fn appended(&mut self) {
        let changed = self.receiver.changed().await;
        debug_assert!(changed.is_ok(), "the sender is kept as long as somebody waits");
    }
}

impl Drop for Wakeup {
    fn drop(&mut self) {
        let mut places = self.wakeups.places.lock();
        // This one is still counted.
        if places.get(&self.place).is_some_and(|waiting| waiting.receiver_count() <= 1) {
            places.remove(&self.place);
            self.wakeups.count.store(places.len(), SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn table(name: &str) -> TableName {
        TableName::parse(name).unwrap()
    }

    #[test]
    fn an_append_wakes_who_waits_for_it_and_nobody_else() {
        let wakeups = Arc::new(Wakeups::default());
        let mut whole = wakeups.wait_for(&table("t"), None);
        let mut first = wakeups.wait_for(&table("t"), Some(0));
        let mut second = wakeups.wait_for(&table("t"), Some(1));
        let mut other = wakeups.wait_for(&table("u"), None);
        wakeups.appended([(table("t"), 1)]);
        let woken = [&mut whole, &mut first, &mut second, &mut other]
            .map(|one| one.appended().now_or_never().is_some());
        assert_eq!(woken, [true, false, true, false]);
        wakeups.appended([(table("t"), 0)]);
        first.forget();
        assert!(first.appended().now_or_never().is_none());
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let wakeups = Arc::new(Wakeups::default());
        let one = wakeups.wait_for(&table("t"), None);
        let two = wakeups.wait_for(&table("t"), None);
        drop(one);
        assert!(!wakeups.is_empty());
        drop(two);
        assert!(wakeups.is_empty() && wakeups.places.lock().is_empty());
    }
}
