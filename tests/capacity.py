#!/usr/bin/env python3
"""Measures for docs/operations/capacity.md how many bytes a partition, a consumer offset, a segment and a key take.

    tests/capacity.py ZOMBI S3 [--scale N] [--only WHAT]

ZOMBI and S3 are the two binaries, as for tests/demo.py; take release builds. Each is measured on a store of its own: how much
it grows by the second half of them, and for keys by how much it is larger than one without. Memory is what is resident once it is
quiet, where they were made and after the next start, with the allocator settings of the image. Prints; it judges nothing.
"""

import argparse
import glob
import json
import os
import re
import tempfile
import time

from demo import S3, Zombi, check, say

# How many of them a request makes.
WIDTH = 1000
# Upkeep waits: nothing is merged while it is counted. Caches and buffers, whose size is a setting, are small.
STILL = {"compaction.interval_secs": "86400", "flush.interval_secs": "86400", "limits.partitions": "1000000",
         "limits.group_offsets": "1000000", "hot.cache_bytes": "0", "cold.cache_bytes": "0", "hot.write_buffer_bytes": "1048576"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zombi")
    parser.add_argument("s3")
    parser.add_argument("--scale", type=int, default=100, help="thousands of each that are made (default: 100)")
    parser.add_argument("--only", choices=MEASURES, help="one of them")
    arguments = parser.parse_args()
    check(arguments.scale >= 2, "there are two halves: --scale is 2 or more")
    os.environ |= {"MALLOC_ARENA_MAX": "1", "MIMALLOC_PURGE_DELAY": "100"}
    for name in [arguments.only] if arguments.only else MEASURES:
        with tempfile.TemporaryDirectory(prefix="zombi-capacity-") as directory:
            s3 = S3(arguments.s3, os.path.join(directory, "bucket"))
            try:
                MEASURES[name](arguments, directory, s3)
            finally:
                s3.stop()


def partitions(arguments, directory, s3):
    with Store(arguments, directory, s3) as store:
        store.say_memory("partition", lambda number: store.write(f"t{number:04}", range(WIDTH)))


def offsets(arguments, directory, s3):
    with Store(arguments, directory, s3) as store:
        store.write("t", range(WIDTH))

        def commit(number):
            commits = [{"table": "t", "partition": partition, "offset": 1} for partition in range(WIDTH)]
            store.ask(f"/consumers/g{number:04}/commit", {"commits": commits})

        store.say_memory("consumer offset", commit)


def segments(arguments, directory, s3):
    with Store(arguments, directory, s3) as store:
        def flush(_):
            store.write("t", range(WIDTH))
            store.ask("/flush")

        store.say_memory("segment", flush)
        size, count = last_checkpoint(s3)
        say(f"{'segment':16} {size / count:6.0f} bytes of a checkpoint")


def keys(arguments, directory, s3):
    keyed = kept(arguments, os.path.join(directory, "keyed"), s3, lambda number: {"idempotency_key": f"key-{number:032}"})
    plain = kept(arguments, os.path.join(directory, "plain"), s3, lambda _: {})
    say(f"{'key':16} {(keyed - plain) / (arguments.scale * WIDTH):6.0f} bytes of disk")


MEASURES = {"partitions": partitions, "offsets": offsets, "segments": segments, "keys": keys}


def kept(arguments, directory, s3, key):
    """What is left on a volume whose events are all in S3 and evicted, once RocksDB has written it into files."""
    os.mkdir(directory)
    with Store(arguments, directory, s3, {"s3.prefix": os.path.basename(directory)}) as store:
        for start in range(0, arguments.scale * WIDTH, WIDTH):
            some = range(start, start + WIDTH)
            store.ask("/tables/t/bulk", {"records": [{"payload": "x"} | key(number) for number in some]})
        store.ask("/flush")
        for _ in range(2):
            store.start_again()
        store.resident()
        return sum(os.path.getsize(path) for path in glob.glob(os.path.join(store.zombi.volume, "**", "*.sst"), recursive=True))


def last_checkpoint(s3):
    """Its bytes, and how many segments it names."""
    found = glob.glob(os.path.join(s3.directory, "demo", "**", "manifests", "**", "*"), recursive=True)
    for path in sorted(filter(os.path.isfile, found), reverse=True):
        with open(path) as file:
            text = file.read()
        segments = (json.loads(text).get("state") or {}).get("segments")
        if segments:
            return len(text), len(segments)
    check(False, "there is a checkpoint with segments: take a larger --scale")


class Store:
    """A Zombi that does nothing by itself."""

    def __init__(self, arguments, directory, s3, more=None):
        self.half = arguments.scale // 2
        self.zombi = Zombi(arguments.zombi, os.path.join(directory, "volume"), s3.endpoint, STILL | (more or {}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.zombi.kill()

    def ask(self, path, body=None):
        status, answer = self.zombi.request("POST", path, body=body)
        check(status < 300, f"POST {path}: {status} {answer}")

    def write(self, table, numbers):
        self.ask(f"/tables/{table}/bulk", {"records": [{"payload": "x", "partition": number} for number in numbers]})

    def start_again(self):
        self.zombi.kill()
        self.zombi.start()

    def resident(self):
        """Bytes of memory, once they have not fallen for two seconds."""
        least, since, until = None, time.monotonic(), time.monotonic() + 60
        while time.monotonic() < min(since + 2, until):
            with open(f"/proc/{self.zombi.process.pid}/status") as status:
                now = int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) * 1024
            if least is None or now < least:
                least, since = now, time.monotonic()
            time.sleep(0.1)
        return least

    def say_memory(self, what, make):
        """What the second half of them takes: both halves have paid what does not depend on how many there are."""
        made, started = [], []
        for half in range(2):
            for number in range(half * self.half, (half + 1) * self.half):
                make(number)
            made.append(self.resident())
            # At the first start what the log holds is written into files.
            for _ in range(2):
                self.start_again()
            started.append(self.resident())
        each = [(after - before) / (self.half * WIDTH) for before, after in (made, started)]
        say(f"{what:16} {each[0]:6.0f} bytes of memory, {each[1]:.0f} after the next start")


if __name__ == "__main__":
    main()
