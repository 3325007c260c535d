#!/usr/bin/env python3
"""Counts what a request costs, in instructions of user space: the same twice, whatever else the machine does.

Usage: cost.py ZOMBI BENCH S3 [--only NAME]... [--keep DIR] [--counts FILE [--slack PERCENT] [--write]]

Each case runs under `valgrind --tool=callgrind`: some requests to warm up, then the counters are set to zero, then
the requests that count. `--keep` leaves the profiles, for callgrind_annotate. `--counts` names the counts as they
were: more than those, and the slack for what runs beside the requests, is a mistake. `--write` writes them anew.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

CONNECTIONS = 32
EVENT = {
    "payload": {
        "carrier": "UA", "flight": 1545, "tailnum": "N14228", "origin": "EWR", "dest": "IAH", "year": 2013,
        "month": 1, "day": 1, "sched_dep_time": 515, "dep_time": 517, "dep_delay": 2, "sched_arr_time": 819,
        "arr_time": 830, "arr_delay": 11, "air_time": 227, "distance": 1400, "hour": 5, "minute": 15,
    },
    "timestamp_ms": 1357034400000,
}
WAIT = 120


class Connection:
    """One HTTP/1.1 connection; answers are read by content-length or in chunks."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, method, path, body=b"", headers=()):
        head = f"{method} {path} HTTP/1.1\r\nhost: zombi\r\n"
        if method in ("POST", "PUT"):
            head += f"content-length: {len(body)}\r\n"
        for name, value in headers:
            head += f"{name}: {value}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + body)

    def more(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the server closed the connection")
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.more()
        part, self.buffer = self.buffer.split(mark, 1)
        return part

    def head(self):
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), headers

    def exactly(self, count):
        while len(self.buffer) < count:
            self.more()
        part, self.buffer = self.buffer[:count], self.buffer[count:]
        return part

    def answer(self):
        status, headers = self.head()
        if "content-length" in headers:
            return status, self.exactly(int(headers["content-length"]))
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                self.exactly(2)
            self.exactly(2)
        return status, body

    def ask(self, *request, expect=range(200, 300)):
        self.send(*request)
        status, body = self.answer()
        assert status in expect, (status, body[:500])
        return body


