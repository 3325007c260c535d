#!/usr/bin/env python3
"""The clients of others against the real binary: what they send is stored whole, and what they read is what was sent.

    tests/clients/check.py ZOMBI S3 [--quick | --slow] [--only NAME ...] [--must]

ZOMBI and S3 are the two binaries (`make clients` builds and passes them). A program that cannot be had here is skipped, by a
message; with --must that is a mistake. --quick leaves out what takes minutes to build or to fetch, --slow tries only that.
"""

import argparse
import os
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]

from demo import S3, Zombi, check, say  # noqa: E402

import between  # noqa: E402
import generated  # noqa: E402
import loops  # noqa: E402
import readers  # noqa: E402
import senders  # noqa: E402
from had import Skip  # noqa: E402
from world import World  # noqa: E402

# By what most people run; the last ones take minutes to build.
QUICK = [
    loops.python, loops.node, loops.go, loops.rust, loops.by_ordinal,
    senders.cloudevents_of_pypi, senders.cloudevents_of_npm,
    between.nginx, between.haproxy,
    senders.alertmanager, senders.syslog_ng,
    readers.duckdb,
    generated.typescript, generated.python_client,
]
SLOW = [
    readers.chdb, senders.collector, senders.rotel, senders.benthos, senders.cloudevents_of_go, senders.cloudevents_of_java,
    senders.debezium, readers.pyspark,
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("zombi")
    arguments.add_argument("s3")
    some = arguments.add_mutually_exclusive_group()
    some.add_argument("--quick", action="store_true")
    some.add_argument("--slow", action="store_true")
    arguments.add_argument("--must", action="store_true")
    arguments.add_argument("--only", nargs="*", default=[])
    arguments = arguments.parse_args()
    known = QUICK if arguments.quick else SLOW if arguments.slow else QUICK + SLOW
    names = {f"{one.__module__}.{one.__name__}": one for one in known}
    wanted = {name: one for name, one in names.items() if not arguments.only or any(part in name for part in arguments.only)}
    check(wanted, f"--only names none of {' '.join(names)}")
    skipped, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="zombi-clients-") as directory:
        s3 = S3(os.path.abspath(arguments.s3), os.path.join(directory, "bucket"))
        settings = {"tables.partitions": "4", "flush.interval_secs": "3600"}
        zombi = Zombi(os.path.abspath(arguments.zombi), os.path.join(directory, "volume"), s3.endpoint, settings)
        try:
            for name, one in wanted.items():
                started, home = time.monotonic(), os.path.join(directory, name)
                os.mkdir(home)
                try:
                    said = one(World(zombi, s3, home, name.replace(".", "-")))
                    say(f"{name:30} {said} ({time.monotonic() - started:.0f} s)")
                except Skip as why:
                    skipped.append(name)
                    say(f"{name:30} skipped: {why}")
                except SystemExit as why:
                    wrong.append(name)
                    say(f"{name:30} {why}")
                check(zombi.process.poll() is None, "the server still runs")
        finally:
            zombi.kill()
            s3.stop()
    check(not wrong, f"all is well: {' '.join(wrong)}")
    check(not (arguments.must and skipped), f"nothing is skipped: {' '.join(skipped)}")
    say(f"{len(wanted) - len(skipped)} of {len(wanted)} clients were tried")


if __name__ == "__main__":
    main()
