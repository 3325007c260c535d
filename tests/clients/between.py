"""Proxies in between, configured as docs/clients/proxies.md says: streams come as they are written, and cursors fit."""

import http.client
import json
import time

from demo import check

from had import command, fill, free_port, put, recipe, running

PARTITIONS = 1000


def nginx(world):
    port = free_port()
    around = fill("nginx.conf", world.directory)
    put(world.directory, "zombi.conf", recipe("proxies.md", "nginx"), ("zombi.zombi:8080", f"127.0.0.1:{world.zombi.port}"),
        ("listen 8080", f"listen 127.0.0.1:{port}"))
    with running([command("nginx"), "-c", around, "-p", world.directory], world.directory, port):
        return through(world, port)


def haproxy(world):
    port = free_port()
    config = put(world.directory, "haproxy.cfg", recipe("proxies.md", "haproxy"), ("zombi.zombi:8080", f"127.0.0.1:{world.zombi.port}"),
                 ("bind :8080", f"bind 127.0.0.1:{port}"))
    with running([command("haproxy"), "-db", "-f", config], world.directory, port):
        return through(world, port)


def through(world, port):
    records = [{"payload": number, "partition": number % PARTITIONS, "timestamp_ms": 1_700_000_000_000 + number} for number in range(5000)]
    status, _, body = world.ask("POST", f"/tables/{world.table}/bulk", {"records": records}, port=port)
    check(status == 201, f"a large body goes through: {status} {body[:300]}")
    lengths = pages(world, port, len(records))
    clouds(world, port)
    delay, pings = tail(world, port)
    lines = stream(world, port)
    check(lines == len(records) + 1, f"every line of NDJSON comes through: {lines}")
    return f"cursors of {max(lengths):,} bytes, an event after {delay:.2f} s, {pings} pings, {lines:,} lines"


def pages(world, port, count):
    """The lengths of the cursors of all pages."""
    found, lengths, path = 0, [], f"/tables/{world.table}?limit=700&since=0"
    while True:
        status, _, body = world.ask("GET", path, port=port)
        check(status == 200, f"a page comes through, with a cursor of {lengths[-1:]} bytes: {status} {body[:300]}")
        page = json.loads(body)
        found += page["count"]
        lengths.append(len(page["next_cursor"]))
        path = f"/tables/{world.table}?limit=700&cursor={page['next_cursor']}"
        if not page["has_more"]:
            check(found == count, f"all events come through: {found}")
            return lengths


def clouds(world, port):
    """Two cursors in the head of an answer."""
    status, headers, body = world.ask("GET", f"/tables/{world.table}?limit=700&format=cloudevents", port=port)
    check(status == 200 and headers["Link"] and headers["Zombi-Cursor"], f"CloudEvents come through: {status} {body[:300]}")


def tail(world, port):
    """How long a written event takes, and how many pings come in a quiet half minute."""
    _, _, body = world.ask("GET", f"/tables/{world.table}?last=0&limit=1")
    cursor = json.loads(body)["next_cursor"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": cursor}
    connection.request("GET", f"/tables/{world.table}", headers=headers)
    answer = connection.getresponse()
    check(answer.status == 200, f"a stream comes through: {answer.status}")
    until(answer, b"event: caught-up")
    written = time.monotonic()
    status, _, body = world.ask("POST", f"/tables/{world.table}", {"payload": "live"})
    check(status == 201, f"an event is written: {status} {body}")
    until(answer, b"data: {")
    delay = time.monotonic() - written
    check(delay < 5, f"an event is not kept back: {delay:.1f} s")
    pings, quiet = 0, time.monotonic()
    while time.monotonic() < quiet + 32:
        until(answer, b": ping")
        pings += 1
    connection.close()
    return delay, pings


def until(answer, beginning):
    while True:
        line = answer.readline()
        check(line, f"the stream goes on, up to {beginning}")
        if line.startswith(beginning):
            return


def stream(world, port):
    status, _, body = world.ask("GET", f"/tables/{world.table}?format=ndjson", port=port)
    check(status == 200, f"NDJSON comes through: {status}")
    return sum(1 for line in body.splitlines() if line.strip())
