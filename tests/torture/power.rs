//! Power cuts: the volume is a file system of its own that is shut down without flushing its log, as if the machine had lost its power.
//! What was answered from then on counts for nothing: a sync in flight may still report success.

use std::{path::Path, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{process::Command, time::sleep};

use crate::{BUSY, Budget, kills::finish, load::Load, support::TestServer};

const IMAGE_BYTES: u64 = 1 << 30;
/// `FS_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, by a program that may: no safe binding of it is known.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A file system in a file, mounted on a directory.
struct Disk {
    directory: tempfile::TempDir,
    on: std::path::PathBuf,
}

impl Disk {
    async fn make(kind: &str, on: &Path) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let disk = Self { directory, on: on.to_owned() };
        std::fs::File::create(disk.image()).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(|error| error.to_string())?;
        run(&format!("mkfs.{kind}"), &["-q", &disk.image()]).await?;
        disk.mount().await?;
        Ok(disk)
    }

    fn image(&self) -> String {
        self.directory.path().join("image").display().to_string()
    }

    async fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image(), &self.on.display().to_string()]).await
    }

    async fn cut(&self) -> Result<(), String> {
        run("python3", &["-c", SHUT_DOWN, &self.on.display().to_string()]).await
    }

    /// Mounts it anew: what was not on the disk is gone.
    async fn again(&self) -> Result<(), String> {
        run("umount", &[&self.on.display().to_string()]).await?;
        self.mount().await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(&self.on).output());
    }
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().await.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}

/// Cuts the power again and again, and compares in the end.
pub async fn run_on(kind: &str, seed: u64, budget: Budget) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::tiered(&BUSY).await;
    let disk = match Disk::make(kind, z.volume.path()).await {
        Ok(disk) => disk,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    let load = Load::new();
    load.start(seed, 8);
    let mut cuts = 0;
    z.run().await;
    while budget.allows(cuts) {
        load.point_at(Some(z.url("")));
        sleep(Duration::from_millis(rng.random_range(50..600))).await;
        load.disk_goes();
        disk.cut().await?;
        z.end().await;
        disk.again().await?;
        load.disk_is_back();
        z.run().await;
        cuts += 1;
    }
    load.point_at(Some(z.url("")));
    let counts = finish(&mut z, &load).await?;
    z.kill().await;
    Ok(format!("{cuts} power cuts: {counts}"))
}
