//! Looks at files again that may change while the server runs: policy, tokens, keys, certificates. By their
//! contents, and not by events of the file system: a mounted Secret changes by a link above the file, and a
//! network file system tells nothing. A file that cannot be used changes nothing: what was loaded before
//! stays in force.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{task, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info};

use crate::{
    auth::{gate::Gate, policy::Policy, tokens::Tokens},
    cluster::{client::PodClient, secret::SecretFile},
    first_bytes::first_bytes,
    net::tls::Tls,
    settings::Settings,
};
use contracts::{
    clock::{Clock, SystemClock},
    metrics,
};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// More of a file is not read: it is refused anyway.
const MAX_FILE_BYTES: usize = (1 << 20) + 1;

/// Takes the contents of a file over.
///
/// # Errors
/// Why they cannot be used.
type Adopt = Box<dyn Fn(&[u8]) -> Result<(), String> + Send>;

/// A file that is looked at.
struct WatchedFile {
    /// What it holds, as metrics and the log name it.
    what: &'static str,
    path: PathBuf,
    /// Of the contents that were looked at last, whether they could be used or not.
    seen: Option<[u8; 32]>,
    adopt: Adopt,
}

/// The files of the gate that may change.
#[derive(Default)]
pub(super) struct WatchedFiles(Vec<WatchedFile>);

impl WatchedFiles {
    /// Those that the settings name. They were loaded a moment ago, and are taken over once more: what is in
    /// force and what is known of the files must be the same, even if they have changed in between. Blocks on
    /// the disk.
    pub(super) fn of(settings: &Settings, gate: &Arc<Gate>) -> Self {
        let (policy, tokens, keys) = (Arc::clone(gate), Arc::clone(gate), Arc::clone(gate));
        let mut files = Self::default();
        files.add("policy", &settings.auth.policy_file, move |contents| {
            let parsed = text(contents).and_then(|text| Policy::parse(text).map_err(|bad| bad.to_string()));
            if parsed.is_err() && contracts::mutant("bad_policy_keeps") {
                policy.adopt_policy(Policy::default());
            }
            policy.adopt_policy(parsed?);
            Ok(())
        });
        files.add("tokens", &settings.auth.tokens_file, move |contents| {
            let parsed = text(contents).and_then(|text| Tokens::parse(text).map_err(|bad| bad.to_string()));
            if parsed.is_err() && contracts::mutant("bad_tokens_keep") {
                tokens.adopt_tokens(Tokens::default());
            }
            tokens.adopt_tokens(parsed?);
            Ok(())
        });
        files.add("jwks", &settings.oidc.jwks_file, move |contents| match keys.verifier() {
            Some(verifier) => verifier.keys().replace(contents).map(drop).map_err(|bad| bad.to_string()),
            None => Ok(()),
        });
        files
    }

    /// Looks at the secret of the cluster too.
    pub(super) fn add_secret(&mut self, settings: &Settings, secret: &Arc<SecretFile>) {
        let secret = Arc::clone(secret);
        self.add("cluster_secret", &settings.cluster.secret_file, move |contents| secret.adopt(contents));
    }

    /// Looks at whom this pod trusts to be another too. What it shows to others is what its clients see: when
    /// that changes, both do.
    pub(super) fn add_pods(&mut self, settings: &Settings, pods: &Arc<PodClient>) {
        let pods = Arc::clone(pods);
        let path = settings.cluster.ca_file.clone().filter(|_| settings.tls.cert_file.is_some());
        self.add("cluster_ca", &path, move |_| pods.reload());
    }

    fn add(
        &mut self,
        what: &'static str,
        path: &Option<PathBuf>,
        adopt: impl Fn(&[u8]) -> Result<(), String> + Send + 'static,
    ) {
        if let Some(path) = path.clone() {
            let path = if contracts::mutant("reload_by_link") {
                std::fs::canonicalize(&path).unwrap_or(path)
            } else {
                path
            };
            let mut file = WatchedFile { what, path, seen: None, adopt: Box::new(adopt) };
            file.look();
            self.0.push(file);
        }
    }

    /// Uses changed files when they come, those of TLS too, until the handle is dropped.
    pub(super) fn keep(self, tls: Option<Arc<Tls>>, pods: Option<Arc<PodClient>>) -> AbortOnDropHandle<()> {
        let mut files = self.0;
        AbortOnDropHandle::new(task::spawn(async move {
            loop {
                sleep(LOOK_INTERVAL).await;
                let (tls, pods) = (tls.clone(), pods.clone());
                let looked = task::spawn_blocking(move || {
                    for file in &mut files {
                        if file.look() {
                            info!(file = %file.path.display(), "{} reloaded", file.what);
                        }
                    }
                    if let Some(tls) = tls {
                        look_at(&tls, pods.as_deref());
                    }
                    files
                });
                match looked.await {
                    Ok(back) => files = back,
                    Err(error) => return debug!(%error, "files of access are not looked at any more"),
                }
            }
        }))
    }
}

impl WatchedFile {
    /// Takes the file over if it has changed; whether it did.
    fn look(&mut self) -> bool {
        let contents = match first_bytes(&self.path, MAX_FILE_BYTES) {
            Ok(contents) => contents,
            Err(error) => {
                self.refuse(None, &error.to_string());
                return false;
            }
        };
        let seen = digest(&contents);
        if self.seen == Some(seen) || (self.seen.is_some() && contracts::mutant("reload")) {
            return false;
        }
        // Whatever a file holds, those that come after it are looked at.
        let adopted = catch_unwind(AssertUnwindSafe(|| (self.adopt)(&contents)));
        match adopted.unwrap_or_else(|_| Err("reading it failed, which is a bug".to_owned())) {
            Ok(()) => {
                self.seen = Some(seen);
                metrics::auth_loaded(self.what, SystemClock.now_ms());
                true
            }
            Err(why) => {
                self.refuse(Some(seen), &why);
                false
            }
        }
    }

