//! A file system of a scenario's own, in a file: one that can lose its power, or be full.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// `FS_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, by a program that may: no safe binding of it is
/// known.
const SHUT_DOWN: &str = "\
    import fcntl, os, struct, sys; \
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A file system in a file, mounted on a directory; unmounted when dropped.
pub(crate) struct LoopDisk {
    directory: tempfile::TempDir,
    on: PathBuf,
}

impl LoopDisk {
    /// Makes one; needs root, and the programs that do it.
    pub(crate) async fn make(kind: &str, on: &Path, bytes: u64) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let disk = Self { directory, on: on.to_owned() };
        std::fs::File::create(disk.image())
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| error.to_string())?;
        // All of it for everybody: what a file system keeps for root would only make a full one slow to come.
        let options: &[&str] = if kind == "ext4" { &["-q", "-m", "0"] } else { &["-q"] };
        run(&format!("mkfs.{kind}"), &[options, &[&disk.image()]].concat()).await?;
        disk.mount().await?;
        Ok(disk)
    }

    fn image(&self) -> String {
        self.directory.path().join("image").display().to_string()
    }

    async fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image(), &self.on.display().to_string()]).await
    }

    /// Cuts its power: what its log has not on the disk is gone, once it is mounted again.
    pub(crate) async fn cut(&self) -> Result<(), String> {
        run("python3", &["-c", SHUT_DOWN, &self.on.display().to_string()]).await
    }

    /// Mounts it anew.
    pub(crate) async fn again(&self) -> Result<(), String> {
        run("umount", &[&self.on.display().to_string()]).await?;
        self.mount().await
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // At once from here on, and for good when the server that may still have it open has ended.
        drop(std::process::Command::new("umount").arg("--lazy").arg(&self.on).output());
    }
}

/// Runs a program; what it said if it failed.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .await
        .map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}
