//! Where a process of a test runs.

use std::net::Ipv4Addr;

/// A machine for a process: this one, or what is set up as another.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its address, as all others of the test know it.
    pub ip: Ipv4Addr,
    /// A command that becomes a process there, with the process's own command behind it; none for this one.
    pub wrapper: Vec<String>,
}

impl Machine {
    /// This one, by loopback.
    pub fn here() -> Self {
        Self { ip: Ipv4Addr::LOCALHOST, wrapper: Vec::new() }
    }
}
