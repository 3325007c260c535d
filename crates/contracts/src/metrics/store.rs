//! What a store holds.

use std::time::Duration;

use metrics::gauge;

use super::names::{
    ERASURE_OLDEST, ERASURES_PENDING, GROUPS, HOT_BYTES, HOT_MAX, KEY_WINDOW, KEY_WINDOW_SETTING, KEYS,
    LOST_OFFSETS, PARTITIONS, TABLES, UNFLUSHED_AGE, UNFLUSHED_BYTES, UNFLUSHED_EVENTS,
};
use crate::{erasure::PendingErasures, idempotency::KeyWindow};

/// The gauges of the store at one scrape.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreGauges {
    /// Tables.
    pub tables: u64,
    /// Stored bytes of the events in hot.
    pub bytes: u64,
    /// Stored bytes of events in hot beyond which writes are refused.
    pub max_bytes: u64,
    /// Stored bytes of the events that only hot has.
    pub unflushed_bytes: u64,
    /// How many events only hot has.
    pub unflushed_events: u64,
    /// How long the oldest of them has waited.
    pub unflushed_for: Duration,
    /// Offsets declared lost.
    pub lost: u64,
    /// Partitions of all tables.
    pub partitions: u64,
    /// Consumer groups.
    pub groups: u64,
    /// The idempotency keys.
    pub keys: KeyWindow,
    /// How long keys are to be remembered, in milliseconds.
    pub key_window_setting_ms: u64,
    /// The erasures that are not done.
    pub erasures: PendingErasures,
}

/// Shows what the store holds.
pub fn store(store: StoreGauges) {
    gauge!(TABLES).set(store.tables as f64);
    gauge!(HOT_BYTES).set(store.bytes as f64);
    gauge!(HOT_MAX).set(store.max_bytes as f64);
    gauge!(UNFLUSHED_BYTES).set(store.unflushed_bytes as f64);
    gauge!(UNFLUSHED_EVENTS).set(store.unflushed_events as f64);
    gauge!(UNFLUSHED_AGE).set(store.unflushed_for.as_secs_f64());
    gauge!(LOST_OFFSETS).set(store.lost as f64);
    gauge!(PARTITIONS).set(store.partitions as f64);
    gauge!(GROUPS).set(store.groups as f64);
    gauge!(KEYS).set(store.keys.keys as f64);
    gauge!(KEY_WINDOW).set(store.keys.window_ms as f64 / 1000.0);
    gauge!(KEY_WINDOW_SETTING).set(store.key_window_setting_ms as f64 / 1000.0);
    gauge!(ERASURES_PENDING).set(store.erasures.count as f64);
    gauge!(ERASURE_OLDEST).set(store.erasures.oldest.as_secs_f64());
}
