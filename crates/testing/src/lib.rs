//! What Zombi is tested with: the real binary and a client for it, an S3 server with faults, an issuer of
//! tokens and its key server, a bucket and a hot engine in memory, a checker of histories, certificates and a
//! client of TLS, a log in memory that pods share, three NATS servers and a cluster under load on them, and
//! what every engine and every such log must do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    missing_docs,
    reason = "it is for tests"
)]

pub mod bucket;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod conformance;
pub mod events;
pub mod faults;
pub mod frames;
pub mod history;
pub mod jwks;
pub mod loaded;
pub mod machine;
pub mod mirror;
pub mod nats;
mod places;
pub mod process;
pub mod raw;
pub mod s3;
pub mod server;
pub mod shared_log;
pub mod signal;
pub mod tls;
pub mod volume;

pub use self::cluster::TestCluster;
pub use self::events::Sent;
pub use self::server::TestServer;
