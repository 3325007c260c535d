//! Zombi: an event store for Kubernetes. RocksDB hot, S3 cold, one ordered read over both.
//!
//! Read `ARCHITECTURE.md` first: the map, the three paths and what must hold.

pub mod cli;
pub mod http;
pub mod inspect;
pub mod net;
pub mod prometheus;
pub mod proto;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
