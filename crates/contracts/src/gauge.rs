//! Numbers that a part shows to operators: each leaves with its name.

/// A number that goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// What it counts, in which unit.
    pub help: &'static str,
    /// What it is now.
    pub value: u64,
}
