//! Watches the volume's free space, so that writes are refused before the disk is full: RocksDB needs room to
//! flush and compact, and a failed write ends the process. Shows it to operators too.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::sleep;
use tracing::{info, warn};

use super::settings::DiskSettings;
use contracts::metrics;

/// How often free space is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Knows whether the volume has less free space than its headroom, or than half of it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    settings: DiskSettings,
    is_full: AtomicBool,
    is_short: AtomicBool,
}

impl Disk {
    /// Checks free space for the first time.
    ///
    /// # Errors
    /// Those of the operating system, if it cannot read the free space.
    pub fn new(path: &Path, settings: DiskSettings) -> io::Result<Self> {
        let (is_full, is_short) = (AtomicBool::new(false), AtomicBool::new(false));
        let disk = Self { path: path.to_owned(), settings, is_full, is_short };
        disk.look()?;
        Ok(disk)
    }

    /// Whether less is free than the headroom.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// Whether less than half of the headroom is free. What other pods have written is taken until then, so
    /// that where clients are refused already there is room for what they had written before.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Relaxed)
    }

    /// Checks every second until the future is dropped.
    pub async fn watch(&self) {
        loop {
            sleep(CHECK_INTERVAL).await;
            if let Err(error) = self.look() {
                warn!(
                    %error,
                    path = %self.path.display(),
                    "cannot read the volume's free space, keeping the last result"
                );
            }
        }
    }

    fn look(&self) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.path)?;
        let (free, total) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        metrics::disk(free, total);
        self.is_short.store(is_below(free.saturating_mul(2), total, self.settings), Relaxed);
        let is_full = is_below(free, total, self.settings);
        if self.is_full.swap(is_full, Relaxed) != is_full {
            if is_full {
                warn!(free_bytes = free, "volume nearly full, refusing writes until there is room");
            } else {
                info!(free_bytes = free, "volume has room again, accepting writes");
            }
        }
        Ok(())
    }
}

fn is_below(free: u64, total: u64, settings: DiskSettings) -> bool {
    free < settings.disk_reserve_bytes.max(total / 100 * settings.disk_reserve_percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_before_it_is_short() {
        let directory = std::env::temp_dir();
        let of = |disk_reserve_bytes| {
            let disk = Disk::new(&directory, DiskSettings { disk_reserve_bytes, disk_reserve_percent: 0 });
            disk.map(|disk| (disk.is_full(), disk.is_short())).unwrap()
        };
        assert_eq!(of(0), (false, false));
        assert_eq!(of(u64::MAX), (true, true));
        let disk = rustix::fs::statvfs(&directory).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        assert_eq!(of(free + free / 2), (true, false), "less than it is free, and more than half of it");
    }

    #[test]
    fn the_larger_headroom_counts() {
        let settings = DiskSettings { disk_reserve_bytes: 512, disk_reserve_percent: 5 };
        assert!(is_below(511, 1000, settings));
        assert!(!is_below(512, 1000, settings));
        assert!(is_below(999, 20_000, settings));
        assert!(!is_below(1000, 20_000, settings));
        assert!(!is_below(0, 20_000, DiskSettings { disk_reserve_bytes: 0, disk_reserve_percent: 0 }));
    }
}
