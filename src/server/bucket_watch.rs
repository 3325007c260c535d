//! Checks the bucket from a pod that owns no shard: no flusher would notice its loss there, and the pod needs
//! it as soon as it owns one.

use std::time::Duration;

use tokio::{task, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use cold_s3::{cluster::recorded, s3::Objects};

/// How often the bucket is asked while nothing else asks it. What it answers shows in the metrics of S3, as
/// every request does.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

/// Asks the bucket now and then while this pod owns no shard, as `owns` says; ends with the handle.
pub(super) fn begin(objects: Objects, owns: impl Fn() -> bool + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(task::spawn(async move {
        loop {
            let is_asked_for = owns();
            if !is_asked_for && let Err(error) = recorded(&objects).await {
                debug!(%error, "the bucket cannot be read, and this pod owns no shard");
            }
            sleep(ASK_INTERVAL).await;
        }
    }))
}
