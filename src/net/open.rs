//! The open connections, and which of them is closed to make room when the limit is reached.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::http::connection::{Connection, Idleness};
use contracts::metrics;

/// How long busy connections are spared, while others may still turn out to be idle.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often to look again for a connection that could make room.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The open connections of one listener.
#[derive(Debug, Clone)]
pub(super) struct OpenConnections(Arc<Open>);

#[derive(Debug)]
struct Open {
    most: usize,
    connections: Mutex<Connections>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    /// Since when the limit is reached.
    full_since: Option<Instant>,
}

/// A connection's place; dropping it frees the place.
pub(super) struct Slot {
    open: Arc<Open>,
    id: u64,
}

impl OpenConnections {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Open { most, connections: Mutex::default(), left: Notify::new() }))
    }

    /// Waits for a place. At the limit, the connection that has been idle the longest makes room.
    pub(super) async fn enter(&self, connection: &Arc<Connection>) -> Slot {
        let began = Instant::now();
        loop {
            let left = self.0.left.notified();
            if let Some(slot) = self.try_enter(connection) {
                return slot;
            }
            self.0.make_room(began.elapsed() < PATIENCE);
            // A connection that could not make room before may be idle by now.
            drop(timeout(LOOK_INTERVAL, left).await);
        }
    }

    fn try_enter(&self, connection: &Arc<Connection>) -> Option<Slot> {
        let mut connections = self.0.connections.lock();
        if connections.all.len() >= self.0.most {
            return None;
        }
        let id = connections.next;
        connections.next += 1;
        connections.all.insert(id, Arc::clone(connection));
        let is_full = connections.all.len() >= self.0.most;
        connections.full_since =
            if is_full { connections.full_since.or_else(|| Some(Instant::now())) } else { None };
        metrics::connection_opened();
        Some(Slot { open: Arc::clone(&self.0), id })
    }
}

impl Open {
    /// Tells one connection to end, unless one is already ending: one new connection must not cost two old
    /// ones. With patience, no busy connection ends while others may still turn out to be idle.
    fn make_room(&self, is_patient: bool) {
        let connections = self.connections.lock();
        if connections.all.values().any(|connection| connection.kill().is_cancelled()) {
            return;
        }
        let ranked = connections.all.values().filter_map(|connection| {
            Some((connection.idleness()?, u64::MAX - connection.still_for_ms(), connection))
        });
        let best = ranked.min_by_key(|(idleness, age, _)| (*idleness, *age));
        let is_new = connections.full_since.is_none_or(|since| since.elapsed() < PATIENCE);
        let may_go_soon = |connection: &Arc<Connection>| {
            connection.is_undecided() || (is_new && connection.may_be_waiting())
        };
        let waits = is_patient && connections.all.values().any(may_go_soon);
        if let Some((idleness, _, connection)) =
            best.filter(|(idleness, ..)| *idleness == Idleness::NoRequest || !waits)
        {
            tracing::debug!(?idleness, "a connection makes room for another: limits.connections");
            connection.kill().cancel();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.connections.lock().all.remove(&self.id);
        self.open.left.notify_one();
        metrics::connection_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<Connection> {
        Arc::default()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_idle_the_longest_makes_room_and_who_is_served_does_not() {
        let open = OpenConnections::new(3);
        let all = [connection(), connection(), connection()];
        let served = all[0].request();
        let mut slots = Vec::new();
        for one in &all {
            slots.push(open.enter(one).await);
            tokio::time::advance(Duration::from_secs(1)).await;
            one.progressed();
            one.set_listening(true);
        }
        let leaving = tokio::spawn({
            let (second, slot) = (Arc::clone(&all[1]), slots.remove(1));
            async move {
                second.kill().cancelled().await;
                drop(slot);
            }
        });
        let _fourth = open.enter(&connection()).await;
        leaving.await.unwrap();
        assert!(!all[0].kill().is_cancelled() && !all[2].kill().is_cancelled());
        drop(served);
    }
}
