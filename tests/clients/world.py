"""What each client is tried with: a server, a table of its own, and a place for its files."""

import http.client
import json
import time

from demo import check


class World:
    def __init__(self, zombi, s3, directory, table):
        self.zombi, self.s3, self.directory, self.table = zombi, s3, directory, table

    @property
    def url(self):
        return f"http://127.0.0.1:{self.zombi.port}"

    def in_place_of(self, table, host="zombi.zombi:8080"):
        """The change to a recipe that puts this client's own table in place of the page's."""
        return f"http://{host}/tables/{table}", f"{self.url}/tables/{self.table}"

    def ask(self, method, path, body=None, headers=None, port=None):
        """A request; its status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.zombi.port, timeout=120)
        body = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def records(self, table=None, query=""):
        """All records of a table, as JSON; none if it is not there."""
        found, path = [], f"/tables/{table or self.table}?limit=10000{query}"
        while True:
            status, _, body = self.ask("GET", path)
            if status == 404:
                return found
            check(status == 200, f"{path} is read: {status} {body}")
            page = json.loads(body)
            found += page["records"]
            if not page["has_more"]:
                return found
            path = f"/tables/{table or self.table}?limit=10000&cursor={page['next_cursor']}"

    def cloud_events(self, table=None):
        """All events of a table as CloudEvents, as their own readers get them."""
        found, path = [], f"/tables/{table or self.table}?limit=1000&format=cloudevents"
        while path:
            status, headers, body = self.ask("GET", path)
            check(status == 200, f"{path} is read: {status} {body}")
            found += json.loads(body)
            link = headers.get("Link")
            path = link and f"/tables/{table or self.table}" + link[1:link.index(">")]
        return found

    def until(self, what, holds, secs=120):
        """Waits for what others do."""
        until = time.monotonic() + secs
        while True:
            found = holds()
            if found:
                return found
            if time.monotonic() > until:
                check(False, f"{what}, after {secs} s: {len(self.records())} records")
            time.sleep(0.2)

    def write(self, count, table=None, **more):
        """Events of these numbers, spread over all partitions by their keys."""
        lines = "".join(
            json.dumps({"payload": {"number": number}, "key": f"key-{number % 97}", "idempotency_key": str(number),
                        "timestamp_ms": 1_700_000_000_000 + number} | more) + "\n"
            for number in range(count))
        status, _, body = self.ask("POST", f"/tables/{table or self.table}", lines, {"Content-Type": "application/x-ndjson"})
        check(status == 201 and json.loads(body)["count"] == count, f"{count} events are written: {status} {body}")
