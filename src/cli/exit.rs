//! Exit codes.

/// All went well; or the answer is yes.
pub(super) const DONE: u8 = 0;
/// The server could not start, or failed, or says no, or cannot be reached; or the answer is no.
pub(super) const FAILED: u8 = 1;
/// The command line or a setting is wrong, or a file that a setting names.
pub(super) const USAGE: u8 = 2;
/// A write to the volume failed; the next start reads what is really there.
pub(super) const WRITE_FAILED: u8 = 3;
/// Another writer has taken over the bucket.
pub(super) const FENCED: u8 = 4;
/// SIGINT has ended a client's command, as shells say it.
pub(super) const INTERRUPTED: u8 = 130;
/// SIGTERM has.
pub(super) const TERMINATED: u8 = 143;
