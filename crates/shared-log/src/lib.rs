//! The log that the pods of a cluster share: implements the role `contracts::shared_log` with NATS JetStream.
//!
//! Owns: what is asked of NATS, and when an append is settled. Does not own: what an entry says, nor who may
//! append; the copies, the quorum and the order are NATS's.

pub mod nats;
pub mod settings;
