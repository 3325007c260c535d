//! An object beside the chain that says where its last checkpoint is, so that an opening costs what follows it
//! and not all that is kept. It is written after a checkpoint, by the upkeep of the writer, and never trusted: it
//! only says from where the manifests are listed. If it is too high nothing is found, and all of them are listed;
//! if it is too low more of them are.

use tracing::debug;

use crate::{names::HINT, s3::Objects};

/// What it says; `None` if it is not there, or is no number.
pub(super) async fn read(objects: &Objects) -> Option<u64> {
    let found = objects.get(HINT).await.ok()??;
    std::str::from_utf8(&found).ok()?.trim().parse().ok()
}

/// Writes it anew; returns whether it was written. An opening only costs more without it.
pub(crate) async fn write(objects: &Objects, checkpoint: u64) -> bool {
    let written = objects.put_over(HINT, checkpoint.to_string().into()).await;
    if let Err(error) = &written {
        debug!(%error, "the hint to the last checkpoint is not written");
    }
    written.is_ok()
}
