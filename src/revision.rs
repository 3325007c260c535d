//! What this program was built from. `build.rs` is told by the variable `REVISION`.

/// The commit; `unknown` where the build was told none.
pub(crate) const REVISION: &str = env!("ZOMBI_REVISION");
/// Version and commit, as `--version` shows them.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ZOMBI_REVISION"), ")");
