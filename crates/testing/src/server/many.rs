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

use super::{
    TIERED, TestServer,
    kills::KillPlan,
    logged::{LOGGED_SHARDS, TestStreams, log_settings},
    new_bucket,
};
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
    /// What it has in common with the others.
    pub(super) ground: Arc<PodsGround>,
    /// When it is killed, if it is.
    pub(super) kills: Option<KillPlan>,
}

/// What the pods of a cluster have in common; kept as long as one of them.
pub(super) struct PodsGround {
    /// What they believe each other by.
    secret: NamedTempFile,
    /// Their logs, if there are any.
    pub(super) streams: Option<TestStreams>,
}

/// A number that is the same each time the same test runs.
fn of_test() -> u64 {
    let mut hasher = DefaultHasher::new();
    thread::current().name().hash(&mut hasher); // that of the test
    hasher.finish()
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
        self.become_asking();
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
        let (logs, count) = (log_settings(), pods());
        let mut secret = NamedTempFile::new().unwrap();
        secret.write_all(SECRET.as_bytes()).unwrap();
        let ground = Arc::new(PodsGround { secret, streams: TestStreams::of(&logs) });
        let mut places = settings_of(count, if logs.is_empty() { SHARDS } else { LOGGED_SHARDS });
        // Clients ask any of them.
        places.rotate_left(usize::try_from(of_test() % count as u64).unwrap());
        let mut others: Vec<Self> = (1..count).map(|_| self.beside()).collect();
        for (pod, place) in iter::once(&mut *self).chain(&mut others).zip(places) {
            logs.iter().for_each(|(key, value)| pod.set(key, value));
            pod.take_place(&place, &ground);
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

    fn take_place(&mut self, place: &PodSettings, ground: &Arc<PodsGround>) {
        self.set_place(place);
        self.set("cluster.secret_file", &ground.secret.path().display().to_string());
        let directory = self.setting("pod").unwrap().to_owned();
        let (ground, kills) = (Arc::clone(ground), KillPlan::chosen_by(of_test()));
        self.share = Some(PodShare { directory, ground, kills });
    }
}
