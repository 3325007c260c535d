//! Zombi's one binary.

use std::process::ExitCode;

// mimalloc takes the place of the system's allocator in the whole program, RocksDB included: events are made
// on the threads of the runtime and freed on the writer's, and the system's takes locks for that. It is no
// `#[global_allocator]`: that asks for every block by its alignment, and a third of an append's allocations
// would take mimalloc's slower path.
use libmimalloc_sys as _;

fn main() -> ExitCode {
    zombi::cli::run()
}
