//! The settings of connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{MAX_WAIT_SECS, Seconds, Section};

/// Connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetSettings {
    /// Open connections, as far as file descriptors allow. Beyond that, the one idle longest is closed.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: usize,
    /// Likewise, for the admin port.
    #[schemars(range(min = 4, max = 100_000))]
    pub admin_connections: usize,
    /// Bytes of a request's head.
    #[schemars(range(min = 8192, max = 1 << 20))]
    pub header_bytes: usize,
    /// Seconds for a new connection to send its first byte, and from then on for a request's head to arrive.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub header_timeout_secs: Seconds,
    /// Seconds that a connection may be idle between two requests. Keep it longer than that of the proxies in
    /// front.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub idle_secs: Seconds,
    /// Seconds that a client may take nothing of its answer.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub write_stall_secs: Seconds,
}

impl Default for NetSettings {
    fn default() -> Self {
        Self {
            connections: 16_384,
            admin_connections: 64,
            header_bytes: 64 << 10,
            header_timeout_secs: Seconds::new(30),
            idle_secs: Seconds::new(75),
            write_stall_secs: Seconds::new(30),
        }
    }
}

impl Section for NetSettings {
    const NAME: &'static str = "limits";
}
