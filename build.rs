//! Compiles the protobuf files without an installed protoc, and plants a bug if one is asked for.

use std::{env, error::Error, path::Path};

const FILES: [&str; 1] = ["zombi/v1/event.proto"];

/// Known ways to get it wrong, each behind a `cfg` of its name, `bug_...`: `tests/bugs.py` builds with one after the other, by
/// `ZOMBI_BUG`, and shows which test catches it.
const BUGS: [&str; 31] = [
    "unsynced",
    "failed_write_acked",
    "log_not_checked",
    "end_of_log_not_checked",
    "key_checked_apart",
    "bulk_half_checked",
    "keys_evicted",
    "commit_steps_back",
    "no_journal",
    "keys_not_recovered",
    "old_copy_unnoticed",
    "no_reservation",
    "nothing_declared_lost",
    "taken_number_ignored",
    "lost_answer_is_a_takeover",
    "openings_deleted",
    "first_page_only",
    "frames_not_checked",
    "marked_before_manifest",
    "retry_with_other_bounds",
    "cold_failure_swallowed",
    "cursor_off_by_one",
    "merged_without_partition",
    "payload_made_text",
    "offsets_out_of_order",
    "no_last_flush",
    "reused_key_taken",
    "swept_at_once",
    "swept_though_kept",
    "swept_under_an_intent",
    "swept_of_a_successor",
];

fn main() -> Result<(), Box<dyn Error>> {
    plant()?;
    let root = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES.map(|file| root.join(file)), [root])?;
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}

#[allow(clippy::disallowed_methods)] // a build script has no settings
fn plant() -> Result<(), Box<dyn Error>> {
    for bug in BUGS {
        println!("cargo::rustc-check-cfg=cfg(bug_{bug})");
    }
    println!("cargo::rerun-if-env-changed=ZOMBI_BUG");
    let Some(bug) = env::var("ZOMBI_BUG").ok().filter(|bug| !bug.is_empty()) else { return Ok(()) };
    if !BUGS.contains(&bug.as_str()) || env::var("PROFILE")? == "release" {
        return Err(format!("ZOMBI_BUG: there is no bug {bug:?}, or this is a build for others").into());
    }
    println!("cargo::rustc-cfg=bug_{bug}");
    Ok(())
}
