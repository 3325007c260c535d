"""Clients that retry, a follower, and what must hold of them afterwards: every acknowledged event is there once,
where its acknowledgement said, and the follower saw each once."""

import collections
import http.client
import json
import threading
import time

from demo import check, say

TABLE, PARTITIONS = "orders", 3
WRITERS = 4
# A pause after each event: the point is what happens to it, not how many there are.
PACE_SECS = 0.05
# A client gives up on one event after this long. A drained node takes MinIO and Zombi at once, and Zombi waits
# for its bucket while it ends.
PATIENCE = 400
AGAIN = {408, 429, 500, 502, 503, 504}


class Connection:
    """To one address, made anew after whatever went wrong."""

    def __init__(self, address, port=8080, headers=None):
        self.address, self.port, self.headers, self.connection = address, port, headers or {}, None

    def ask(self, method, path, body=None, headers=None):
        """Status and JSON, or OSError."""
        try:
            if not self.connection:
                self.connection = http.client.HTTPConnection(self.address, self.port, timeout=15)
            asked = self.headers | (headers or {}) | ({"Content-Type": "application/json"} if body is not None else {})
            self.connection.request(method, path, json.dumps(body) if body is not None else None, asked)
            answer = self.connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.connection.close()
            self.connection = None
            raise OSError(repr(error)) from error


def until_answered(connection, method, path, body=None, stop=None):
    """Tries again what may be tried again; the last answer, and how often it was tried."""
    until, tries, last = time.monotonic() + PATIENCE, 0, (0, "not tried")
    while time.monotonic() < until and not (stop and stop.is_set()):
        tries += 1
        try:
            last = connection.ask(method, path, body)
            if last[0] not in AGAIN:
                return last, tries
        except OSError as error:
            last = (0, str(error))
        time.sleep(0.2)
    return last, tries


class Load:
    def __init__(self, address, headers=None, table=TABLE, writers=WRITERS):
        self.address, self.headers, self.table = address, headers, table
        self.acked, self.seen, self.faults = {}, [], []
        self.retries = self.duplicates = 0
        self.lock, self.stopping, self.reading_ends = threading.Lock(), threading.Event(), threading.Event()
        self.writers = [threading.Thread(target=self.write, args=[number], daemon=True) for number in range(writers)]
        self.follower = threading.Thread(target=self.follow, daemon=True)

    def start(self):
        for thread in [*self.writers, self.follower]:
            thread.start()
        return self

    def connect(self):
        return Connection(self.address, headers=self.headers)

    def write(self, writer):
        connection, number = self.connect(), 0
        while not self.stopping.is_set() and not self.faults:
            key = f"{writer}-{number}"
            event = {"payload": {"writer": writer, "number": number}, "partition": number % PARTITIONS, "idempotency_key": key}
            (status, answer), tries = until_answered(connection, "POST", f"/tables/{self.table}", event)
            with self.lock:
                self.retries += tries - 1
                if status in (200, 201):
                    self.acked[key] = (answer["partition"], answer["offset"])
                    self.duplicates += status == 200
                else:
                    self.faults.append(f"event {key} after {tries} tries: {status} {answer}")
            number += 1
            time.sleep(PACE_SECS)

    def follow(self):
        """Reads by cursor, from the first event to the last, over all that happens meanwhile."""
        connection, cursor = self.connect(), ""
        while not self.reading_ends.is_set():
            # As a client that was there before the table.
            (status, page), _ = until_answered(connection, "GET", f"/tables/{self.table}?limit=1000{cursor}", stop=self.reading_ends)
            if status == 404 and not cursor:
                time.sleep(0.2)
                continue
            if status != 200:
                if not self.reading_ends.is_set():
                    self.faults.append(f"the follower: {status} {page}")
                return
            self.seen += [(one["partition"], one["offset"], one["idempotency_key"]) for one in page["records"]]
            cursor = f"&cursor={page['next_cursor']}"
            time.sleep(0 if page["has_more"] else 0.1)

    def healthy(self):
        check(not self.faults, f"no client is refused for good: {self.faults[:3]}")
        return self

    def goes_on(self, patience=PATIENCE):
        """Until every writer could have had some events acknowledged."""
        goal, until = len(self.acked) + 10 * len(self.writers), time.monotonic() + patience
        while len(self.acked) < goal and time.monotonic() < until:
            self.healthy()
            time.sleep(0.1)
        check(len(self.acked) >= goal, f"clients get on within {patience} s: {len(self.acked)} of {goal} events; {self.faults[:3]}")

    def stop(self):
        self.stopping.set()
        for thread in self.writers:
            thread.join(PATIENCE + 60)
            check(not thread.is_alive(), "every writer ends")
        self.healthy()
        until = time.monotonic() + PATIENCE
        while len(self.seen) < len(self.acked) and time.monotonic() < until:
            self.healthy()
            time.sleep(0.2)
        self.reading_ends.set()
        self.follower.join(60)

    def compare(self, what):
        """Everything is there once, for the follower and for somebody who reads it all now."""
        records = pages(self.connect(), self.table)
        now = [(one["partition"], one["offset"], one["idempotency_key"]) for one in records]
        sent = {key: (*place, key) for key, place in self.acked.items()}
        for who, found in (("a reader", now), ("the follower", self.seen)):
            times = collections.Counter(key for _, _, key in found)
            doubled = sorted(key for key, count in times.items() if count > 1)
            lost = sorted(set(sent) - set(times))
            strange = sorted(set(times) - set(sent))
            moved = sorted(one for one in found if one[2] in sent and sent[one[2]] != one)
            check(not (doubled or lost or strange or moved),
                  f"{what}: {who} finds each of {len(sent)} events once: lost {lost[:5]} ({len(lost)}), doubled {doubled[:5]} "
                  f"({len(doubled)}), never acknowledged {strange[:5]} ({len(strange)}), moved {moved[:5]} ({len(moved)})")
        for partition in range(PARTITIONS):
            offsets = [offset for place, offset, _ in self.seen if place == partition]
            check(offsets == sorted(offsets), f"{what}: the follower sees partition {partition} in order")
        say(f"compared   {what}: {len(sent):,} events, each once and where it was acknowledged, also for the follower; "
            f"{self.retries:,} retries, {self.duplicates:,} answered as duplicates")


def pages(connection, table):
    records, cursor = [], ""
    while True:
        (status, page), _ = until_answered(connection, "GET", f"/tables/{table}?limit=10000{cursor}")
        check(status == 200, f"a page: {status} {page}")
        records += page["records"]
        if not page["has_more"]:
            return records
        cursor = f"&cursor={page['next_cursor']}"
