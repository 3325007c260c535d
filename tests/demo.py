#!/usr/bin/env python3
"""Carries one data set through every tier of Zombi and compares what comes out with what went in.

    tests/demo.py ZOMBI S3 [--data FILE] [--kills N] [--seed N]

ZOMBI and S3 are the two binaries (`make demo` builds and passes them). FILE is NDJSON, plain or .zst; without one, a data
set that lies beside the checkout is taken, else a sample is made. With --kills N the process is killed -9 at N random
moments during the ingest, started again, and sent the whole file again: every event must be there exactly once.
"""

import argparse
import contextlib
import glob
import hashlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = "flights"
PIECE = 1 << 20


def main():
    arguments = parse_arguments()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="zombi-demo-") as directory:
        data = find_data(arguments.data, directory)
        expected = digest(json.loads(line) for line in lines_of(data))
        events = sum(count for count, _ in expected.values())
        say(f"data      {data}: {events:,} events in {len(expected)} partitions; seed {arguments.seed}")
        with contextlib.ExitStack() as ends:
            s3 = S3(arguments.s3, os.path.join(directory, "bucket"))
            ends.callback(s3.stop)
            zombi = Zombi(arguments.zombi, os.path.join(directory, "volume"), s3.endpoint)
            ends.callback(zombi.kill)
            if arguments.kills:
                ingest_with_kills(zombi, data, events, arguments.kills, rng)
            else:
                ingest(zombi, data, events)
            flush(zombi, s3, events)
            say("kill -9, start again")
            zombi.kill()
            zombi.start()
            read_back(zombi, expected, events)
            if not data.startswith(directory):
                append_file(zombi, arguments.zombi, data, expected, events)
            send_again(zombi, data, min(20_000, events))
            say(f"memory    peak {zombi.peak_rss_mib()} MiB")
            check(zombi.peak_rss_mib() < 512, "peak memory is under 512 MiB")
    say("all as it should be")


def ingest(zombi, data, events):
    started = time.monotonic()
    status, summary = zombi.post_stream(lines_of(data))
    check(status == 201, f"the stream was taken: {status} {summary}")
    check((summary["count"], summary["duplicates"]) == (events, 0), f"every event was new: {summary}")
    report("ingest", events, started)


def ingest_with_kills(zombi, data, events, kills, rng):
    """Sends the whole file again and again; the k-th stream is cut off somewhere in the k-th part of the file."""
    for kill in range(kills):
        target = int(rng.uniform(kill, kill + 1) / kills * events)

        def lines_until_killed():
            for number, line in enumerate(lines_of(data)):
                if number == target:
                    zombi.kill()
                yield line

        try:
            status, summary = zombi.post_stream(lines_until_killed())
            check(False, f"a killed process answers nothing: {status} {summary}")
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        zombi.start()
        say(f"kill {kill + 1:2}   {outcome} at line {target:,}; {zombi.count():,} events durable")
    status, summary = zombi.post_stream(lines_of(data))
    check(status in (200, 201) and summary["count"] == events, f"the last stream was taken: {status} {summary}")
    say(f"ingest    {summary['count']:,} taken, {summary['duplicates']:,} of them known")


def flush(zombi, s3, events):
    started = time.monotonic()
    status, answer = zombi.request("POST", "/flush")
    check(status == 200, f"flushed: {status} {answer}")
    report("flush", max(answer["events"], 1), started)
    partitions = zombi.partitions()
    check(all(one["flushed"] == one["next"] for one in partitions), f"everything is cold: {partitions}")
    check(all(one["hot_bytes"] == 0 for one in partitions), f"hot keeps nothing that retention does not keep: {partitions}")
    segments = s3.segments()
    lines = sum(subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout.count(b"\n") for path in segments)
    check(lines == events, f"zstd reads {lines:,} lines from {len(segments)} segments")
    say(f"segments  {len(segments)}, {sum(map(os.path.getsize, segments)) / 2**20:.1f} MiB; `zstd -dc` reads {lines:,} lines")


