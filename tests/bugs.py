#!/usr/bin/env python3
"""Plants one known bug after the other, see build.rs, and shows which test catches it: bugs.py [BUG...] -- CARGO TEST ...

Fails if one is caught by nothing. Every bug is a build of its own, so all of them take half an hour or more.
"""

import os
import re
import subprocess
import sys
import time

# Which test is to catch it; the quickest that does.
CAUGHT_BY = {
    "unsynced": "torture -- --seed 1 --only ext4",
    "failed_write_acked": "torture -- --seed 1 --only syncs",
    "log_not_checked": "it a_log_that_is_damaged",
    "end_of_log_not_checked": "torture -- --seed 1 --only volume",
    "key_checked_apart": "sim conformance",
    "bulk_half_checked": "sim conformance",
    "keys_evicted": "sim rocksdb_is_a_plain_map",
    "commit_steps_back": "sim conformance",
    "no_journal": "it recovery::",
    "keys_not_recovered": "sim the_twin_is_a_plain_map",
    "old_copy_unnoticed": "it recovery::",
    "no_reservation": "sim the_twin_is_a_plain_map",
    "nothing_declared_lost": "sim the_twin_is_a_plain_map",
    "taken_number_ignored": "sim hundred_seeds",
    "lost_answer_is_a_takeover": "sim hundred_seeds",
    "openings_deleted": "it a_writer_that_slept_through_a_takeover",
    "first_page_only": "sim the_twin_is_a_plain_map",
    "frames_not_checked": "torture -- --seed 1 --only segments",
    "marked_before_manifest": "sim hundred_seeds",
    "retry_with_other_bounds": "it a_retry_writes_the_same_bytes",
    "cold_failure_swallowed": "it a_cold_failure_is_an_error",
    "cursor_off_by_one": "it read::",
    "merged_without_partition": "it read::",
    "payload_made_text": "it write::",
    "offsets_out_of_order": "lib keys::",
    "no_last_flush": "it sigterm_flushes_everything",
    "reused_key_taken": "sim conformance",
    "swept_at_once": "it upkeep::",
    "swept_though_kept": "it upkeep::",
    "swept_under_an_intent": "it upkeep::",
    "swept_of_a_successor": "it upkeep::",
}
# Longer than any of these tests takes, on a slow machine too.
PATIENCE_SECS = 3600


def planted() -> list[str]:
    source = open(os.path.join(os.path.dirname(__file__), "..", "build.rs")).read()
    return re.findall(r'^    "(\w+)",$', source, re.MULTILINE)


def run(command: list[str], bug: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ZOMBI_BUG": bug}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECS)


def catch(cargo_test: list[str], bug: str) -> str | None:
    """What caught it; nothing if all is green."""
    target, *arguments = CAUGHT_BY[bug].split()
    chosen = ["--lib"] if target == "lib" else ["--test", target]
    built = run([*cargo_test, *chosen, "--no-run"], bug)
    if built.returncode != 0:
        sys.exit(f"{bug} cannot be built:\n{built.stderr[-2000:]}")
    tested = run([*cargo_test, *chosen, *arguments], bug)
    if tested.returncode == 0:
        return None
    said = tested.stdout + tested.stderr
    failed = re.findall(r"^test (\S+) ... FAILED|^(.*), \d+ s: FAILED", said, re.MULTILINE)
    return f"{target}: " + (", ".join(sorted({a or b for a, b in failed})) or "it broke off")


def main() -> None:
    bugs, cargo_test = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    if set(CAUGHT_BY) != set(planted()):
        sys.exit(f"not in both lists: {set(CAUGHT_BY) ^ set(planted())}")
    missed = []
    for bug in bugs or CAUGHT_BY:
        started = time.monotonic()
        caught = catch(cargo_test, bug)
        print(f"{bug:<28} {caught or 'NOT CAUGHT'}, {time.monotonic() - started:.0f} s", flush=True)
        if caught is None:
            missed.append(bug)
    if missed:
        sys.exit(f"not caught: {', '.join(missed)}")


main()
