"""Makes a volume for each claim that waits for one: an ext4 of the size that it asks for, in a sparse file on a
loop device. A folder of the node's would not do: the kubelet gives a `local` volume to the pod's group, and a
hostPath to nobody.

    volumes.py ADDRESS AUTHORITY DIRECTORY
"""

import os
import subprocess
import sys
import time

from api import Api, each_second

CLASS = "standard"
CHOSEN = "volume.kubernetes.io/selected-node"
PROVISIONER = "zombi.example.com/loop"
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


class Volumes:
    def __init__(self, api, directory):
        self.api, self.directory, self.made = api, directory, set()

    def look(self):
        for claim in self.api.get("/api/v1/persistentvolumeclaims")["items"]:
            node = claim["metadata"].get("annotations", {}).get(CHOSEN)
            waits = node and claim["spec"].get("storageClassName") == CLASS and not claim["spec"].get("volumeName")
            if waits and claim["metadata"]["uid"] not in self.made:
                self.make(claim, node)
                self.made.add(claim["metadata"]["uid"])

    def make(self, claim, node):
        named = claim["metadata"]
        path = os.path.join(self.directory, named["uid"])
        size = claim["spec"]["resources"]["requests"]["storage"]
        os.makedirs(path, exist_ok=True)
        if not os.path.ismount(path):
            with open(path + ".img", "wb") as file:
                file.truncate(bytes_of(size))
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=16", path + ".img"], check=True)
            # The kernel would write tables that nobody needs in the background.
            subprocess.run(["mount", "-o", "loop,noinit_itable", path + ".img", path], check=True)
        self.api.post("/api/v1/persistentvolumes", volume(claim, size, path, node))
        print(f"{time.strftime('%T')} {size} at {path} for {named['namespace']}/{named['name']}", flush=True)


def volume(claim, size, path, node):
    named = claim["metadata"]
    on_this_node = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{named['uid']}", "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "local": {"path": path},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                         "namespace": named["namespace"], "name": named["name"], "uid": named["uid"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [on_this_node]}},
        },
    }


def bytes_of(size):
    unit = UNITS.get(size[-2:])
    return int(size[:-2]) * unit if unit else int(size)


def main():
    address, authority, directory = sys.argv[1:]
    each_second(Volumes(Api(address, authority), directory).look)


if __name__ == "__main__":
    main()
