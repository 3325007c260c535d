//! How it is counted.

use std::{array, fs, sync::atomic::Ordering::SeqCst};

use cold_s3::manifest;

use testing::TestServer;

/// Counts some rounds, and takes the least: what the process does by itself meanwhile, and every hundredth
/// manifest, are only more.
pub(super) async fn least<const N: usize>(
    rounds: usize,
    mut round: impl AsyncFnMut() -> [usize; N],
) -> [usize; N] {
    let mut least = [usize::MAX; N];
    for _ in 0..rounds {
        let counted = round().await;
        least = array::from_fn(|place| least[place].min(counted[place]));
    }
    least
}

/// What is counted from now on.
pub(super) struct Since<'a> {
    z: &'a TestServer,
    requests: [usize; 3],
    written: usize,
    manifests: usize,
}

impl<'a> Since<'a> {
    pub(super) fn now(z: &'a TestServer) -> Self {
        Self { z, requests: requests(z), written: written(z), manifests: z.objects(manifest::PREFIX).len() }
    }

    /// GETs, PUTs and LISTs.
    pub(super) fn requests(&self) -> [usize; 3] {
        passed(self.requests, requests(self.z))
    }

    pub(super) fn all_requests(&self) -> usize {
        self.requests().iter().sum()
    }

    /// Bytes that the process has written.
    pub(super) fn written(&self) -> usize {
        written(self.z) - self.written
    }

    /// Bytes of manifests.
    pub(super) fn manifests(&self) -> usize {
        self.z.objects(manifest::PREFIX).iter().skip(self.manifests).map(|(_, bytes)| bytes.len()).sum()
    }
}

pub(super) fn passed(before: [usize; 3], now: [usize; 3]) -> [usize; 3] {
    array::from_fn(|place| now[place] - before[place])
}

/// GETs, PUTs and LISTs until now.
pub(super) fn requests(z: &TestServer) -> [usize; 3] {
    let store = z.store();
    [&store.gets, &store.puts, &store.lists].map(|count| count.load(SeqCst))
}

/// All that the process has written: the log of the volume, answers, and its own log.
pub(super) fn written(z: &TestServer) -> usize {
    let io = fs::read_to_string(format!("/proc/{}/io", z.pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// The number of the last manifest.
pub(super) fn last_link(z: &TestServer) -> u64 {
    let (key, _) = z.objects(manifest::PREFIX).pop().unwrap();
    manifest::number(&key).unwrap()
}
