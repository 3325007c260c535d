//! For those who run Zombi: probes, numbers, flushes on request, the log level.

pub mod flush;
pub mod log_level;
pub mod numbers;
pub mod probes;
