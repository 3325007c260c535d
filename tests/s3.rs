//! A small S3 server for trying Zombi without MinIO: `cargo run --example s3 -- 127.0.0.1:9000 DIR`.
//!
//! Holds everything in memory and writes it below DIR too, to look at. Not for data that anyone needs.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use testing::s3;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut store = s3::ObjectStore::default();
    store.mirror = arguments.next().map(Into::into);
    let server = s3::S3Server::start(address, store).await?;
    println!("{}", server.endpoint());
    std::future::pending().await
}
