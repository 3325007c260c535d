//! Looks at files again that may change while the server runs. By their contents, and not by events of the
//! file system: a mounted Secret changes by a link above the file, and a network file system tells nothing.

use std::{sync::Arc, time::Duration};

use tokio::{task, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info};

use crate::net::tls::Tls;
use contracts::{
    clock::{Clock, SystemClock},
    metrics,
};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Uses new files of TLS when they come, until the handle is dropped.
pub(super) fn watch(tls: Arc<Tls>) -> AbortOnDropHandle<()> {
    metrics::auth_loaded("tls", SystemClock.now_ms());
    AbortOnDropHandle::new(task::spawn(async move {
        loop {
            sleep(LOOK_INTERVAL).await;
            look(&tls).await;
        }
    }))
}

async fn look(tls: &Arc<Tls>) {
    let tls = Arc::clone(tls);
    match task::spawn_blocking(move || tls.reload()).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => {
            metrics::auth_loaded("tls", SystemClock.now_ms());
            info!("certificate reloaded, new connections get it");
        }
        Ok(Err(error)) => {
            metrics::auth_reload_failed();
            error!(%error, "the changed files of TLS cannot be used, keeping those before");
        }
        Err(error) => debug!(%error, "the files of TLS were not looked at"),
    }
}