    /// Says once why the file cannot be used.
    fn refuse(&mut self, seen: Option<[u8; 32]>, why: &str) {
        if self.seen == seen {
            return;
        }
        self.seen = seen;
        if !contracts::mutant("reload_failure_counted") {
            metrics::auth_reload_failed();
        }
        error!(
            file = %self.path.display(),
            why,
            "the changed {} cannot be used, what was loaded before stays in force",
            self.what
        );
    }
}

fn digest(contents: &[u8]) -> [u8; 32] {
    Sha256::digest(contents).into()
}

fn text(contents: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(contents).map_err(|error| error.to_string())
}

fn look_at(tls: &Tls, pods: Option<&PodClient>) {
    let failed = |error: &str| {
        metrics::auth_reload_failed();
        error!(error, "the changed files of TLS cannot be used, keeping those before");
    };
    match catch_unwind(AssertUnwindSafe(|| tls.reload())) {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => {
            metrics::auth_loaded("tls", SystemClock.now_ms());
            info!("certificate reloaded, new connections get it");
            if let Some(Err(why)) = pods.map(PodClient::reload) {
                failed(&why);
            }
        }
        Ok(Err(error)) => failed(&error.to_string()),
        Err(_) => failed("reading them failed, which is a bug"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::Instant;

    use super::*;
    use crate::auth::gate::tests::gate;

    const GOOD: &str = "version: 1\nbindings: []\n";
    /// One that has something for callers without a credential.
    const EVERYBODY: &str = "version: 1\nbindings:\n- {subjects: [\"*\"], anonymous: true, role: producer}\n";
    /// What the documents promise.
    const PROMISED: Duration = Duration::from_secs(5);
    /// How often a test looks whether a file is in force.
    const STEP: Duration = Duration::from_millis(10);

    fn settings(directory: &tempfile::TempDir, policy: &str) -> Settings {
        let path = directory.path().join("policy.yaml");
        fs::write(&path, policy).unwrap();
        let mut settings = Settings::default();
        settings.auth.policy_file = Some(path);
        settings
    }

    #[test]
    fn a_file_that_has_changed_since_it_was_loaded_is_in_force_from_the_first_look() {
        let (directory, gate) = (tempfile::tempdir().unwrap(), gate(GOOD));
        let mut files = WatchedFiles::of(&settings(&directory, EVERYBODY), &gate);
        assert!(gate.lets_everybody_in(), "the gate was made with another policy");
        assert!(!files.0[0].look(), "it is the same still");
        fs::write(&files.0[0].path, GOOD).unwrap();
        assert!(files.0[0].look() && !gate.lets_everybody_in());
    }

    #[test]
    fn a_file_that_cannot_be_used_leaves_all_that_was_in_force() {
        let (directory, gate) = (tempfile::tempdir().unwrap(), gate(EVERYBODY));
        let mut files = WatchedFiles::of(&settings(&directory, EVERYBODY), &gate);
        let file = &mut files.0[0];
        // Half of the last one could be used.
        for bad in ["", "bindings: [", "version: 1\nbindings: []\nquotas: 3\n"] {
            fs::write(&file.path, bad).unwrap();
            assert!(!file.look() && gate.lets_everybody_in(), "{bad:?}");
        }
        fs::write(&file.path, GOOD).unwrap();
        assert!(file.look() && !gate.lets_everybody_in(), "the next good one is taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_in_force_within_five_seconds_whenever_it_is_written() {
        let (directory, gate) = (tempfile::tempdir().unwrap(), gate(GOOD));
        let files = WatchedFiles::of(&settings(&directory, GOOD), &gate);
        let path = files.0[0].path.clone();
        let _looking = files.keep(None, None);
        let mut lets_in = false;
        // So long after a look; the first of them was at the start.
        for after in [0, 1, 2_500, 4_900, 7_500].map(Duration::from_millis) {
            sleep(after).await;
            lets_in = !lets_in;
            fs::write(&path, if lets_in { EVERYBODY } else { GOOD }).unwrap();
            let written = Instant::now();
            while gate.lets_everybody_in() != lets_in {
                let waited = written.elapsed();
                assert!(waited <= PROMISED + STEP, "{after:?} after a look: {waited:?}");
                sleep(STEP).await;
            }
            // Not by luck: it is the next look that sees it, and looks are that far apart.
            let to_next_look = PROMISED - Duration::from_millis(after.as_millis() as u64 % 5_000);
            let took = written.elapsed();
            assert!(took + 2 * STEP >= to_next_look, "{after:?} after a look: {took:?}");
        }
    }

    #[test]
    fn what_breaks_its_reader_is_refused_like_any_bad_file_and_can_be_mended() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = settings(&directory, "odd");
        let mut files = WatchedFiles::default();
        let path = settings.auth.policy_file.take();
        files.add("policy", &path, |contents| {
            assert_ne!(contents, b"odd", "on purpose");
            Ok(())
        });
        let file = &mut files.0[0];
        assert!(file.seen.is_some() && !file.look(), "it is tried once");
        fs::write(&file.path, GOOD).unwrap();
        assert!(file.look());
        fs::remove_file(&file.path).unwrap();
        assert!(!file.look() && file.seen.is_none());
        fs::write(&file.path, GOOD).unwrap();
        assert!(file.look());
    }
}
