//! What RocksDB keeps, as generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/zombi.stored.v1.rs"));
