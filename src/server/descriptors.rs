//! File descriptors: takes as many as the system allows, and shares them so that connections never take those
//! that the volume needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors that are kept for the volume, the bucket, the admin port and everything else.
const KEPT_DESCRIPTORS: u64 = 512;

/// How the descriptors are shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptors {
    /// Connections of the main port.
    pub(super) connections: usize,
    /// Files that RocksDB has open at once.
    pub(super) volume_files: i32,
}

impl Descriptors {
    /// Raises the soft limit to the hard one, and shares the descriptors.
    pub(super) fn share(connections: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let allowed = match raised {
            Ok(()) => limit.maximum,
            Err(error) => {
                warn!(%error, "the limit of open files cannot be raised; sharing what it allows");
                limit.current
            }
        };
        let shared = Self::of(allowed, connections);
        let allowed = allowed.map_or_else(|| "unlimited".to_owned(), |allowed| allowed.to_string());
        info!(
            allowed,
            connections = shared.connections,
            volume = shared.volume_files,
            "file descriptors are shared"
        );
        shared
    }

    fn of(allowed: Option<u64>, connections: usize) -> Self {
        let Some(allowed) = allowed else { return Self { connections, volume_files: -1 } };
        let room = allowed.saturating_sub(KEPT_DESCRIPTORS).max(16);
        let volume_files = (allowed / 4).clamp(64, 1 << 20);
        Self {
            connections: connections.min(usize::try_from(room).unwrap_or(usize::MAX)),
            volume_files: i32::try_from(volume_files).unwrap_or(i32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_what_the_volume_needs() {
        let of = |allowed| {
            let shared = Descriptors::of(allowed, 16_384);
            (shared.connections, shared.volume_files)
        };
        assert_eq!(of(None), (16_384, -1));
        assert_eq!(of(Some(1024)), (512, 256));
        assert_eq!(of(Some(1 << 20)), (16_384, 262_144));
        assert_eq!(of(Some(100)), (16, 64));
    }
}
