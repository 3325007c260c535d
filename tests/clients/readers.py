"""Programs that read: over HTTP by a bare address, and segments from the bucket."""

import json
import os
import subprocess

from demo import check

from had import FILES, command, python

EVENTS = 3000


def duckdb(world):
    return read(world, python("duckdb==2.0.0"), "duckdb")


def chdb(world):
    return read(world, python("chdb==4.4.0"), "chdb")


def pyspark(world):
    command("java", "default-jdk-headless")
    return read(world, python("pyspark==4.3.0", "setuptools"), "pyspark")


def read(world, interpreter, what):
    """Number and sum of the events, and those of one key, by HTTP and from the segments."""
    world.write(EVENTS)
    # Payloads of every kind in one table.
    for body in [{"payload": "text"}, {"payload": None}, {"payload": [1, "two"]}, {"payload_base64": "/wA="}]:
        status, _, said = world.ask("POST", f"/tables/{world.table}", body)
        check(status == 201, f"{body} is written: {status} {said}")
    status, _, said = world.ask("POST", "/flush")
    check(status == 200, f"flushed: {status} {said}")
    _, _, listed = world.ask("GET", f"/tables/{world.table}/segments")
    # The S3 server of the tests keeps its buckets as directories.
    bucket = os.path.join(world.s3.directory, "demo")
    segments = [os.path.join(bucket, one["url"].split("/", 3)[3]) for one in json.loads(listed)["segments"]]
    check(segments and all(map(os.path.exists, segments)), f"the segments are there: {segments}")
    words = [interpreter, os.path.join(FILES, "reader.py"), what, f"{world.url}/tables/{world.table}?format=ndjson", *segments]
    done = subprocess.run(words, capture_output=True, text=True, cwd=world.directory, timeout=600)
    check(done.returncode == 0, f"{what} reads:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    expected = [EVENTS + 4, sum(range(EVENTS)), sum(1 for number in range(EVENTS) if number % 97 == 7)]
    for source in ("http", "segments"):
        check(found[source] == expected, f"{what} finds {expected} by {source}: {found[source]}")
    return f"{EVENTS + 4:,} events over HTTP and from {len(segments)} segments"
