//! Credentials from a file that is mounted, and changes while the process runs. The SDK reads such a file
//! once; here it is read again when S3 answers 403, so that a key can be changed without a restart.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

use aws_config::ConfigLoader;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, Result as CredentialsResult, error::CredentialsError, future},
};
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef,
};
use aws_smithy_runtime_api::box_error::BoxError;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::info;

use contracts::clock::{Clock, SystemClock, TimestampMs};

/// How long reading credentials may take, as the SDK has it: a profile may name a role, which is asked for.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Credentials are read again at most this often: a right that is missing is 403 too, and stays so.
const REREAD_INTERVAL: Duration = Duration::from_secs(2);
/// Credentials that end are not used for this long before they do.
const SPARE_MS: TimestampMs = 60_000;

/// The usual AWS chain, which is built anew when what it gave was rejected.
#[derive(Debug, Clone)]
pub(super) struct RereadCredentials(Arc<Reread>);

struct Reread {
    /// Reads the environment and its files.
    loader: Box<dyn Fn() -> ConfigLoader + Send + Sync>,
    kept: Mutex<Option<KeptCredentials>>,
    /// Whether S3 has answered 403 since they were read.
    is_rejected: AtomicBool,
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reread").finish_non_exhaustive()
    }
}

struct KeptCredentials {
    credentials: Credentials,
    read: Instant,
}

impl KeptCredentials {
    fn is_over(&self) -> bool {
        let Some(expiry) = self.credentials.expiry() else { return false };
        let ends_ms = expiry.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let ends_ms = TimestampMs::try_from(ends_ms).unwrap_or(TimestampMs::MAX);
        SystemClock.now_ms() >= ends_ms.saturating_sub(SPARE_MS)
    }
}

impl RereadCredentials {
    /// Credentials that nobody has read yet. `loader` has all that the client has, except for these.
    pub(super) fn new(loader: impl Fn() -> ConfigLoader + Send + Sync + 'static) -> Self {
        let (kept, is_rejected) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Reread { loader: Box::new(loader), kept, is_rejected }))
    }

    async fn load(&self) -> CredentialsResult {
        let Reread { loader, kept, is_rejected } = &*self.0;
        // Requests that come meanwhile wait for this one's reading.
        let mut kept = kept.lock().await;
        let is_rejected = is_rejected.swap(false, Relaxed);
        if let Some(known) = &*kept {
            let rereads = is_rejected && known.read.elapsed() >= REREAD_INTERVAL;
            if !rereads && !known.is_over() {
                return Ok(known.credentials.clone());
            }
        }
        // What has read a file once keeps it, so the whole chain is built again.
        let source = loader().load().await.credentials_provider();
        let Some(source) = source else {
            return Err(CredentialsError::not_loaded("there is no source of credentials"));
        };
        let credentials = timeout(LOAD_TIMEOUT, source.provide_credentials())
            .await
            .map_err(|_| CredentialsError::provider_timed_out(LOAD_TIMEOUT))??;
        let before = kept.as_ref().map(|known| known.credentials.access_key_id());
        if before.is_some_and(|before| before != credentials.access_key_id()) {
            info!("credentials for S3 read again, another key is used");
        }
        *kept = Some(KeptCredentials { credentials: credentials.clone(), read: Instant::now() });
        Ok(credentials)
    }
}

impl ProvideCredentials for RereadCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

/// Sees the answers of S3.
impl Intercept for RereadCredentials {
    fn name(&self) -> &'static str {
        "RereadCredentials"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().status().as_u16() == 403 {
            self.0.is_rejected.store(true, Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_end_are_read_again_before_they_do() {
        let ending = |ends_ms: i64| {
            let expiry = UNIX_EPOCH + Duration::from_millis(ends_ms.unsigned_abs());
            let credentials = Credentials::new("key", "secret", None, Some(expiry), "test");
            KeptCredentials { credentials, read: Instant::now() }.is_over()
        };
        let now_ms = SystemClock.now_ms();
        assert!(ending(now_ms - 1) && ending(now_ms + SPARE_MS / 2));
        assert!(!ending(now_ms + 10 * SPARE_MS));
        let lasting = Credentials::new("key", "secret", None, None, "test");
        assert!(!KeptCredentials { credentials: lasting, read: Instant::now() }.is_over());
    }
}
