//! What the tests are written with: the real binary, an S3 server, and a client.

pub mod events;
pub mod faults;
pub mod s3;
pub mod server;

pub use self::{events::Sent, server::TestServer};
