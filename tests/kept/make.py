#!/usr/bin/env python3
"""Makes a volume and a bucket as they are between two steps of a busy life, to be opened by every later program.

    tests/kept/make.py ZOMBI S3 OUT.tar.zst

ZOMBI is the program that writes them, built with fail points, and S3 the small server of tests/s3.rs. What is in OUT:
`volume/`, `bucket/`, and `expected.json`: the records of each table, the committed offsets, and keys that are known.

- `merged`: one segment that was made of several;
- `lost`: events on both sides of a range that was lost with a volume;
- `deleted`: a table that is no more, and whose offsets go on;
- `keyed`: idempotency keys of events that are only in S3, and of such that are only on the volume;
- `late`: the bounds of a segment are on the volume and its object is in S3, but no manifest names it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

KEYS = {"AWS_ACCESS_KEY_ID": "zombi", "AWS_SECRET_ACCESS_KEY": "zombi-secret"}
BUCKET = "events"


class Zombi:
    def __init__(self, program, volume, endpoint, failpoints="", **settings):
        settings = {"flush.interval_secs": 3600, "hot.retention_secs": 0, "compaction.interval_secs": 3600, **settings}
        command = [program, "--data-dir", volume, "--set", "host=127.0.0.1", "--set", "port=0", "--set", "admin_port=0"]
        command += ["--set", f"s3.endpoint={endpoint}", "--set", f"s3.bucket={BUCKET}", "--set", "s3.create_bucket=true"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        self.process = subprocess.Popen(command, env={**os.environ, **KEYS, "FAILPOINTS": failpoints}, stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            found = re.search(r"address=(\S+)", line) if "the main port" in line else None
            self.url = f"http://{found.group(1)}" if found else self.url
            if line.rstrip().endswith(" ready"):
                return
        raise SystemExit(f"it did not become ready: {self.process.wait()}")

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def write(self, table, first, count, key=None, partition=0):
        record = lambda n: {"payload": {"n": n}, "partition": partition, "timestamp_ms": 1_700_000_000_000 + n}
        records = [{**record(n), **({"idempotency_key": f"{key}-{n}"} if key else {})} for n in range(first, first + count)]
        return self.call("POST", f"/tables/{table}/bulk", {"records": records})

    def flush(self):
        return self.call("POST", "/flush")

    def read(self, table):
        records, path = [], f"/tables/{table}?limit=1000"
        while True:
            page = self.call("GET", path)
            records += page["records"]
            if not page["has_more"]:
                return records
            path = f"/tables/{table}?limit=1000&cursor={page['next_cursor']}"

    def kill(self):
        self.process.kill()
        self.process.wait()


def main():
    program, server, out = sys.argv[1:]
    home = tempfile.mkdtemp()
    volume = lambda n: os.path.join(home, f"volume-{n}")
    mirror = os.path.join(home, "mirror")
    store = subprocess.Popen([server, "127.0.0.1:0", mirror], stdout=subprocess.PIPE, text=True)
    endpoint = store.stdout.readline().strip()
    try:
        z = Zombi(program, volume(0), endpoint)
        z.write("lost", 0, 20)
        z.flush()
        z.write("lost", 20, 5)  # these go with the volume
        z.kill()

        z = Zombi(program, volume(1), endpoint, **{"compaction.interval_secs": 1, "compaction.min_segments": 3})
        z.write("lost", 30, 10)
        for first in range(0, 50, 10):
            z.write("merged", first, 10)
            z.flush()
        while not merged(program, endpoint):
            time.sleep(0.2)
        z.write("deleted", 0, 7)
        z.write("deleted", 0, 3, partition=2)
        z.flush()
        z.call("DELETE", "/tables/deleted")
        z.flush()
        z.write("keyed", 0, 10, key="cold")
        z.flush()
        z.kill()

        z = Zombi(program, volume(1), endpoint)
        z.write("keyed", 10, 10, key="hot")
        z.call("POST", "/consumers/billing/commit", {"commits": [{"table": "merged", "offset": 33}, {"table": "lost", "offset": 12}]})
        tables = {table: z.read(table) for table in ("lost", "merged", "keyed")}
        z.kill()

        z = Zombi(program, volume(1), endpoint, failpoints="flush-put=return")
        z.write("late", 0, 15)
        tables["late"] = z.read("late")
        try:
            z.call("POST", "/tables/late/flush")
            raise SystemExit("it should have ended behind the PUT")
        except OSError:
            z.process.wait()

        kept = os.path.join(home, "kept")
        # Nothing was deleted in so short a life but what the probes had made.
        shutil.copytree(os.path.join(mirror, BUCKET), os.path.join(kept, "bucket"), ignore=shutil.ignore_patterns("probe"))
        shutil.copytree(volume(1), os.path.join(kept, "volume"), ignore=shutil.ignore_patterns("LOG*", "LOCK"))
        expected = {
            "tables": tables,
            "consumers": {"billing": {"lost": 12, "merged": 33}},
            "keys": {"keyed": {f"{'cold' if n < 10 else 'hot'}-{n}": n for n in range(20)}},
            "ends": {"deleted": {"0": 7, "2": 3}},
        }
        with open(os.path.join(kept, "expected.json"), "w") as file:
            json.dump(expected, file)
        subprocess.run(["tar", "--sort=name", "-I", "zstd -19", "-cf", os.path.abspath(out), "-C", kept, "."], check=True)
    finally:
        store.kill()
        shutil.rmtree(home)


def merged(program, endpoint):
    command = [program, "--set", f"s3.endpoint={endpoint}", "--set", f"s3.bucket={BUCKET}", "segments", "list", "--table", "merged"]
    listed = subprocess.run(command, env={**os.environ, **KEYS}, capture_output=True, text=True, check=True).stdout
    return listed.count("segments/") == 1


if __name__ == "__main__":
    main()
