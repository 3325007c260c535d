#!/usr/bin/env python3
"""Follows a table, works on each event, and goes on where it stood after any break: see README.md.

    consumer.py URL TABLE RESULTS GROUP [COUNT]
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

URL, TABLE, RESULTS, GROUP = sys.argv[1:5]
PLACE = f"{GROUP}.place"


def post(path, body, fine=(), **headers):
    """Sends until there is an answer. With an idempotency key that stores it once."""
    headers = {"Content-Type": "application/json"} | headers
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(URL + path, json.dumps(body).encode(), headers), timeout=30).close()
            return
        except urllib.error.HTTPError as error:
            if error.code in fine:
                return
            if error.code < 500 and error.code not in (408, 429):
                raise SystemExit(error.read().decode()) from error
            time.sleep(float(error.headers.get("Retry-After", 1)))
        except OSError:
            time.sleep(0.5)


def work(event):
    key = f'"{TABLE}/{event["partition"]}/{event["offset"]}"'
    post(f"/tables/{RESULTS}", {"payload": {"worked_on": event["payload"]}}, **{"Idempotency-Key": key})


def events(cursor):
    """Each event with the cursor behind it; None for a ping or the end, which have a cursor too."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor else {})
    with urllib.request.urlopen(urllib.request.Request(f"{URL}/tables/{TABLE}", headers=headers), timeout=60) as stream:
        fields = {}
        for line in stream:
            name, colon, value = line.decode().rstrip("\r\n").partition(":")
            if name or colon:  # without a name it is a comment
                fields[name] = value.strip()
                continue
            cursor = fields.get("id", cursor)
            is_event = "data" in fields and "event" not in fields
            yield cursor, json.loads(fields["data"]) if is_event else None
            fields = {}


def main():
    left = int(sys.argv[5]) if len(sys.argv) > 5 else None
    cursor = open(PLACE).read() if os.path.exists(PLACE) else None
    while left != 0:
        try:
            for cursor, event in events(cursor):
                if event:
                    work(event)
                    commit = {"table": TABLE, "partition": event["partition"], "offset": event["offset"] + 1}
                    post(f"/consumers/{GROUP}/commit", commit, fine=(409,))
                    left = left and left - 1
                if cursor:
                    with open(PLACE + ".new", "w") as place:
                        place.write(cursor)
                    os.replace(PLACE + ".new", PLACE)
                if left == 0:
                    return
        except urllib.error.HTTPError as error:
            if error.code == 410:
                cursor = json.load(error)["next_cursor"]  # what was expired is gone: go on behind it
            elif error.code < 500 and error.code not in (404, 408, 429):
                raise SystemExit(error.read().decode()) from error
            time.sleep(0.5)
        except OSError:
            time.sleep(0.5)


if __name__ == "__main__":
    main()
