#!/usr/bin/env python3
"""Measures a backup against a plain copy of the same objects.

    tests/backup_rate.py ZOMBI S3 [--events N] [--rounds N]

ZOMBI and S3 are the two binaries, as for tests/demo.py; take release builds. Fills a store with events, backs it up to a
directory, and then copies that backup once with `zombi backup` and once with a loop that reads, writes and syncs each
file: the same bytes on the same disk, so that the ratio is what listing, hashing and planning cost. Prints a backup of the
bucket and its verification too. The goal is a ratio of at least 0.7.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time

from demo import S3, Zombi, check, say

GOAL = 0.7


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zombi")
    parser.add_argument("s3")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zombi-backup-") as directory:
        s3 = S3(arguments.s3, os.path.join(directory, "bucket"))
        zombi = Zombi(arguments.zombi, os.path.join(directory, "volume"), s3.endpoint)
        try:
            status, summary = zombi.post_stream(events(arguments.events))
            check(status == 201, f"the events were taken: {status} {summary}")
            status, answer = zombi.request("POST", "/flush")
            check(status == 200, f"the events are in S3: {answer}")
            first = os.path.join(directory, "first")
            say(f"bucket    {seconds(lambda: command(zombi, 'backup', '--to', first)):.1f} s to a directory")
            say(f"verify    {seconds(lambda: command(zombi, 'verify', first)):.1f} s")
            judge(zombi, directory, first, arguments.rounds)
        finally:
            zombi.kill()
            s3.stop()


def judge(zombi, directory, first, rounds):
    """By turns, so that both meet the same machine; the median of each."""
    backups, copies = [], []
    for number in range(rounds):
        target = os.path.join(directory, f"backup-{number}")
        backups.append(seconds(lambda: command(zombi, "backup", "--from", first, "--to", target)))
        shutil.rmtree(target)
        copies.append(seconds(lambda: copy(first, target)))
        shutil.rmtree(target)
    backup, plain = sorted(backups)[rounds // 2], sorted(copies)[rounds // 2]
    size = sum(os.path.getsize(path) for path in files(first))
    ratio = plain / backup
    say(f"backup    {backup:.2f} s, a plain copy {plain:.2f} s, {size / 1e6:.0f} MB: ratio {ratio:.2f}, goal {GOAL}")
    check(ratio >= GOAL, "a backup is nearly as fast as a plain copy")


def events(count):
    """Lines for sixteen partitions."""
    for number in range(count):
        payload = {"order": number, "text": f"{number * 2654435761 % 2**32:08x}" * 12}
        yield json.dumps({"payload": payload, "partition": number % 16}).encode() + b"\n"


def command(zombi, *words):
    """Runs a command with the settings of the server's bucket."""
    subprocess.run([*zombi.command, *words], env=zombi.environment, check=True, stdout=subprocess.DEVNULL)


def seconds(act):
    started = time.monotonic()
    act()
    return time.monotonic() - started


def files(directory):
    return [os.path.join(place, name) for place, _, names in os.walk(directory) for name in names]


def copy(source, target):
    """Every file, synced, as a backup writes it."""
    for path in files(source):
        place = os.path.join(target, os.path.relpath(path, source))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(path, "rb") as read, open(place, "wb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
            written.flush()
            os.fsync(written.fileno())


if __name__ == "__main__":
    main()
