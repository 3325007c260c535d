//! How a server under test ends.

use tokio::time::timeout;

use super::{PATIENCE, TestServer};
use crate::signal::send_signal;

impl TestServer {
    /// Ends the process as kill -9 does.
    pub async fn kill(&mut self) {
        let mut running = self.running.take().expect("the process runs");
        running.child.kill().await.unwrap();
        running.read_to_end().await;
    }

    /// Sees to it that the process has ended, by itself or not.
    #[allow(dead_code)] // the torture harness does
    pub async fn end(&mut self) {
        let mut running = self.running.take().expect("the process was started");
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
        send_signal(self.pid(), name).await;
    }

    /// What it said when it panicked, if it ever did.
    pub fn panic(&self) -> Option<&str> {
        self.panic.get().map(String::as_str)
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let running = self.running.as_mut().expect("the process was started");
        running.child.try_wait().unwrap().is_some()
    }

    /// Waits for the process to end; the exit code.
    pub async fn wait(&mut self) -> Option<i32> {
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
