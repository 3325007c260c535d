//! A small S3 server for trying Zombi without MinIO: `cargo run --example s3 -- 127.0.0.1:9000 DIR`.
//!
//! Holds everything in memory, and in DIR too, to look at and to start from. Not for data that anyone needs.
//!
//! It can take MinIO's place in a pod: the key pair is that of `MINIO_ROOT_USER` and `MINIO_ROOT_PASSWORD`,
//! if they are set, MinIO's probes are answered, its arguments behind DIR are left alone, and SIGTERM ends
//! it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use testing::{mirror::Mirror, s3};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut store = s3::ObjectStore::default();
    store.mirror = arguments.next().map(Mirror::new);
    store.keys = variable("MINIO_ROOT_USER").zip(variable("MINIO_ROOT_PASSWORD"));
    let mut terminate = signal(SignalKind::terminate())?;
    let server = s3::S3Server::start(address, store).await?;
    println!("{}", server.endpoint());
    terminate.recv().await;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "these are MinIO's settings, not of the program")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
