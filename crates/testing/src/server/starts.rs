//! How a server under test starts. Where it is several pods, all of them start at once: none needs another to
//! become ready.

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
    time::sleep,
};

use super::{RunningServer, TestServer};

impl TestServer {
    /// Starts the process and waits until it is ready.
    pub async fn run(&mut self) {
        if let Err(log) = self.try_run().await {
            panic!("zombi did not become ready:\n{log}");
        }
    }

    /// Starts the process; its log if it ends before it is ready.
    pub async fn try_run(&mut self) -> Result<(), String> {
        self.try_run_with("").await
    }

    /// The same, with fail points: `name=return` ends the process there, as kill -9 would.
    pub async fn try_run_with(&mut self, failpoints: &str) -> Result<(), String> {
        self.begin(failpoints).await?;
        self.until_ready().await
    }

    /// Starts the process and waits until its admin port is there.
    pub async fn begin(&mut self, failpoints: &str) -> Result<(), String> {
        self.become_pods().await;
        let mut begun = self.begin_alone(failpoints).await;
        for other in &mut self.others {
            if begun.is_ok() {
                begun = other.begin_alone(failpoints).await;
            }
        }
        self.end_unless(begun).await
    }

    /// Waits until the process that was started is ready; its log if it ends before.
    pub async fn until_ready(&mut self) -> Result<(), String> {
        let mut ready = self.until("ready").await;
        for other in &mut self.others {
            if ready.is_ok() {
                ready = other.until("ready").await;
            }
        }
        self.end_unless(ready).await?;
        Box::pin(self.settle()).await;
        self.expect_disturbance();
        Ok(())
    }

    /// Where one pod did not start, none goes on.
    async fn end_unless(&mut self, started: Result<(), String>) -> Result<(), String> {
        if started.is_err() {
            self.end().await;
        }
        started
    }

    async fn begin_alone(&mut self, failpoints: &str) -> Result<(), String> {
        assert!(self.running.is_none(), "it runs already");
        let before = self.words_to_be_killed(failpoints);
        let mut command = self.command_behind(&before);
        command.env("FAILPOINTS", failpoints);
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = mpsc::channel(100_000);
        let panic = Arc::clone(&self.panic);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("  zombi| {line}");
                if line.contains("panicked") {
                    panic.get_or_init(|| line.clone());
                }
                drop(sender.try_send(line));
            }
        });
        let nowhere = ([0, 0, 0, 0], 0).into();
        let is_killed = !before.is_empty();
        let (main, admin, seen) = (nowhere, nowhere, String::new());
        let mut running = RunningServer { child, reader, main, admin, log, seen, is_killed };
        running.read_until("listening on the admin port").await?;
        self.running = Some(running);
        Ok(())
    }

    /// Starts the process and waits until it is ready; what it has logged.
    pub async fn try_run_log(&mut self) -> String {
        match self.try_run().await {
            Ok(()) => self.running.as_ref().map(|running| running.seen.clone()).unwrap_or_default(),
            Err(log) => panic!("zombi did not become ready:\n{log}"),
        }
    }

    /// Starts the process and kills it after a while, ready or not.
    pub async fn run_for(&mut self, time: Duration) {
        self.become_pods().await;
        let spawn = |pod: &Self| {
            pod.command().stderr(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
        };
        let mut children: Vec<_> = self.each().map(spawn).collect();
        sleep(time).await;
        for child in &mut children {
            child.kill().await.unwrap();
        }
    }
}
