//! Three NATS servers for the logs of clusters, by the program that `NATS_SERVER` names.
//!
//! Prints what pods are told of them, each setting on a line of its own, and then an empty line. They end
//! once its standard input does.

#![allow(clippy::print_stdout)]

use std::io;

use testing::nats::NatsTrio;
use tokio::task::spawn_blocking;

#[tokio::main]
async fn main() -> io::Result<()> {
    let servers = NatsTrio::start().await;
    for (key, value) in servers.settings() {
        println!("{key}={value}");
    }
    println!();
    let ended = spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    ended.await.map_err(io::Error::other)??;
    drop(servers);
    Ok(())
}
