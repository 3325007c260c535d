//! The tiers: RocksDB hot, S3 cold. Only `server` and `config` name what is in here; all others see the contracts.

pub mod catalog;
pub mod chain;
pub mod codec;
pub mod cold;
pub mod consumers;
pub mod disk;
mod group;
pub mod hot;
pub mod idempotency;
pub mod keys;
pub mod manifest;
pub mod reconcile;
pub mod rocksdb;
pub mod s3;
pub mod segment;
pub mod sequence;
pub mod writer;
