//! The whole log of a server under test.

use std::mem;

use tokio::time::timeout;

use super::{PATIENCE, TestServer};

impl TestServer {
    /// Waits until the process that was started has logged a message; its log if it ends before.
    pub async fn until(&mut self, message: &str) -> Result<(), String> {
        let mut running = self.running.take().expect("the process was started");
        running.read_until(message).await?;
        self.running = Some(running);
        Ok(())
    }

    /// Sends SIGTERM and waits; the exit code, and all that was logged from the start on, except what
    /// [`TestServer::log_line`] has read. Where it is several pods, the log is that of the one that is asked.
    pub async fn terminate_with_log(&mut self) -> (Option<i32>, String) {
        self.signal("TERM").await;
        let mut running = self.running.take().expect("the process runs");
        let status = timeout(PATIENCE, running.child.wait()).await.expect("it ends in time").unwrap();
        let mut log = mem::take(&mut running.seen);
        while let Some(line) = timeout(PATIENCE, running.log.recv()).await.expect("the log ends") {
            log.push_str(&line);
            log.push('\n');
        }
        let mut code = status.code();
        for other in &mut self.others {
            let others = other.wait_alone().await;
            code = if code == Some(0) { others } else { code };
        }
        (code, log)
    }
}
