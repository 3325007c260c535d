#!/usr/bin/env python3
"""Runs the black-box tests of a server that asks nobody against one that asks: known.py ZOMBI [--list] [TEST...] -- CARGO TEST ...

Every server that a test starts has `auth.mode = required` then, and the tests' client a token that may do all (`crates/testing/src/server/
known.rs`). What has callers of its own, or says what a server without identity does, is left out: `tests/it/no_identity.txt` names it, by
reasons. Fails if that file names a test that is not there. `--list` runs nothing. With names, only the tests run whose names begin so.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pods import PLACE, chosen, run_all

NAME = "tests"


def identity(zombi, directory):
    """The settings of a server that knows one token, which may do all; the file with that."""
    made = subprocess.run([zombi, "token", "new", NAME], check=True, capture_output=True, text=True).stdout
    token, line = made.splitlines()
    tokens, policy, known = directory / "tokens.yaml", directory / "policy.json", directory / "token"
    known.write_text(token)
    tokens.write_text(f"version: 1\ntokens:\n{line}\n")
    binding = {"subjects": [f"token:{NAME}"], "role": "operator", "tables": ["*"], "groups": ["*"]}
    policy.write_text(json.dumps({"version": 1, "bindings": [binding]}))
    return f"auth.mode=required\nauth.tokens_file={tokens}\nauth.policy_file={policy}\n", known


def main():
    words = sys.argv[1:]
    at = words.index("--")
    (zombi, *wanted), cargo = words[:at], words[at + 1 :]
    listed = subprocess.run([*cargo, "--", "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    tests = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
    runs, without = chosen(tests, [PLACE / "no_identity.txt"])
    for reason, beginnings in without.items():
        print(f"left out, {reason}:")
        for beginning, count in beginnings:
            print(f"  {beginning} ({count})")
    print(f"{len(runs)} of {len(tests)} tests run against a server that asks who calls", flush=True)
    names = [word for word in wanted if not word.startswith("--")]
    if names:
        runs = [test for test in runs if any(test.startswith(beginning) for beginning in names)]
    if "--list" in wanted:
        return
    if not runs:
        sys.exit(f"no test is called {' or '.join(names)}")
    with tempfile.TemporaryDirectory() as directory:
        settings, known = identity(zombi, Path(directory))
        told = {"TESTED_AUTH": settings, "TESTED_TOKEN_FILE": str(known)}
        is_right = run_all(cargo, runs, {**os.environ, **told})
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
