//! Tests from outside: the real binary, real HTTP, a real S3 protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::disallowed_methods)]

mod support;

mod consumers;
mod costs;
mod deploy;
mod docs;
mod faults;
mod limits;
mod objects;
mod read;
mod recovery;
mod seed;
mod shutdown;
mod sockets;
mod telemetry;
mod tiers;
mod write;
