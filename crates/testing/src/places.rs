//! What makes a server a pod: its place among the pods of a cluster, and who it is to the servers of their
//! logs.

use std::{
    iter,
    net::{SocketAddr, TcpListener},
};

use super::machine::own_loopback;

/// Shards of the clusters in tests.
pub const SHARDS: u32 = 6;

/// Who may write to the servers of logs.
pub const USER: &str = "zombi";
pub const PASSWORD: &str = "secret";

/// What is set of a pod and of no other.
pub(crate) const POD_SETTINGS: [&str; 15] = [
    "host",
    "port",
    "admin_port",
    "pod",
    "cluster.pods",
    "cluster.shards",
    "cluster.copies",
    "cluster.address",
    "cluster.secret_file",
    "cluster.log.max_bytes",
    "cluster.nats.urls",
    "cluster.nats.monitors",
    "cluster.nats.credentials_file",
    "cluster.read_timeout_secs",
    "cluster.write_timeout_secs",
];

/// What makes a server a pod.
pub type PodSettings = [(&'static str, String); 7];

/// What makes so many servers the pods of one cluster, each at an address of its own.
pub fn settings_of(count: usize, shards: u32) -> Vec<PodSettings> {
    settings_at(&free_addresses(count), shards)
}

/// What makes servers at these addresses the pods of one cluster: of each its main port and its admin port.
pub(crate) fn settings_at(addresses: &[[SocketAddr; 2]], shards: u32) -> Vec<PodSettings> {
    let list = addresses.iter().map(|[main, _]| main.to_string()).collect::<Vec<_>>().join(",");
    let place = |(number, [main, admin]): (usize, &[SocketAddr; 2])| {
        [
            ("host", main.ip().to_string()),
            ("port", main.port().to_string()),
            ("admin_port", admin.port().to_string()),
            ("pod", format!("zombi-{number}")),
            ("cluster.pods", addresses.len().to_string()),
            ("cluster.shards", shards.to_string()),
            ("cluster.address", list.clone()),
        ]
    };
    addresses.iter().enumerate().map(place).collect()
}

/// Addresses on which nobody listens: of each pod its main port and its admin port, as a port that is given
/// out at the start may be the other one's.
fn free_addresses(count: usize) -> Vec<[SocketAddr; 2]> {
    let addresses = iter::repeat_with(own_loopback).take(count);
    let bound = addresses.map(|ip| [(); 2].map(|()| TcpListener::bind((ip, 0)).unwrap()));
    let bound: Vec<[TcpListener; 2]> = bound.collect();
    bound.iter().map(|pair| pair.each_ref().map(|listener| listener.local_addr().unwrap())).collect()
}
