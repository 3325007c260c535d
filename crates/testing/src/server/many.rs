//! A server that is several pods, so that the tests of one Zombi run against a cluster, unchanged.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    iter,
    path::PathBuf,
    sync::Arc,
    thread,
};

use tempfile::NamedTempFile;

use super::{TIERED, TestServer, new_bucket};
use crate::places::{PodSettings, SHARDS, settings_of};

/// By this pods believe each other.
const SECRET: &str = "what the pods of a test know and nobody else does";

/// How many pods each started server is: `TESTED_PODS`, or one. Several have a bucket, as a cluster needs
/// one, also where the test asks for none.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
pub fn pods() -> usize {
    std::env::var("TESTED_PODS").ok().and_then(|pods| pods.parse().ok()).unwrap_or(1)
}

/// What a server has as one of several pods.
pub(super) struct PodShare {
    /// Its directory below the one of all.
    directory: String,
    /// What they believe each other by; kept as long as one of them.
    _secret: Arc<NamedTempFile>,
}

/// Which of the pods clients ask: any, but the same one each time the same test runs.
fn asked(count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    thread::current().name().hash(&mut hasher); // that of the test
    usize::try_from(hasher.finish() % count as u64).unwrap()
}

impl TestServer {
    /// All pods that it is; itself first.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        iter::once(self).chain(&self.others)
    }

    /// Where the files of this process are.
    pub(super) fn own_data_dir(&self) -> PathBuf {
        let all = self.data_dir();
        self.share.as_ref().map_or_else(|| all.clone(), |share| all.join(&share.directory))
    }

    /// Becomes several pods, if servers are to be that and it is none yet. What a test has changed since the
    /// last start becomes every pod's.
    pub(super) async fn become_pods(&mut self) {
        if pods() > 1 && self.setting("cluster.pods").is_none() {
            self.find_others().await;
        }
        if self.share.is_some() {
            // Zombi makes its own directory, and none above.
            fs::create_dir_all(self.data_dir()).unwrap();
        }
        let Self { others, volume, s3, environment, wrapper, .. } = self;
        for other in others.iter_mut() {
            (other.volume, other.s3) = (volume.clone(), s3.clone());
            (other.environment, other.wrapper) = (environment.clone(), wrapper.clone());
        }
    }

    async fn find_others(&mut self) {
        if self.s3.is_none() {
            self.s3 = Some(new_bucket().await);
            let usual = TIERED.map(|(key, value)| (key.to_owned(), value.to_owned()));
            drop(self.settings.splice(0..0, usual)); // what the test sets comes behind, and counts
        }
        let mut secret = NamedTempFile::new().unwrap();
        secret.write_all(SECRET.as_bytes()).unwrap();
        let (count, secret) = (pods(), Arc::new(secret));
        let mut places = settings_of(count, SHARDS);
        places.rotate_left(asked(count));
        let mut others: Vec<Self> = (1..count).map(|_| self.beside()).collect();
        for (pod, place) in iter::once(&mut *self).chain(&mut others).zip(places) {
            pod.take_place(&place, &secret);
        }
        self.others = others;
    }

    /// Sets what makes it a pod; its shards have logs where the test says so.
    pub(crate) fn set_place(&mut self, place: &PodSettings) {
        if self.setting("cluster.copies").is_none() {
            self.set("cluster.copies", "1");
        }
        for (key, value) in place {
            self.set(key, value);
        }
    }

    fn take_place(&mut self, place: &PodSettings, secret: &Arc<NamedTempFile>) {
        self.set_place(place);
        self.set("cluster.secret_file", &secret.path().display().to_string());
        let directory = self.setting("pod").unwrap().to_owned();
        self.share = Some(PodShare { directory, _secret: Arc::clone(secret) });
    }
}
