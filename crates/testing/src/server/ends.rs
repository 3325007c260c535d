//! How a server under test ends.

use std::{
    iter,
    process::ExitStatus,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{PATIENCE, TestServer};
use crate::signal::send_signal;

impl TestServer {
    /// Ends the process as kill -9 does.
    pub async fn kill(&mut self) {
        self.expect_nothing();
        self.kill_alone().await;
        for other in &mut self.others {
            other.kill_alone().await;
        }
    }

    async fn kill_alone(&mut self) {
        let mut running = self.running.take().expect("the process runs");
        running.child.kill().await.unwrap();
        running.read_to_end().await;
    }

    /// Sees to it that the process has ended, by itself or not.
    pub async fn end(&mut self) {
        self.expect_nothing();
        self.end_alone().await;
        for other in &mut self.others {
            other.end_alone().await;
        }
    }

    async fn end_alone(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        drop(running.child.kill().await);
        drop(running.child.wait().await);
        running.read_to_end().await;
    }

    /// Sends SIGTERM and waits; the exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM").await;
        self.wait().await
    }

    /// Sends it a signal.
    pub async fn signal(&self, name: &str) {
        self.expect_nothing();
        for pod in self.each() {
            send_signal(pod.pid(), name).await;
        }
    }

    /// What it said when it panicked, if it ever did.
    pub fn panic(&self) -> Option<&str> {
        self.panic.get().map(String::as_str)
    }

    /// How each process has ended that has.
    fn ends(&mut self) -> Vec<Option<ExitStatus>> {
        let end = |pod: &mut Self| {
            let running = pod.running.as_mut().expect("the process was started");
            running.child.try_wait().unwrap()
        };
        let own = end(self);
        iter::once(own).chain(self.others.iter_mut().map(end)).collect()
    }

    /// Whether the process has ended by itself; where it is several pods, one of them.
    pub fn has_ended(&mut self) -> bool {
        self.ends().iter().any(Option::is_some)
    }

    /// Waits for the process to end; the exit code. Where it is several pods, one that fails takes the others
    /// with it, so that the next start is that of all.
    pub async fn wait(&mut self) -> Option<i32> {
        self.expect_nothing();
        if self.others.is_empty() {
            return self.wait_alone().await;
        }
        let until = Instant::now() + PATIENCE;
        let failed = loop {
            let ends = self.ends();
            let failed = ends.iter().flatten().find(|end| !end.success()).copied();
            if failed.is_some() || ends.iter().all(Option::is_some) {
                break failed;
            }
            assert!(Instant::now() < until, "it does not end in time");
            sleep(Duration::from_millis(20)).await;
        };
        self.end().await;
        failed.map_or(Some(0), |end| end.code())
    }

    /// Waits for the one process to end; the exit code.
    pub(super) async fn wait_alone(&mut self) -> Option<i32> {
        let mut running = self.running.take().expect("the process runs");
        let status = timeout(PATIENCE, running.child.wait()).await.expect("it ends in time").unwrap();
        running.read_to_end().await;
        status.code()
    }

    /// kill -9 and a new start on the same volume.
    pub async fn crash(&mut self) {
        self.kill().await;
        self.run().await;
    }
}
