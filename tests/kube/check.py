#!/usr/bin/env python3
"""Zombi on a real Kubernetes of one node.

    tests/kube/check.py ZOMBI S3 [--only dev|production|cluster]... [--keep]

ZOMBI and S3 are the two binaries (`make kube-check` builds and passes them); Kubernetes is what `make kube-build`
has built. First the development overlay under load: rolling update, deleted pod, drained node, kill -9, SIGSTOP,
a second replica, MinIO's pod, a deleted claim, an emptied bucket; nothing acknowledged may be lost, doubled or
moved. Then the production overlay with the component auth: real ServiceAccount tokens, a right taken away, the
client of deploy/examples, what watches it, drains against the budget. Then the overlay cluster, three pods and three NATS servers, under
load: the owner of a shard and the server that leads its log are deleted and killed, both sets are updated; each event
is there once, every shard owned, every copy in step. Needs Linux, root, and the tools that it names where they are
missing; where it cannot run it says why, and checks nothing.

With --keep the cluster stays until Enter is pressed, also after a failure: WORK/in kubectl get pods -A.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(1, os.path.dirname(HERE))

import images
from cluster import Cluster, hindrance
from demo import say
from development import development
from many_pods import many_pods
from namespace import Clock
from production import production

PARTS = {"dev": development, "production": production, "cluster": many_pods}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("zombi")
    arguments.add_argument("s3")
    arguments.add_argument("--only", choices=PARTS, action="append")
    arguments.add_argument("--keep", action="store_true")
    arguments = arguments.parse_args()
    # What was started ends with this process, but files and control groups are for `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    found = subprocess.run([os.path.join(HERE, "build"), "--find"], capture_output=True, text=True)
    if found.returncode != 0:
        say("kube       SKIPPED: `make kube-build` has not built Kubernetes here yet")
        return
    programs = found.stdout.strip()
    # Where there is no kubectl to render manifests, the one that was built does it.
    os.environ["PATH"] += f":{programs}"
    with open(os.path.join(programs, "lock"), "w") as lock:
        # Two kubelets would take each other's control groups.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("kube       another check has a cluster here: waiting until it ends")
            fcntl.flock(lock, fcntl.LOCK_EX)
        why = hindrance() or images.hindrance()
        if why:
            say(f"kube       SKIPPED: {why}")
            return
        work = tempfile.mkdtemp(prefix="zombi-kube-")
        try:
            on_a_cluster(programs, work, arguments)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def on_a_cluster(programs, work, arguments):
    clock = Clock()
    archives = images.build(os.path.join(work, "images"), arguments.zombi, arguments.s3)
    if not archives:
        say("kube       SKIPPED: there are no images")
        return
    say(f"images     made in {clock}")
    cluster = Cluster(programs, work)
    try:
        cluster.start()
        cluster.load(archives)
        for name, part in PARTS.items():
            if not arguments.only or name in arguments.only:
                clock = Clock()
                part(cluster)
                say(f"{name:10} all of it in {clock}")
        say("all as it should be")
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt) and str(error) != "ended by SIGTERM":
            cluster.tell()
        raise
    finally:
        try:
            if arguments.keep:
                say(f"the cluster stays until Enter is pressed: {work}/in kubectl get pods -A")
                sys.stdin.readline()
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
