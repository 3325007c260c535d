//! Tests from outside: the real binary, real HTTP, a real S3 protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::disallowed_methods)]

mod auth;
mod auth_tls;
mod backup;
mod cli;
mod cluster;
mod console;
mod consumers;
mod costs;
mod deploy;
mod door;
mod erase;
mod faults;
mod kept;
mod limits;
mod objects;
mod operators;
mod patience;
mod read;
mod reading;
mod recovery;
mod retention;
mod seed;
mod senders;
mod settings;
mod shutdown;
mod small;
mod sockets;
mod starts;
mod telemetry;
mod tiers;
mod upkeep;
mod write;
