//! What a flusher works on.

use std::sync::Arc;

use contracts::{
    bucket::BucketState, clock::Clock, cold::ColdTier, engine::Engine, fence::Fence, heartbeat::Heartbeat,
};

/// What a flusher works on.
#[derive(Clone)]
pub(crate) struct Tiers {
    /// Where events come from, and the consumer offsets that manifests carry.
    pub hot: Arc<dyn Engine>,
    /// Where events go.
    pub cold: Arc<dyn ColdTier>,
    /// The time of day, for what hot keeps.
    pub clock: Arc<dyn Clock>,
    /// The flusher's sign of life.
    pub heartbeat: Arc<Heartbeat>,
    /// Shows what is wrong with the bucket.
    pub bucket: Arc<BucketState>,
    /// Says how long the manifests may go unseen.
    pub fence: Arc<Fence>,
}
