//! Signals to other processes.

use tokio::process::Command;

/// Sends a process a signal, such as `TERM`.
pub async fn send_signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().await.unwrap();
    assert!(sent.success(), "SIG{name} to {pid}: {sent}");
}
