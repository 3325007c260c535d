//! What the owner of a shard does beside writing: it shows that it is alive, and keeps the log small.

use std::convert::Infallible;

use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::{CopyParts, CopyStatus, owned::OwnedTerm};
use crate::cover::LogCover;
use contracts::{error::StorageError, metrics};

/// Trims the log by what S3 holds of it, whatever becomes of the entry that is on its way meanwhile.
pub(super) async fn keep_small(parts: &CopyParts, owned: &OwnedTerm, cover: &LogCover) -> Infallible {
    loop {
        // Before the first wait, too: who has taken over a full log must know at once that it is full.
        if let Ok(size) = parts.log.size().await {
            owned.note_size(size);
            cover.note_size(size);
            metrics::log_held(parts.names.shard, size.bytes, 0);
            if let Some(upto) = cover.trim_upto()
                && let Err(error) = parts.log.trim(upto).await
            {
                warn!(shard = parts.names.shard, %error, "the shard's log cannot be trimmed, will retry");
            }
        }
        sleep(parts.settings.tick()).await;
    }
}

/// Shows that the owner is alive, and finds out whether it still is the owner.
///
/// # Errors
/// Why the volume cannot be written any more.
pub(super) async fn keep_ticking(
    parts: &CopyParts,
    owned: &OwnedTerm,
    shown: &watch::Sender<CopyStatus>,
) -> Result<(), StorageError> {
    loop {
        sleep(parts.settings.tick()).await;
        // Before anything that waits for the log: if it is away, this is what the volume has of it.
        let mark = owned.mark();
        metrics::log_applied(parts.names.shard, mark.applied, mark.term);
        shown.send_modify(|status| status.mark = mark);
        match parts.hot.confirm().await {
            Err(error) if error.ends_writing() => return Err(error),
            Err(error) => warn!(
                shard = parts.names.shard,
                %error,
                "this pod owns the shard, and cannot show the others that it is alive"
            ),
            Ok(()) => {}
        }
    }
}
