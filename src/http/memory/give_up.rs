//! How the holder of a share is told to drop it.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Tells the holder of a share to drop it, at most once.
#[derive(Debug, Clone)]
pub struct GiveUp(GiveUpKind);

#[derive(Debug, Clone)]
enum GiveUpKind {
    /// The holder itself. It is no `CancellationToken`: each request with a body makes one, and those take a
    /// lock whenever they are cloned or dropped.
    Holder(Arc<HolderWord>),
    /// The connection of the holder, which ends with the holder.
    Connection(CancellationToken),
}

#[derive(Debug, Default)]
struct HolderWord {
    is_said: AtomicBool,
    said: Notify,
}

impl GiveUp {
    /// A word to the holder.
    pub(super) fn by_word() -> Self {
        Self(GiveUpKind::Holder(Arc::default()))
    }

    /// The end of a connection.
    pub(super) fn by_killing(connection: CancellationToken) -> Self {
        Self(GiveUpKind::Connection(connection))
    }

    /// Tells the holder.
    pub(super) fn cancel(&self) {
        match &self.0 {
            GiveUpKind::Holder(word) => {
                word.is_said.store(true, SeqCst);
                word.said.notify_waiters();
            }
            GiveUpKind::Connection(kill) => kill.cancel(),
        }
    }

    /// Whether the holder has been told.
    pub fn is_cancelled(&self) -> bool {
        match &self.0 {
            GiveUpKind::Holder(word) => word.is_said.load(SeqCst),
            GiveUpKind::Connection(kill) => kill.is_cancelled(),
        }
    }

    /// Ready once the holder has been told.
    pub async fn cancelled(&self) {
        match &self.0 {
            GiveUpKind::Holder(word) => {
                // Before the look, so that no word is missed.
                let mut said = pin!(word.said.notified());
                said.as_mut().enable();
                if !word.is_said.load(SeqCst) {
                    said.await;
                }
            }
            GiveUpKind::Connection(kill) => kill.cancelled().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_holder_is_told_whenever_it_listens() {
        for give_up in [GiveUp::by_word(), GiveUp::by_killing(CancellationToken::new())] {
            let holders = give_up.clone();
            assert!(timeout(Duration::from_secs(1), holders.cancelled()).await.is_err());
            let telling = async {
                sleep(Duration::from_secs(1)).await;
                give_up.cancel();
            };
            let hears = async { timeout(Duration::from_secs(9), holders.cancelled()).await };
            assert!(tokio::join!(hears, telling).0.is_ok());
            assert!(holders.is_cancelled());
            assert!(timeout(Duration::from_secs(1), holders.cancelled()).await.is_ok(), "it was told before");
        }
    }
}
