//! Opens the gate where identity is on: its files must be right before anything is served.

use std::sync::Arc;

use tokio::task::{self, JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use super::error::ServerError;
use crate::{
    auth::{
        audit::AuditTrail,
        files,
        gate::{Gate, GateParts},
        jwt::Verifier,
        settings::AuthMode,
    },
    settings::Settings,
};
use contracts::{clock::SystemClock, metrics};

/// The gate; `None` where everybody is let in.
///
/// # Errors
/// [`ServerError::Access`] with everything that is wrong with the files.
pub(super) fn open(settings: &Settings) -> Result<Option<Arc<Gate>>, ServerError> {
    metrics::auth_enabled(settings.auth.mode == AuthMode::Required);
    if settings.auth.mode == AuthMode::None {
        if !contracts::mutant("open_is_said") {
            warn!("auth.mode is none: whoever can open a connection may do everything");
        }
        return Ok(None);
    }
    let files::AuthFiles { policy, tokens } = files::load(&settings.auth)?;
    let clock = SystemClock::shared();
    let verifier = Verifier::open(&settings.oidc, &settings.process.data_dir, Arc::clone(&clock))
        .map_err(|bad| ServerError::Access(format!("auth.oidc.jwks_file: {bad}")))?;
    let parts = GateParts {
        policy,
        tokens: tokens.unwrap_or_default(),
        verifier,
        audit: AuditTrail::new(settings.audit),
        body_bytes: settings.limits.body_bytes as u64,
    };
    Ok(Some(Gate::new(parts, clock)))
}

/// Fetches the issuer's keys and keeps them fresh until the handle is dropped; `None` without an issuer.
pub(super) fn keep_keys(gate: &Arc<Gate>) -> Option<AbortOnDropHandle<()>> {
    let keys = Arc::clone(gate.verifier()?.keys());
    Some(AbortOnDropHandle::new(task::spawn(async move { keys.run(CancellationToken::new()).await })))
}

/// Writes what of the audit log is due.
pub(super) struct AuditKeeper {
    writing: JoinHandle<()>,
    stop: CancellationToken,
}

impl AuditKeeper {
    /// Of a gate.
    pub(super) fn of(gate: &Arc<Gate>) -> Self {
        let (gate, stop) = (Arc::clone(gate), CancellationToken::new());
        let stopped = stop.clone();
        Self { writing: task::spawn(async move { gate.audit.run(stopped).await }), stop }
    }

    /// Writes the rest. It is to be called after the last request.
    pub(super) async fn end(self) {
        self.stop.cancel();
        drop(self.writing.await);
    }
}