def read_back(zombi, expected, events):
    started = time.monotonic()
    records = list(zombi.pages())
    report("read", len(records), started)
    found = digest(records)
    check(found == expected, f"counts and hashes are equal:\n  sent {expected}\n  read {found}")
    say("compared  " + ", ".join(f"partition {number}: {count:,} {sha[:12]}" for number, (count, sha) in sorted(found.items())))


def append_file(zombi, binary, data, expected, events):
    """The same file by the command line, into a table of its own."""
    started, table = time.monotonic(), f"{TABLE}-appended"
    command = [binary, "append", table, "--file", data, "--format", "records", "--url", f"http://127.0.0.1:{zombi.port}", "-o", "json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    check(ran.returncode == 0, f"zombi append: {ran.returncode} {ran.stdout} {ran.stderr}")
    summary = json.loads(ran.stdout)
    check((summary["count"], summary["duplicates"]) == (events, 0), f"every event was new: {summary}")
    report("append", events, started)
    check(digest(zombi.pages(table)) == expected, "what zombi append has sent is what is in the file")


def send_again(zombi, data, count):
    def first_lines():
        for number, line in enumerate(lines_of(data)):
            if number == count:
                return
            yield line

    status, summary = zombi.post_stream(first_lines())
    check(status in (200, 201) and summary["duplicates"] == count, f"all {count:,} are duplicates: {status} {summary}")
    say(f"resent    {count:,} lines: {summary['duplicates']:,} duplicates")


def digest(records):
    """Per partition the number of events and a hash over all of them, in order."""
    partitions = {}
    for record in records:
        count, sha = partitions.get(record["partition"]) or (0, hashlib.sha256())
        fields = [record["payload"], record["timestamp_ms"], record["idempotency_key"]]
        sha.update(json.dumps(fields).encode())
        partitions[record["partition"]] = (count + 1, sha)
    return {number: (count, sha.hexdigest()) for number, (count, sha) in partitions.items()}


def ask(connection, method, path, body=None, headers=None):
    """Sends a request, with a body as JSON if there is one; the status and the answer's JSON."""
    sent = None if body is None else json.dumps(body)
    connection.request(method, path, sent, ({} if sent is None else {"Content-Type": "application/json"}) | (headers or {}))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


class Zombi:
    """The real binary on a volume of its own."""

    def __init__(self, binary, volume, endpoint, more=None, wait=True):
        self.volume, self.peak, self.lock = volume, 0, threading.Lock()
        settings = {
            "host": "127.0.0.1", "port": "0", "admin_port": "0", "data_dir": volume,
            "s3.bucket": "demo", "s3.endpoint": endpoint, "s3.create_bucket": "true", "hot.keep_secs": "0",
            "limits.disk_reserve_bytes": "0", "limits.disk_reserve_percent": "0",
        } | (more or {})
        self.command = [binary] + [word for pair in settings.items() for word in ("--set", "=".join(pair))]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ZOMBI_")}
        self.environment |= {"AWS_ACCESS_KEY_ID": "zombi", "AWS_SECRET_ACCESS_KEY": "zombi-secret"}
        self.process = None
        self.start(wait)

    def start(self, wait=True):
        log = open(self.volume + ".log", "ab")
        begin = log.tell()
        self.process = subprocess.Popen(self.command, stderr=log, stdin=subprocess.DEVNULL, env=self.environment)
        if wait:
            try:
                self.wait_until_ready(begin)
            except BaseException:
                # Who made it has nothing yet to kill it by.
                self.kill()
                raise

    def wait_until_ready(self, begin):
        """`begin` is where the log of this start begins."""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with open(self.volume + ".log", errors="replace") as lines:
                lines.seek(begin)
                text = lines.read()
            if " ready\n" in text:
                self.port = int(re.search(r"the main port address=\S+:(\d+)", text).group(1))
                return
            check(self.process.poll() is None, f"zombi starts:\n{text}")
            time.sleep(0.02)
        check(False, "zombi becomes ready")

    def kill(self):
        with self.lock:
            if self.process.poll() is None:
                self.peak_rss_mib()
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()

    def peak_rss_mib(self):
        try:
            with open(f"/proc/{self.process.pid}/status") as status:
                self.peak = max(self.peak, int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) // 1024)
        except (OSError, AttributeError):
            pass
        return self.peak

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def request(self, method, path, connection=None, body=None, headers=None):
        return ask(connection or self.connect(), method, path, body, headers)

    def post_stream(self, lines):
        connection = self.connect()
        connection.request("POST", f"/tables/{TABLE}", body=pieces(lines), encode_chunked=True,
                           headers={"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def pages(self, table=TABLE):
        connection, path = self.connect(), f"/tables/{table}?limit=10000"
        while True:
            status, page = self.request("GET", path, connection)
            check(status == 200, f"a page: {status} {page if status != 200 else ''}")
            yield from page["records"]
            if not page["has_more"]:
                return
            path = f"/tables/{table}?limit=10000&cursor={page['next_cursor']}"

    def partitions(self):
        return self.request("GET", f"/tables/{TABLE}/partitions")[1]["partitions"]

    def count(self):
        status, table = self.request("GET", f"/tables/{TABLE}/partitions")
        return sum(one["next"] for one in table["partitions"]) if status == 200 else 0


class S3:
    """The small S3 server of the tests; it writes its objects into a directory too."""

    def __init__(self, binary, directory):
        self.command, self.directory = [binary, "127.0.0.1:0", directory], directory
        self.start()

    def start(self):
        """With what is in its directory, on a port of its own: another one at each start."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()
        if not self.endpoint:
            self.stop()
            check(False, "S3 starts")

    def segments(self):
        return sorted(glob.glob(os.path.join(self.directory, "demo", "segments", "**", "*.zst"), recursive=True))

    def stop(self):
        self.process.kill()
        self.process.wait()


def lines_of(path):
    if not path.endswith(".zst"):
        with open(path, "rb") as lines:
            yield from lines
        return
    with subprocess.Popen(["zstd", "-dc", path], stdout=subprocess.PIPE) as zstd:
        try:
            yield from zstd.stdout
        finally:
            zstd.stdout.close()
            zstd.terminate()


def pieces(lines):
    buffer = bytearray()
    for line in lines:
        buffer += line
        if len(buffer) >= PIECE:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def find_data(path, directory):
    beside = glob.glob(os.path.join(HERE, "..", "..", "*", "data", "flights-2013.ndjson.zst"))
    return path or next(iter(beside), None) or make_sample(os.path.join(directory, "sample.ndjson"))


def make_sample(path):
    """30,000 made-up flights of a year, the same at every run."""
    rng = random.Random(2013)
    origins = ["EWR", "JFK", "LGA"]
    with open(path, "w") as out:
        for number in range(30_000):
            partition = rng.randrange(3)
            payload = {"carrier": rng.choice(["UA", "AA", "B6", "DL"]), "flight": number, "origin": origins[partition],
                       "dest": rng.choice(["IAH", "MIA", "ORD", "BOS", "SFO"]), "dep_delay": rng.choice([None, rng.randrange(-10, 90)])}
            record = {"payload": json.dumps(payload), "partition": partition,
                      "timestamp_ms": 1_357_000_000_000 + number * 1_050_000 + rng.randrange(10_000_000), "idempotency_key": f"2013/{number}"}
            out.write(json.dumps(record) + "\n")
    return path


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zombi")
    parser.add_argument("s3")
    parser.add_argument("--data")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    return parser.parse_args()


def report(what, events, started):
    took = time.monotonic() - started
    say(f"{what:9} {events:,} events in {took:.1f} s: {events / took:,.0f}/s")


def check(holds, what):
    if not holds:
        sys.exit(f"NOT SO: {what}")


def say(text):
    print(text, flush=True)


if __name__ == "__main__":
    main()
