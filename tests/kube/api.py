"""The API server, for the parts of the node that are ours: JSON over HTTPS, with the standard library alone."""

import json
import ssl
import time
import urllib.request

# An administrator's, known to this cluster only: see cluster.py.
TOKEN = "admin-token"


class Api:
    def __init__(self, address, authority):
        self.server, self.authority = f"https://{address}:6443", authority

    def get(self, path):
        return self.ask("GET", path)

    def post(self, path, body):
        return self.ask("POST", path, json.dumps(body).encode())

    def ask(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.server + path, body, headers, method=method)
        trust = ssl.create_default_context(cafile=self.authority)
        with urllib.request.urlopen(request, context=trust, timeout=10) as answer:
            return json.load(answer)


def each_second(act):
    """For ever; what goes wrong is said and tried again."""
    while True:
        try:
            act()
        except Exception as error:
            print(time.strftime("%T"), repr(error), flush=True)
        time.sleep(1)
