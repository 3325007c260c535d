#!/usr/bin/env python3
"""Runs the black-box tests of one Zombi against a cluster: pods.py [--list] [TEST...] -- CARGO TEST ...

Every server that a test starts is three pods then, of which it asks one or another (`crates/testing/src/server/many.rs`). What is about one
process, one volume or one chain of manifests is left out: `tests/it/one_pod.txt` names it, by reasons. Fails if that file names a test that
is not there, so that nothing is left out by mistake. `--list` runs nothing: it prints what is left out, and how much runs. With names, only
the tests run whose names begin so.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LEFT_OUT = Path(__file__).parent / "it" / "one_pod.txt"


def left_out():
    """Reasons, and the beginnings of names that each is for."""
    reasons, reason = {}, None
    for line in LEFT_OUT.read_text().splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            reason = line[1:-1]
            reasons[reason] = []
        elif line and not line.startswith("#"):
            if reason is None:
                sys.exit(f"{LEFT_OUT}: {line} stands before any reason")
            reasons[reason].append(line)
    return reasons


def is_named(test, beginning):
    """A module ends with `::`, a test is named whole."""
    return test.startswith(beginning) if beginning.endswith("::") else test == beginning


def chosen(tests):
    """The tests that run, and those that do not by reason."""
    without, seen = {}, set()
    for reason, beginnings in left_out().items():
        for beginning in beginnings:
            named = {test for test in tests if is_named(test, beginning)} - seen
            if not named:
                sys.exit(f"{LEFT_OUT}: no test is called {beginning}, or it is named twice")
            seen |= named
            without.setdefault(reason, []).append((beginning, len(named)))
    return [test for test in tests if test not in seen], without


def main():
    words = sys.argv[1:]
    at = words.index("--")
    wanted, cargo = words[:at], words[at + 1 :]
    only_lists = "--list" in wanted
    wanted = [word for word in wanted if word != "--list"]
    listed = subprocess.run([*cargo, "--", "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    tests = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
    runs, without = chosen(tests)
    for reason, beginnings in without.items():
        print(f"left out, {reason}:")
        for beginning, count in beginnings:
            print(f"  {beginning} ({count})")
    print(f"{len(runs)} of {len(tests)} tests run against three pods", flush=True)
    if wanted:
        runs = [test for test in runs if any(test.startswith(beginning) for beginning in wanted)]
    if only_lists:
        return
    if not runs:
        sys.exit(f"no test is called {' or '.join(wanted)}")
    done = subprocess.run([*cargo, "--", "--exact", *runs], env={**os.environ, "TESTED_PODS": "3"})
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
