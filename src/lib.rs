//! Zombi: an event store for Kubernetes. RocksDB hot, S3 cold, one ordered read over both.
//!
//! Read `ARCHITECTURE.md` first: the map, the paths and what must hold.

mod alike;
pub mod auth;
mod care;
pub mod cli;
pub mod cluster;
#[cfg(not(feature = "fuzz"))]
mod console;
#[cfg(feature = "fuzz")]
pub mod console;
mod first_bytes;
pub mod http;
mod inspect;
pub mod net;
mod pem;
mod prometheus;
pub mod proto;
mod revision;
mod salvage;
mod server;
pub mod settings;
mod shutdown;
mod telemetry;
mod yaml;
