//! Checks that the memory which the settings allow fits into the memory limit. The system kills a process
//! beyond it without a message, so a start that may exceed it logs a warning.

use std::fs;

use tracing::{debug, warn};

use super::engine::WRITE_BUFFERS;
use crate::settings::Settings;

/// Roughly the bytes of memory that a partition takes, with one event that is not in S3 yet. Measured by `make
/// capacity` as resident memory: 1,240 to 1,280 each, and 1,150 to 1,180 after the next start.
const PARTITION_BYTES: u64 = 1250;
/// Roughly the bytes of memory that an idle Zombi takes.
const IDLE_BYTES: u64 = 48 << 20;

/// Turns huge pages off. A pod's limit counts a huge page whole, of which each of many connections may use a
/// twentieth. (Forty tails whose clients read nothing took 290 MB, and 85 % of what was resident were huge
/// pages.)
pub(super) fn in_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        debug!(%error, "huge pages cannot be turned off: connections may take more memory");
    }
}

/// Warns if the settings allow more than fits.
pub(super) fn check(settings: &Settings) {
    let Some(allowed) = allowed() else { return };
    let needed = needed(settings);
    if needed > allowed {
        warn!(
            needed,
            allowed,
            partitions = settings.store.partitions,
            "the settings let Zombi take more memory than it may: raise the memory limit, or lower \
             limits.inflight_bytes, limits.response_bytes, flush.memory_bytes, limits.partitions or the \
             caches"
        );
    }
}

/// The sum of all budgets.
fn needed(settings: &Settings) -> u64 {
    let (limits, partitions) = (&settings.limits, settings.store.partitions as u64);
    let budgets =
        [limits.inflight_bytes, limits.response_bytes, settings.hot.cache_bytes, settings.flush.memory_bytes];
    let budgets: u64 = budgets.iter().map(|bytes| *bytes as u64).sum();
    let buffers = (WRITE_BUFFERS * settings.hot.write_buffer_bytes) as u64;
    budgets + buffers + settings.cache.cache_bytes + partitions * PARTITION_BYTES + IDLE_BYTES
}

/// The memory that Zombi may take: the control group's limit, else what the machine has. `None` where neither
/// is known.
pub(super) fn most() -> Option<u64> {
    allowed().or_else(|| of_machine(&fs::read_to_string("/proc/meminfo").ok()?))
}

fn of_machine(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory limit of the control group, of either version; `None` if there is none.
fn allowed() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    files.iter().find_map(|file| bound(&fs::read_to_string(file).ok()?))
}

fn bound(text: &str) -> Option<u64> {
    // Version 1 means "no limit" by a number that no machine has.
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_into_what_the_manifests_allow() {
        assert!(needed(&Settings::default()) < 1 << 30, "{}", needed(&Settings::default()));
        let mut settings = Settings::default();
        settings.store.partitions = 10_000_000;
        assert!(needed(&settings) > 4 << 30);
    }

    #[test]
    fn a_machine_says_how_much_memory_it_has() {
        let told = "MemTotal:       16384 kB\nMemFree:         1024 kB\n";
        assert_eq!(
            (of_machine(told), of_machine("MemTotal: much"), of_machine("")),
            (Some(16 << 20), None, None)
        );
    }

    #[test]
    fn no_bound_is_no_number() {
        assert_eq!(
            (bound("1073741824\n"), bound("max\n"), bound("9223372036854771712")),
            (Some(1 << 30), None, None)
        );
    }
}
