//! Where an issuer's keys come from: a file that somebody else reads again when it changes, or a URL that is
//! fetched from here.
//!
//! A URL is fetched by one task, at the start, every `auth.oidc.refresh_secs`, and when a token names a key
//! that is not known; never more often than every ten seconds. So a flood of made-up names costs one GET per
//! pause, and whoever hangs up does not end the fetch that others wait for.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    fetch::{FETCH_TIMEOUT, FetchKeys, HttpsKeys},
    kept::KeptKeys,
    keys::{BadKeySet, KeyMark, KeySet, MAX_SET_BYTES, VerifyingKey},
    turns::{FetchTurns, PAUSE},
};
use crate::{
    auth::{refusal::CredentialRefusal, settings::OidcSettings},
    first_bytes::first_bytes,
};
use contracts::{
    clock::{Clock, SystemClock},
    metrics,
};

/// How long a token waits for a fetch.
const PATIENCE: Duration = FETCH_TIMEOUT.saturating_add(Duration::from_secs(1));

/// The keys of an issuer as they are now.
pub struct KeySource {
    keys: ArcSwapOption<KeySet>,
    /// How they are fetched; `None` if they are a file's.
    remote: Option<RemoteKeys>,
    /// Told when keys have changed, once somebody wants to know.
    changed: OnceLock<watch::Sender<u64>>,
}

/// A key, and the set that it is in.
pub(super) type FoundKey = (Arc<KeySet>, Arc<VerifyingKey>);

/// Keys behind a URL.
struct RemoteKeys {
    fetch: Box<dyn FetchKeys>,
    kept: KeptKeys,
    refresh: Duration,
    turns: FetchTurns,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource").field("keys", &self.keys.load_full()).finish_non_exhaustive()
    }
}

impl KeySource {
    /// The source that the settings name. A file is read now; for a URL, the keys that were kept below
    /// `data_dir` are read, and [`run`](Self::run) fetches. Blocks on files.
    ///
    /// # Errors
    /// [`BadKeySet`] if the file cannot be read or used, or if the settings name no source. Kept keys that
    /// cannot be used are logged, and fetched.
    pub fn open(settings: &OidcSettings, data_dir: &Path) -> Result<Self, BadKeySet> {
        match (&settings.jwks_file, &settings.jwks_url) {
            (Some(path), _) => Self::of_file(path),
            (None, Some(url)) => {
                let fetch = Box::new(HttpsKeys::new(url, settings)?);
                Ok(Self::of_url(fetch, KeptKeys::new(data_dir, url), settings.refresh_secs.duration()))
            }
            (None, None) => Err(BadKeySet::new("neither auth.oidc.jwks_url nor auth.oidc.jwks_file is set")),
        }
    }

    /// All that is wrong with the files that the settings name: the keys', or those that a fetch needs.
    /// Nothing is fetched.
    pub(crate) async fn faults(settings: &OidcSettings) -> Vec<String> {
        match (&settings.jwks_file, &settings.jwks_url) {
            (Some(path), _) => Self::of_file(path).err().iter().map(ToString::to_string).collect(),
            (None, Some(url)) => match HttpsKeys::new(url, settings) {
                Ok(keys) => keys.faults().await,
                Err(why) => vec![why.to_string()],
            },
            (None, None) => Vec::new(),
        }
    }

    fn of_file(path: &Path) -> Result<Self, BadKeySet> {
        let bytes = first_bytes(path, MAX_SET_BYTES + 1)
            .map_err(|error| BadKeySet::new(format!("{}: {error}", path.display())))?;
        let source = Self { keys: ArcSwapOption::empty(), remote: None, changed: OnceLock::new() };
        let replaced = source.replace(&bytes);
        replaced.map_err(|why| BadKeySet::new(format!("{}: {why}", path.display())))?;
        Ok(source)
    }

    fn of_url(fetch: Box<dyn FetchKeys>, kept: KeptKeys, refresh: Duration) -> Self {
        let keys = kept.read().unwrap_or_else(|error| {
            warn!(error, "the kept keys of the issuer cannot be used; none are, until they are fetched");
            None
        });
        if let Some(keys) = &keys {
            info!(keys = keys.count(), "using the kept keys of the issuer until they are fetched");
        }
        let keys = keys.filter(|_| !contracts::mutant("kept_keys"));
        metrics::auth_loaded("jwks", 0);
        let remote = RemoteKeys { fetch, kept, refresh, turns: FetchTurns::default() };
        let keys = ArcSwapOption::new(keys.map(Arc::new));
        Self { keys, remote: Some(remote), changed: OnceLock::new() }
    }

    /// Replaces the keys with those of a JWKS, all or none of them, and says whether they are others than
    /// before. For whoever sees that `auth.oidc.jwks_file` has changed.
    ///
    /// # Errors
    /// [`BadKeySet`]: then the keys stay as they were.
    pub fn replace(&self, jwks: &[u8]) -> Result<bool, BadKeySet> {
        let set = KeySet::parse(jwks)?;
        // The same keys stay the same set, so that the tokens they have verified are still known.
        if self.current().is_some_and(|current| current.is_same(&set)) {
            return Ok(false);
        }
        info!(keys = set.count(), "the keys of the issuer have changed");
        self.keys.store(Some(Arc::new(set)));
        if let Some(changed) = self.changed.get()
            && !contracts::mutant("keys_changed_told")
        {
            changed.send_modify(|count| *count += 1);
        }
        Ok(true)
    }

