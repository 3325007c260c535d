//! Both engines do what every engine must do, and the log in memory what every log that pods share must.

use std::sync::Arc;

use contracts::engine::Engine;
use testing::{
    conformance::{Volume, suite},
    shared_log::{self, MemoryLog, MemoryLogOptions},
};

use crate::{
    ground::{Hot, SimClock, VolumeGround},
    run,
};

/// An engine that is opened and crashed as the suite wants.
struct SuiteEngine {
    ground: VolumeGround,
    clock: Arc<SimClock>,
    hot: Option<Hot>,
}

impl SuiteEngine {
    fn new(ground: VolumeGround) -> Self {
        let clock = SimClock::new();
        let hot = Some(Hot::open(&ground, &clock).unwrap());
        Self { ground, clock, hot }
    }
}

impl Volume for SuiteEngine {
    fn hot(&self) -> &dyn Engine {
        self.hot.as_ref().unwrap().tier.as_ref()
    }

    async fn crash(&mut self) {
        self.hot.take().unwrap().crash().await;
        self.hot = Some(Hot::open(&self.ground, &self.clock).unwrap());
    }
}

#[test]
fn the_engine_in_memory_does_what_every_engine_must() {
    run(suite(|| SuiteEngine::new(VolumeGround::memory(1))));
}

#[test]
fn rocksdb_does_what_every_engine_must() {
    run(suite(|| SuiteEngine::new(VolumeGround::rocksdb())));
}

#[test]
fn the_log_in_memory_does_what_every_log_must() {
    run(shared_log::suite(async |max_bytes| {
        MemoryLog::new(1, MemoryLogOptions { max_bytes, ..MemoryLogOptions::default() })
    }));
}
