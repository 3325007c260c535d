//! The generated protobuf types, included once. Only `api::records`, `api::encode` and `storage::codec` use them.
#![allow(missing_docs, unreachable_pub, clippy::all)]

/// The public messages of the HTTP API.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/zombi.v1.rs"));
}

/// What RocksDB keeps.
pub mod stored {
    include!(concat!(env!("OUT_DIR"), "/zombi.stored.v1.rs"));
}