    /// Counts every change of the keys from now on, so that whoever goes by one that is gone can end.
    pub(in crate::auth) fn tell(&self, changed: watch::Sender<u64>) {
        // A second one would be another gate's, and there is one.
        drop(self.changed.set(changed));
    }

    /// Whether this very key is still the issuer's.
    pub(in crate::auth) fn holds(&self, mark: &KeyMark) -> bool {
        self.current().is_some_and(|keys| keys.holds(mark))
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.current().map_or(0, |keys| keys.count())
    }

    /// Whether there are keys: without any, no token can be verified, and readiness fails.
    pub fn has_keys(&self) -> bool {
        self.keys.load().is_some()
    }

    /// The keys as they are now.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// The key that a token names, with the set that it is in. If it is not known, the keys may be fetched
    /// first, which takes [`PATIENCE`] at most.
    ///
    /// # Errors
    /// `Unavailable` without any keys, else `UnknownKey`.
    pub(super) async fn find(&self, kid: Option<&str>) -> Result<FoundKey, CredentialRefusal> {
        let found = self.find_now(kid);
        if contracts::mutant("keys_rotated") {
            return found;
        }
        let (Err(CredentialRefusal::UnknownKey), Some(remote), Some(kid)) = (&found, &self.remote, kid)
        else {
            return found;
        };
        let has_waited = match remote.turns.ask(kid) {
            Some(mut ended) => matches!(timeout(PATIENCE, ended.changed()).await, Ok(Ok(()))),
            None => false,
        };
        // Looked for in any case: a fetch may just have ended.
        let found = self.find_now(Some(kid));
        if has_waited && found.is_err() {
            remote.turns.remember_unknown(kid);
        }
        found
    }

    /// Only with a check switched off: asks for what a token links to.
    pub(super) async fn follow(&self, url: &str) {
        if let Some(remote) = &self.remote {
            drop(remote.fetch.follow(url).await);
        }
    }

    fn find_now(&self, kid: Option<&str>) -> Result<FoundKey, CredentialRefusal> {
        let is_said = !contracts::mutant("no_keys_said");
        let without = if is_said { CredentialRefusal::Unavailable } else { CredentialRefusal::UnknownKey };
        let set = self.current().ok_or(without)?;
        let key = set.find(kid).ok_or(CredentialRefusal::UnknownKey)?;
        Ok((set, key))
    }

    /// Fetches the keys whenever it is time, and ends once stopped. It is to run from the start, once
    /// `data_dir` is there, until the last request has ended: a token with an unknown key waits for it.
    pub async fn run(&self, stop: CancellationToken) {
        match &self.remote {
            Some(remote) => {
                let _turns = remote.turns.end_when_dropped();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = self.fetch_for_ever(remote) => {}
                }
            }
            None => stop.cancelled().await,
        }
    }

    async fn fetch_for_ever(&self, remote: &RemoteKeys) {
        let (mut fetching, mut keeping) = (Trouble::default(), Trouble::default());
        // What is there at the start is what was kept.
        let mut is_kept = self.has_keys();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = remote.turns.asked() => {}
                () = sleep_until(next) => remote.turns.begin(),
            }
            let fetched = remote.fetch.fetch().await;
            let replaced = fetched.and_then(|jwks| {
                let is_new = self.replace(&jwks).map_err(|why| format!("what was fetched is no JWKS: {why}"));
                is_new.map(|is_new| (is_new, jwks))
            });
            remote.turns.end();
            if replaced.is_err() && contracts::mutant("fetch_pause_failed") {
                remote.turns.forget();
            }
            if replaced.is_err() && contracts::mutant("jwks_bad_clears") {
                self.keys.store(None);
            }
            if replaced.is_ok() {
                metrics::auth_loaded("jwks", SystemClock.now_ms());
            }
            fetching.note(&replaced, "fetching the keys of the issuer");
            let refresh =
                if contracts::mutant("keys_refreshed") { Duration::from_secs(86_400) } else { remote.refresh };
            next = Instant::now() + if replaced.is_ok() { refresh } else { PAUSE };
            if let Ok((is_new, jwks)) = replaced
                && (is_new || !is_kept)
            {
                let kept = remote.keep(jwks).await;
                keeping.note(&kept, "keeping the keys of the issuer on the volume");
                is_kept = kept.is_ok();
            }
        }
    }
}

impl RemoteKeys {
    async fn keep(&self, jwks: Vec<u8>) -> Result<(), String> {
        let kept = self.kept.clone();
        match task::spawn_blocking(move || kept.write(&jwks)).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Logs when something begins to fail and when it works again, and nothing in between.
#[derive(Default)]
struct Trouble {
    is_there: bool,
}

impl Trouble {
    fn note<T>(&mut self, outcome: &Result<T, String>, what: &str) {
        match outcome {
            Err(error) if !self.is_there => warn!(error, "{what} failed, will retry"),
            Ok(_) if self.is_there => info!("{what} works again"),
            _ => {}
        }
        self.is_there = outcome.is_err();
    }
}

#[cfg(test)]
mod tests;
