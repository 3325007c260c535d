//! What the tests are written with: the real binary, an S3 server, and a client.

pub mod events;
pub mod faults;
pub mod frames;
#[allow(dead_code)] // the torture harness uses all of it
pub mod history;
pub mod process;
pub mod raw;
pub mod s3;
pub mod server;

#[allow(unused_imports)]
pub use self::events::Sent;
pub use self::server::TestServer;
