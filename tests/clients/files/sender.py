"""Sends events with the SDK of PyPI, in both modes: sender.py URL EVENTS"""

import json
import sys
import urllib.request

from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent


def send(message):
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    request = urllib.request.Request(sys.argv[1], body, dict(message.headers), method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 204, answer.status
        assert answer.read() == b"", "no body"


def as_time(event):
    from datetime import datetime
    if "time" in event:
        event["time"] = datetime.fromisoformat(event["time"].replace("Z", "+00:00"))
    return event


with open(sys.argv[2]) as file:
    for event in json.load(file):
        data = event.pop("data")
        event = CloudEvent(attributes=as_time(event), data=data)
        send(http.to_binary(event, JSONFormat()))
        send(http.to_structured(event, JSONFormat()))
