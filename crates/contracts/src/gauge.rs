//! Numbers that a component shows to operators, each with its name.

/// A number that goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// What it counts, in which unit.
    pub help: &'static str,
    /// Its value now.
    pub value: u64,
}
