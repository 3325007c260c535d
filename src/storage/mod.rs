//! The tiers: RocksDB hot, S3 cold. Only `server` and `config` name what is in here; all others see the contracts.

pub mod cold;
pub mod hot;
