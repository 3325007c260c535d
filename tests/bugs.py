#!/usr/bin/env python3
"""Plants one known bug after the other, and shows which test catches it: bugs.py [BUG...] -- CARGO TEST ...

A bug is a patch, tests/bugs/BUG.patch. It is applied to a copy of what git tracks, never to the checkout. Fails if one is caught by
nothing. Every bug is a build of its own, so all of them take half an hour or more.

`bugs.py --check` builds nothing: it fails if a patch does not apply any more.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

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
    "key_read_at_home_only": "sim conformance",
    "paused_is_the_end": "sim the_twin_is_read_as_plain_lists_are",
    "erased_under_an_intent": "sim conformance",
    "erased_in_hot_only": "it erase::tiers",
    "lease_ignored": "it erase::leases",
    "lease_not_waited_for": "sim leases",
    "token_for_others": "lib auth::jwt::",
    "algorithm_of_header": "lib auth::jwt::",
    "token_of_former_keys": "lib auth::jwt::",
    "write_outlives_its_right": "lib an_append_whose_body_goes_on",
    "right_on_the_raw_path": "it auth::policy::",
    "token_past_its_end": "lib auth::jwt::",
    "token_before_its_time": "lib auth::jwt::",
    "token_for_ever": "lib auth::jwt::",
    "token_of_another_issuer": "lib auth::jwt::",
    "fetched_for_every_name": "lib auth::jwt::",
    "symmetric_key_taken": "lib auth::jwt::",
    "weak_key_taken": "lib auth::jwt::",
    "static_token_past_its_end": "lib auth::tokens::",
    "half_of_a_bad_file": "lib reload::",
    "first_of_two_names": "it a_connection_knows_whom",
    "foreign_page_writes": "lib http::origin::",
    "foreign_name_leads_here": "lib http::origin::",
    "quota_not_given_back": "lib auth::quotas::",
    "burst_twice": "lib auth::quotas::",
    "audit_below_the_level": "lib telemetry::",
    "list_of_all_tables": "it auth::lists::",
    "missing_before_forbidden": "it a_refusal_is_the_same",
    "swept_though_lost": "lib upkeep::sweep::",
    "old_copy_not_scrubbed": "it an_older_copy_of_the_volume",
    "backup_is_opened": "it no_server_writes_into_a_backup",
    "released_while_waiting": "lib chain::",
    "sender_remembered_after_a_change": "lib auth::sender::",
    "list_without_a_pod": "it cluster::lists",
    "forwarded_twice": "it cluster::routed",
    "denied_in_one_shard_only": "it cluster::identity",
    "gauge_of_the_last_shard": "lib metrics::parts::",
    "table_on_two_shards": "lib cluster::",
    "adopted_halfway": "sim cluster::",
    "swept_of_other_shards": "it cluster::upkeep",
    "pod_in_a_backup": "it cluster::places",
    "resized_at_work": "it cluster::places",
    "refused_by_the_log_and_kept": "lib replica::",
    "unsettled_taken_for_lost": "lib replica::",
    "applied_before_the_log": "lib replica::",
    "silent_while_stopping": "sim retired::",
    "keys_not_replayed": "lib replica::",
    "commits_not_replayed": "lib replica::",
    "term_not_checked": "lib copy::judge::",
    "read_without_a_confirm": "sim of_three_copies",
    "refused_by_a_former_owner": "lib replica::",
    "missing_at_a_former_owner": "lib shards::store::",
    "list_without_a_confirm": "lib shards::gather::",
    "dead_owner_named": "lib cluster::owners::",
    "frozen_owner_waited_for": "lib shards::left::",
    "next_piece_unread": "lib last_piece::",
    "trunk_lost_is_unsent": "lib shards::trunk::",
    "trunk_cut_at_stop": "lib shards::trunk::",
    "trunk_for_anybody": "lib shards::trunk::",
    "lost_write_sent_again": "lib shards::left::",
    "flushed_at_a_former_owner": "lib flush_all::",
    "bounds_fixed_twice": "lib replica::",
    "taken_is_ours": "sim of_three_copies",
    "appended_behind_anything": "lib nats::publish::",
    "owns_before_the_end": "sim of_three_copies",
    "trimmed_too_far": "sim of_three_copies",
    "left_behind_without_a_word": "lib copy::recover::",
    "lost_log_begun_by_an_empty_copy": "sim copies_with_empty_volumes",
    "another_log_followed": "lib copy::",
    "closed_over_changes": "lib copy::close::",
    "flushed_and_in_the_log_alone": "sim of_three_copies",
    "follower_keeps_erased": "lib replica::",
    "kept_by_a_stale_intent": "lib replica::",
    "retired_and_never_waiting": "lib copy::decide::",
    "done_without_the_copies": "sim an_erasure_is_done_once",
}
# Longer than any of these tests takes, on a slow machine too.
PATIENCE_SECS = 3600

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "tests" / "bugs"


def apply(directory: Path, bug: str, *options: str) -> str | None:
    """Applies its patch there; what git says if it does not apply."""
    # Below a checkout git would take the patch's paths for the checkout's, and silently leave them out.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)}
    command = ["git", "apply", *options, str(PATCHES / f"{bug}.patch")]
    applied = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    return applied.stderr if applied.returncode != 0 else None


def check() -> None:
    stale = [said for bug in CAUGHT_BY if (said := apply(ROOT, bug, "--check"))]
    if stale:
        sys.exit("".join(stale) + f"{len(stale)} of {len(CAUGHT_BY)} known bugs do not apply any more: make their patches anew")
    print(f"{len(CAUGHT_BY)} known bugs apply")


class Copy:
    """The checkout's tracked files once more, at a place that stays, so that cargo builds only what differs from the last time."""

    def __init__(self, cargo_test: list[str]) -> None:
        metadata = [*cargo_test[: cargo_test.index("test")], "metadata", "--format-version", "1", "--no-deps"]
        said = subprocess.run(metadata, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        place = Path(json.loads(said)["target_directory"]).resolve() / "bugs"
        place.mkdir(parents=True, exist_ok=True)
        self.directory = place / "checkout"
        # Not the checkout's own: cargo names what it builds of a workspace by paths inside it, and goes by whether a source is newer. What
        # was built here with a bug would pass for the checkout's, and be its `debug/zombi`. So dependencies are built once more, but once.
        self.environment = {**os.environ, "CARGO_TARGET_DIR": str(place / "target")}
        # Checkouts may share a target directory.
        self.lock = (place / "lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{self.directory} is in use by another run")

    def restore(self) -> None:
        """Takes out what a patch, a test or another checkout has left. Only what differs is written, and is new to cargo by its time."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        tracked = {name for name in listed.split("\0") if (ROOT / name).is_file()}
        for folder, _, names in os.walk(self.directory, topdown=False):
            for name in names:
                path = Path(folder, name)
                if str(path.relative_to(self.directory)) not in tracked:
                    path.unlink()
            if not os.listdir(folder):
                os.rmdir(folder)
        for name in tracked:
            original, copied = ROOT / name, self.directory / name
            if not copied.is_file() or copied.read_bytes() != original.read_bytes():
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, copied)

    def run(self, command: list[str]) -> subprocess.CompletedProcess:
        to_run = {"cwd": self.directory, "env": self.environment, "timeout": PATIENCE_SECS}
        return subprocess.run(command, capture_output=True, text=True, **to_run)


def catch(copy: Copy, cargo_test: list[str], bug: str) -> str | None:
    """What caught it; nothing if all is green."""
    copy.restore()
    if said := apply(copy.directory, bug):
        sys.exit(f"{bug} does not apply:\n{said}")
    target, *arguments = CAUGHT_BY[bug].split()
    chosen = ["--workspace", "--lib"] if target == "lib" else ["--test", target]
    built = copy.run([*cargo_test, *chosen, "--no-run"])
    if built.returncode != 0:
        sys.exit(f"{bug} cannot be built:\n{built.stderr[-2000:]}")
    tested = copy.run([*cargo_test, *chosen, *arguments])
    if tested.returncode == 0:
        return None
    said = tested.stdout + tested.stderr
    failed = re.findall(r"^test (\S+) ... FAILED|^(.*), \d+ s: FAILED", said, re.MULTILINE)
    return f"{target}: " + (", ".join(sorted({a or b for a, b in failed})) or "it broke off")


def main() -> None:
    patches = {path.stem for path in PATCHES.glob("*.patch")}
    if set(CAUGHT_BY) != patches:
        sys.exit(f"not both in the table and in tests/bugs: {set(CAUGHT_BY) ^ patches}")
    if sys.argv[1:] == ["--check"]:
        return check()
    bugs, cargo_test = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    if unknown := set(bugs) - set(CAUGHT_BY):
        sys.exit(f"there are no such bugs: {unknown}")
    copy = Copy(cargo_test)
    missed = []
    for bug in bugs or CAUGHT_BY:
        started = time.monotonic()
        caught = catch(copy, cargo_test, bug)
        print(f"{bug:<28} {caught or 'NOT CAUGHT'}, {time.monotonic() - started:.0f} s", flush=True)
        if caught is None:
            missed.append(bug)
    copy.restore()
    if missed:
        sys.exit(f"not caught: {', '.join(missed)}")


main()
