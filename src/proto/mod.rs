//! The generated protobuf types, included once. Only `http::records` and `http::encode` use them.
#![allow(missing_docs, unreachable_pub, clippy::all)]

/// The public messages of the HTTP API.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/zombi.v1.rs"));
}
