#!/usr/bin/env python3
"""Runs the black-box tests of one Zombi against a cluster: pods.py NATS [--list] [--logs] [--kills] [TEST...] -- CARGO TEST ...

Every server that a test starts is three pods then, of which it asks one or another (`crates/testing/src/server/many.rs`). With `--logs`
their shards have logs, on three NATS servers for all tests, which NATS starts (the example of that name). With `--kills` too, every 20 s
one pod of each cluster is killed and started again (`tests/killed.py`). With either the tests' client is a patient one, as
`crates/testing/src/server/patient.rs` says; a test whose write nobody knows the end of is undecided, and begun anew, a few times at most.

What is about one process, one volume or one chain of manifests is left out: `tests/it/one_pod.txt` names it, by reasons; of logs and kills
`one_log.txt` and `one_life.txt` beside it name what else is. Fails if these files name a test that is not there, so that nothing is left
out by mistake. `--list` runs nothing: it prints what is left out, and how much runs. With names, only the tests run whose names begin so.
"""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

PLACE = Path(__file__).parent / "it"
KILL_SECS = 20
# A test whose write meets a kill in every one of so many rounds is no accident.
ROUNDS = 6
UNDECIDED = "UNDECIDED: "


def left_out(file):
    """Reasons, and the beginnings of names that each is for."""
    reasons, reason = {}, None
    for line in file.read_text().splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            reason = line[1:-1]
            reasons[reason] = []
        elif line and not line.startswith("#"):
            if reason is None:
                sys.exit(f"{file}: {line} stands before any reason")
            reasons[reason].append(line)
    return reasons


def is_named(test, beginning):
    """A module ends with `::`, a test is named whole."""
    return test.startswith(beginning) if beginning.endswith("::") else test == beginning


def chosen(tests, files):
    """The tests that run, and those that do not by reason."""
    without, seen = {}, set()
    for file in files:
        for reason, beginnings in left_out(file).items():
            for beginning in beginnings:
                named = {test for test in tests if is_named(test, beginning)} - seen
                if not named:
                    sys.exit(f"{file}: no test is called {beginning}, or it is named twice")
                seen |= named
                without.setdefault(reason, []).append((beginning, len(named)))
    return [test for test in tests if test not in seen], without


@contextmanager
def log_servers(program):
    """Three NATS servers; what pods are told of them."""
    settings = ""
    # It ends with its standard input, which is closed in the end.
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        for line in servers.stdout:
            if line == "\n":
                break
            settings += line
        if "cluster.nats.urls=" not in settings:
            sys.exit(f"{program} starts no NATS servers")
        yield settings


def failed(cargo, tests, environment):
    """Runs tests, and shows what they say; the names of those that failed, and of those among them that are undecided."""
    names, undecided, shown = set(), set(), None
    ended = failures = 0
    with subprocess.Popen([*cargo, "--", "--exact", *tests], env=environment, stdout=subprocess.PIPE, text=True, errors="replace") as run:
        for line in run.stdout:
            print(line, end="", flush=True)
            if failure := re.match(r"test (\S+) \.\.\. FAILED$", line):
                names.add(failure[1])
            elif section := re.match(r"---- (\S+) stdout ----$", line):
                shown = section[1]
            elif line.startswith(UNDECIDED):
                undecided.add(shown)
            elif result := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;", line):
                ended += sum(map(int, result.groups()))
                failures += int(result[2])
    # Cargo exits alike for a test that failed and for a run that broke off beside it.
    if ended != len(tests) or failures != len(names) or (run.returncode != 0) != bool(names):
        sys.exit(f"the tests could not be run to their end: exit code {run.returncode}, results of {ended} of {len(tests)} tests")
    return names, names & undecided


def run_all(cargo, tests, environment):
    """Runs tests until none is undecided; whether all were right."""
    for _ in range(ROUNDS):
        names, undecided = failed(cargo, tests, environment)
        if names - undecided:
            print(f"failed: {' '.join(sorted(names - undecided))}")
            return False
        if not names:
            return True
        print(f"undecided, and begun anew: {' '.join(sorted(undecided))}", flush=True)
        tests = sorted(undecided)
    print(f"undecided in each of {ROUNDS} rounds")
    return False


def main():
    words = sys.argv[1:]
    at = words.index("--")
    (program, *wanted), cargo = words[:at], words[at + 1 :]
    has_logs, has_kills, only_lists = ("--logs" in wanted, "--kills" in wanted, "--list" in wanted)
    if has_kills and not has_logs:
        sys.exit("--kills needs --logs: without logs nobody takes over from a pod that is killed")
    wanted = [word for word in wanted if not word.startswith("--")]
    listed = subprocess.run([*cargo, "--", "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    tests = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
    files = ["one_pod.txt"] + ["one_log.txt"] * has_logs + ["one_life.txt"] * has_kills
    runs, without = chosen(tests, [PLACE / file for file in files])
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
    environment = {**os.environ, "TESTED_PODS": "3"}
    if has_kills:
        environment["TESTED_KILLS"] = str(KILL_SECS)
    if not has_logs:
        sys.exit(not run_all(cargo, runs, environment))
    with log_servers(program) as settings:
        is_right = run_all(cargo, runs, {**environment, "TESTED_LOGS": settings})
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
