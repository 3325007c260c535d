//! Zombi's one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    zombi::cli::run()
}
