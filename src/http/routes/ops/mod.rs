//! For those who run Zombi: probes, numbers, flushes on request, the log level.

pub(crate) mod cluster;
pub(crate) mod flush;
pub(crate) mod log_level;
pub(crate) mod numbers;
pub(crate) mod probes;
pub(crate) mod settings;
