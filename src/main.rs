//! Zombi's one binary.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Events are made on the threads of the runtime and freed on the writer's: the system's allocator takes
/// locks for that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    zombi::cli::run()
}
