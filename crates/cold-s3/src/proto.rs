//! The index of segments, as generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/zombi.segment.v1.rs"));
