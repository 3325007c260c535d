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
    /// This one, at a loopback address of its own.
    pub fn here() -> Self {
        Self { ip: own_loopback(), wrapper: Vec::new() }
    }

    /// Whether it is this one.
    pub(crate) fn is_here(&self) -> bool {
        self.wrapper.is_empty()
    }
}

/// A loopback address that nobody else uses: nobody takes a port of it while the process that listened there
/// is started again.
pub(crate) fn own_loopback() -> Ipv4Addr {
    let [one, two, three, _] = rand::random::<u32>().to_be_bytes();
    Ipv4Addr::new(127, one.clamp(1, 254), two, three)
}
