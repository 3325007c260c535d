"""The cluster's DNS: A records of Services, and of the pods behind headless ones.

    dns.py ADDRESS AUTHORITY
"""

import socket
import struct
import sys
import threading

from api import Api, each_second

DOMAIN = "svc.cluster.local"
TYPE_A, HEADER = 1, 12
ANSWER, NO_SUCH_NAME = 0x8580, 0x8583
TTL_SECS = 5


class Names:
    def __init__(self, api):
        self.api, self.found = api, {}

    def look(self):
        found, headless = {}, set()
        for service in self.api.get("/api/v1/services")["items"]:
            name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.{DOMAIN}"
            address = service["spec"].get("clusterIP")
            if address == "None":
                headless.add(name)
            elif address:
                found[name] = [address]
        for piece in self.api.get("/apis/discovery.k8s.io/v1/endpointslices")["items"]:
            service = piece["metadata"].get("labels", {}).get("kubernetes.io/service-name")
            name = f"{service}.{piece['metadata']['namespace']}.{DOMAIN}"
            for endpoint in piece.get("endpoints") or []:
                if endpoint.get("conditions", {}).get("ready") is False:
                    continue
                if name in headless:
                    found.setdefault(name, []).extend(endpoint["addresses"])
                if endpoint.get("hostname"):
                    found[f"{endpoint['hostname']}.{name}"] = endpoint["addresses"]
        self.found = found


def answer(query, names):
    end, labels = HEADER, []
    while query[end]:
        labels.append(query[end + 1:end + 1 + query[end]].decode())
        end += 1 + query[end]
    [kind] = struct.unpack(">H", query[end + 1:end + 3])
    addresses = names.get(".".join(labels).lower())
    shown = addresses if addresses and kind == TYPE_A else []
    flags = NO_SUCH_NAME if addresses is None else ANSWER
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", TYPE_A, 1, TTL_SECS, 4) + socket.inet_aton(one) for one in shown)
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(shown), 0, 0) + query[HEADER:end + 5] + records


def main():
    address, authority = sys.argv[1:]
    names = Names(Api(address, authority))
    threading.Thread(target=each_second, args=[names.look], daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            query, peer = server.recvfrom(4096)
            try:
                server.sendto(answer(query, names.found), peer)
            except (IndexError, ValueError, struct.error) as error:
                print(f"{peer}: {error!r}: {query[:64]!r}", flush=True)


if __name__ == "__main__":
    main()