class Counted:
    """A program under callgrind; run by itself if it does not count."""

    def __init__(self, name, command, place, env=None, is_counted=True):
        self.out = place / f"callgrind.{name}"
        self.log = open(place / f"{name}.log", "wb")
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.out}", "--collect-systime=no"]
        self.process = subprocess.Popen(
            (tool if is_counted else []) + command, stdout=subprocess.PIPE, stderr=self.log,
            env={**os.environ, **(env or {})})
        self.dumps = 0

    def first_line(self):
        return self.process.stdout.readline().decode().strip()

    def control(self, *what):
        subprocess.run(["callgrind_control", *what, str(self.process.pid)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=WAIT)

    def zero(self):
        self.control("--zero")

    def total(self):
        """The instructions since the counters were set to zero."""
        self.control("--dump")
        self.dumps += 1
        path = pathlib.Path(f"{self.out}.{self.dumps}")
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if path.exists():
                found = re.findall(r"^(?:totals|summary): (\d+)", path.read_text(errors="replace"), re.M)
                if found:
                    return int(found[-1])
            time.sleep(0.1)
        raise TimeoutError(f"{path} has no total")

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Bare(Counted):
    def __init__(self, bench, floor, place):
        super().__init__(floor, [bench, "--bare", floor], place)
        host, port = self.first_line().rsplit(":", 1)
        self.address = (host, int(port))


class S3:
    def __init__(self, binary):
        self.process = subprocess.Popen([binary, "127.0.0.1:0"], stdout=subprocess.PIPE)
        self.endpoint = self.process.stdout.readline().decode().strip()

    def stop(self):
        self.process.kill()
        self.process.wait()


class Zombi(Counted):
    def __init__(self, binary, place, name="zombi", s3=None, settings=(), is_counted=True):
        values = {"data_dir": str(place / f"{name}-data"), "host": "127.0.0.1", "port": "0", "admin_port": "0",
                  "log.format": "json", "compaction.interval_secs": "3600", **dict(settings)}
        env = {}
        if s3:
            values |= {"s3.bucket": "events", "s3.endpoint": s3.endpoint, "s3.create_bucket": "true"}
            env = {"AWS_ACCESS_KEY_ID": "zombi", "AWS_SECRET_ACCESS_KEY": "zombi-secret"}
        flags = [flag for key, value in values.items() for flag in ("--set", f"{key}={value}")]
        super().__init__(name, [binary, "serve", *flags], place, env, is_counted)
        try:
            self.address, self.admin = self.port("main"), self.port("admin")
            self.ready()
        except Exception:
            self.stop()
            raise

    def port(self, name):
        until = time.monotonic() + WAIT
        pattern = re.compile(r'"address":"([^"]+)"[^\n]*' + f"listening on the {name} port|listening on the {name}"
                             + r' port[^\n]*"address":"([^"]+)"')
        while time.monotonic() < until:
            if found := pattern.search(pathlib.Path(self.log.name).read_text(errors="replace")):
                host, port = (found[1] or found[2]).rsplit(":", 1)
                return host, int(port)
            time.sleep(0.1)
        raise TimeoutError(f"no {name} port")

    def ready(self):
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            connection = Connection(self.admin)
            connection.send("GET", "/readyz")
            if connection.answer()[0] == 200:
                return
            time.sleep(0.2)
        raise TimeoutError("not ready")


class Asking(Zombi):
    """A Zombi that asks callers who they are, and a token that may append."""

    def __init__(self, binary, place, name):
        made = subprocess.run([binary, "token", "new", "bench"], check=True, capture_output=True, text=True).stdout
        self.token, line = made.splitlines()
        tokens, policy = place / f"{name}-tokens.yaml", place / f"{name}-policy.json"
        tokens.write_text(f"version: 1\ntokens:\n{line}\n")
        binding = {"subjects": ["token:bench"], "role": "producer", "tables": ["flights"]}
        policy.write_text(json.dumps({"version": 1, "bindings": [binding]}))
        super().__init__(binary, place, name, settings={
            "auth.mode": "required", "auth.tokens_file": tokens.absolute(), "auth.policy_file": policy.absolute(),
        }.items())


class PodPair:
    """Two pods over one bucket. One counts: the one that is asked, or the one that owns the table."""

    def __init__(self, start, options, place, name, s3, counts):
        addresses = [("127.0.0.1", port) for port in free_ports(2)]
        listed = ",".join(f"{host}:{port}" for host, port in addresses)
        pods = []
        for number, (_, port) in enumerate(addresses):
            settings = {"port": port, "pod": f"zombi-{number}", "cluster.pods": 2, "cluster.shards": 2,
                        "cluster.copies": 1, "cluster.address": listed, "flush.interval_secs": "3600"}
            pods.append(start(Zombi(options.zombi, place, f"{name}-{number}", s3, settings.items(), number == counts)))
        self.address, self.zero, self.total = pods[0].address, pods[counts].zero, pods[counts].total
        self.table = next(table for table in map("table-{}".format, range(99)) if self.owner(table) == "zombi-1")

    def owner(self, table):
        connection = Connection(self.address)
        connection.send("POST", f"/tables/{table}", ONE, [JSON])
        status, headers = connection.head()
        assert status == 201, status
        return headers["zombi-owner"]


def rounds(server, count, *request, expect=range(200, 300), warm=5):
    """Sends a request on each connection, then reads all answers, again and again; instructions a request."""
    connections = [Connection(server.address) for _ in range(CONNECTIONS)]

    def turn():
        for connection in connections:
            connection.send(*request)
        for connection in connections:
            status, body = connection.answer()
            assert status in expect, (status, body[:500])

    for _ in range(warm):
        turn()
    server.zero()
    for _ in range(count):
        turn()
    return server.total() / (count * CONNECTIONS)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def lines(count, start=0):
    return b"".join(json.dumps({**EVENT, "timestamp_ms": EVENT["timestamp_ms"] + start + n},
                               separators=(",", ":")).encode() + b"\n" for n in range(count))


NDJSON = ("content-type", "application/x-ndjson")
JSON = ("content-type", "application/json")
ONE = json.dumps(EVENT, separators=(",", ":")).encode()


def append(z):
    return rounds(z, 20, "POST", "/tables/flights", ONE, [JSON])


def append_to_other(pods):
    return rounds(pods, 20, "POST", f"/tables/{pods.table}", ONE, [JSON])


def append_with_token(z):
    return rounds(z, 20, "POST", "/tables/flights", ONE, [JSON, ("authorization", f"Bearer {z.token}")])


def refused(z):
    bad = json.dumps({**EVENT, "timestamp_ms": "yesterday"}, separators=(",", ":")).encode()
    return rounds(z, 20, "POST", "/tables/flights", bad, [JSON], expect=range(400, 500))


def ndjson_in(z):
    connection, count = Connection(z.address), 3000
    connection.ask("POST", "/tables/stream", lines(500), [NDJSON])
    z.zero()
    connection.ask("POST", "/tables/stream", lines(count), [NDJSON])
    return z.total() / count


def ndjson_out(z):
    connection, count = Connection(z.address), 3000
    connection.ask("POST", "/tables/out", lines(count), [NDJSON])
    read = ("GET", f"/tables/out?limit={count}", b"", [("accept", "application/x-ndjson")])
    connection.ask(*read)
    z.zero()
    body = connection.ask(*read)
    assert body.count(b"\n") >= count, body[-300:]
    return z.total() / count


def bulk(z):
    body = json.dumps({"records": [EVENT] * 100}, separators=(",", ":")).encode()
    connection, turns = Connection(z.address), 20
    for _ in range(3):
        connection.ask("POST", "/tables/bulk-in/bulk", body, [JSON])
    z.zero()
    for _ in range(turns):
        connection.ask("POST", "/tables/bulk-in/bulk", body, [JSON])
    return z.total() / (turns * 100)


def page(z):
    connection, turns = Connection(z.address), 5
    connection.ask("POST", "/tables/paged", lines(1000), [NDJSON])
    for _ in range(2):
        connection.ask("GET", "/tables/paged?limit=1000")
    z.zero()
    for _ in range(turns):
        connection.ask("GET", "/tables/paged?limit=1000")
    return z.total() / (turns * 1000)


def sse(z):
    """An event that a tail waits for: its append is taken off."""
    tail, writer, count = Connection(z.address), Connection(z.address), 200
    writer.ask("POST", "/tables/tailed", ONE, [JSON])
    tail.send("GET", "/tables/tailed", b"", [("accept", "text/event-stream")])
    tail.head()
    tail.until(b"data: {}")  # it has caught up
    for _ in range(5):
        writer.ask("POST", "/tables/tailed", ONE, [JSON])
        tail.until(b"data: ")
    z.zero()
    for _ in range(count):
        writer.ask("POST", "/tables/tailed", ONE, [JSON])
        tail.until(b"data: ")
    both = z.total() / count
    for _ in range(5):
        writer.ask("POST", "/tables/alone", ONE, [JSON])
    z.zero()
    for _ in range(count):
        writer.ask("POST", "/tables/alone", ONE, [JSON])
    return both - z.total() / count


def long_poll(z):
    """A poll that waits and is woken by an append, which is taken off."""
    poll, writer, count = Connection(z.address), Connection(z.address), 100
    offset = json.loads(writer.ask("POST", "/tables/polled", ONE, [JSON]))["offset"]

    def turn(offset):
        poll.send("GET", f"/tables/polled?partition=0&offset={offset + 1}&wait=30s")
        time.sleep(0.02)
        offset = json.loads(writer.ask("POST", "/tables/polled", ONE, [JSON]))["offset"]
        status, body = poll.answer()
        assert status == 200 and json.loads(body)["records"], body
        return offset

    for _ in range(5):
        offset = turn(offset)
    z.zero()
    for _ in range(count):
        offset = turn(offset)
    both = z.total() / count
    z.zero()
    for _ in range(count):
        writer.ask("POST", "/tables/alone", ONE, [JSON])
    return both - z.total() / count


def flush(z):
    connection, count = Connection(z.address), 5000
    connection.ask("POST", "/tables/first", lines(100), [NDJSON])
    admin = Connection(z.admin)
    admin.ask("POST", "/flush")
    connection.ask("POST", "/tables/flushed", lines(count), [NDJSON])
    z.zero()
    admin.ask("POST", "/flush")
    return z.total() / count


CASES = {
    "hyper": ("hyper alone, a request", "hyper"),
    "axum": ("axum alone, a request", "axum"),
    "around": ("axum with what must stand around it, a request", "around"),
    "refused": ("refused append", refused),
    "append": ("durable append", append),
    "with_token": ("append with a token that is known", append_with_token),
    "passed_on": ("append, by the pod that passes it on", append_to_other),
    "passed_in": ("append, by the owner that it is passed on to", append_to_other),
    "ndjson_in": ("NDJSON in, an event", ndjson_in),
    "ndjson_out": ("NDJSON out, an event", ndjson_out),
    "bulk": ("bulk of 100, an event", bulk),
    "page": ("JSON page of 1,000, a record", page),
    "sse": ("SSE, an event", sse),
    "long_poll": ("long poll that is woken", long_poll),
    "flush": ("flush, an event", flush),
}
FLUSHED = {"flush": {"flush.interval_secs": "3600"}}
# Which of two pods counts: the one that is asked, or the other.
COUNTED = {"passed_on": 0, "passed_in": 1}


def run(name, options, place):
    case = CASES[name][1]
    with ExitStack() as stack:
        def start(server):
            stack.callback(server.stop)
            return server

        if isinstance(case, str):
            return append(start(Bare(options.bench, case, place)))
        s3 = start(S3(options.s3)) if name in FLUSHED or name in COUNTED else None
        if name == "with_token":
            return case(start(Asking(options.zombi, place, name)))
        if name in COUNTED:
            return case(PodPair(start, options, place, name, s3, COUNTED[name]))
        return case(start(Zombi(options.zombi, place, name, s3, FLUSHED.get(name, {}).items())))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("zombi")
    parser.add_argument("bench")
    parser.add_argument("s3")
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--keep")
    parser.add_argument("--counts", type=pathlib.Path)
    parser.add_argument("--slack", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not installed")
    place = pathlib.Path(options.keep or tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.counts.read_text()) if options.counts and options.counts.exists() else {}
    over = []
    try:
        for name in options.only or CASES:
            count = run(name, options, place)
            was = f"{count / known[name]:8.2f} of what it was" if name in known else ""
            print(f"{CASES[name][0]:50} {count:10,.0f}{was}", flush=True)
            if count * 100 > known.get(name, count) * (100 + options.slack):
                over.append(CASES[name][0])
            if options.write:
                known[name] = round(count)
    finally:
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    if options.write:
        options.counts.write_text(json.dumps(known, indent=1) + "\n")
    elif over:
        sys.exit(f"costs over {options.slack} % more than in {options.counts}: {', '.join(over)}")


if __name__ == "__main__":
    main()
