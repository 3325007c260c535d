//! The generated protobuf types, included once. Only `api::records`, `api::encode`, `hot::codec` and `cold::formats` use them.
#![allow(missing_docs, unreachable_pub, clippy::all)]

/// The public messages of the HTTP API.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/zombi.v1.rs"));
}

/// The index of segments.
pub mod segment {
    include!(concat!(env!("OUT_DIR"), "/zombi.segment.v1.rs"));
}

/// What RocksDB keeps.
pub mod stored {
    include!(concat!(env!("OUT_DIR"), "/zombi.stored.v1.rs"));
}
