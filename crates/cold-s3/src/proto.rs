//! The generated messages of a segment's index; see `proto/segment.proto`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/zombi.segment.v1.rs"));
