//! The log that pods share: one in memory, with faults from a seed, and what every such log must do.

mod conformance;
mod faults;
mod memory;
mod store;

pub use self::{
    conformance::{LogUnderTest, suite},
    faults::LogFaults,
    memory::MemoryLog,
    store::MemoryLogOptions,
};
