"""What the checks do in one namespace: ask kubectl, wait for pods, and know how each of their lives ended."""

import json
import os
import subprocess
import time
import urllib.request

from cluster import NODE, PATIENCE
from demo import check, say
from load import Connection
from manifests import POD_SECURITY

# Of the base, in every overlay.
POD, SET, CLAIM = "zombi-0", "statefulset/zombi", "data-zombi-0"


class Namespace:
    def __init__(self, cluster, name):
        self.cluster, self.name, self.watcher = cluster, name, None

    def make(self):
        """As the production overlay's own file says, and with warnings beside."""
        label = "=".join(*POD_SECURITY.items())
        self.cluster.kubectl("create", "namespace", self.name)
        self.cluster.kubectl("label", "namespace", self.name, label, label.replace("enforce", "warn"))

    def kubectl(self, *arguments, ok=True, text=None):
        return self.cluster.kubectl("-n", self.name, *arguments, ok=ok, text=text)

    def rolled_out(self, what):
        """Waits until every pod of it is the newest, and ready."""
        self.kubectl("rollout", "status", what, "--timeout=300s")

    def get(self, *what):
        """An object, or nothing where there is none."""
        found = self.kubectl("get", *what, "--ignore-not-found", "-o", "json").stdout
        return json.loads(found) if found.strip() else None

    def wait(self, what, holds, patience=PATIENCE):
        return self.cluster.wait(f"{self.name}: {what}", holds, patience)

    # ---- how pods end

    def watch(self):
        """Writes down every state of every pod: what the kubelet says of a deleted one is gone a moment later."""
        path = self.cluster.path("log", f"pods-{self.name}.json")
        with open(path, "wb") as file, open(self.cluster.path("log", f"watch-{self.name}.log"), "ab") as log:
            command = [self.cluster.program("kubectl"), "-n", self.name, "get", "pods", "-o", "json", "--watch", "--output-watch-events"]
            self.watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=log, env=self.cluster.environment())
        return self

    def unwatch(self):
        if self.watcher:
            self.watcher.kill()
            self.watcher.wait()

    def states(self):
        with open(self.cluster.path("log", f"pods-{self.name}.json"), errors="replace") as file:
            text = file.read()
        decoder, at = json.JSONDecoder(), 0
        while True:
            at = text.find("{", at)
            if at < 0:
                return
            try:
                event, at = decoder.raw_decode(text, at)
            except ValueError:
                return  # not yet written to its end
            if event.get("type") in ("ADDED", "MODIFIED", "DELETED"):
                yield event["object"]

    def ending(self, uid, patience=60):
        """How the last container of a pod that is gone ended: `exitCode`, `reason`, `finishedAt`."""
        def last():
            ended = None
            for pod in self.states():
                if pod["metadata"]["uid"] == uid:
                    for status in pod["status"].get("containerStatuses") or []:
                        ended = status["state"].get("terminated") or ended
            return ended

        return self.wait(f"pod {uid} is seen to end", last, patience)

    def ended_well(self, uid, what):
        """SIGTERM, and then by itself: whoever outlives the grace ends with 137."""
        ended = self.ending(uid)
        check(ended["exitCode"] == 0, f"{what}: the pod ends with 0 within its grace: {ended}")

    # ---- Zombi

    def pod(self, name=POD):
        return self.get("pod", name)

    def uid(self, name=POD):
        return (self.pod(name) or {}).get("metadata", {}).get("uid")

    def restarts(self, name=POD):
        statuses = (self.pod(name) or {}).get("status", {}).get("containerStatuses")
        return statuses[0]["restartCount"] if statuses else None

    def is_ready(self, name=POD):
        pod = self.pod(name)
        if not pod or "deletionTimestamp" in pod["metadata"]:
            return False
        return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))

    def ready(self, name=POD, other_than=None, restarts=None, patience=PATIENCE):
        """Until the pod is ready: another one than that, or after that many restarts."""
        def holds():
            pod = self.pod(name)
            is_due = pod and pod["metadata"]["uid"] != other_than
            return is_due and self.is_ready(name) and (restarts is None or self.restarts(name) >= restarts)

        self.wait(f"{name} is ready", holds, patience)

    def service(self, name="zombi"):
        return self.get("service", name)["spec"]["clusterIP"]

    def address(self, name=POD):
        return self.wait("the pod has an address", lambda: (self.pod(name) or {}).get("status", {}).get("podIP"))

    def admin(self, name=POD):
        """Its admin port, by the pod's address, as the kubelet asks it."""
        return Connection(self.address(name), 9090)

    def metrics(self, name=POD):
        """By name, those without labels."""
        address = self.address(name)
        with urllib.request.urlopen(f"http://{address}:9090/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#") and "{" not in line]
        return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2}

    def logs(self, name=POD, *more):
        return self.kubectl("logs", name, *more, ok=False).stdout

    def container(self, name=POD):
        """What containerd calls the pod's container."""
        return self.pod(name)["status"]["containerStatuses"][0]["containerID"].split("//")[1]

    def process(self, container):
        """The container's process, as a number on the node; nothing once it has ended."""
        tasks = self.cluster.node_runs("ctr", "-n", "k8s.io", "task", "ls")
        check(tasks.returncode == 0, f"containerd says what runs: {tasks.stdout}{tasks.stderr}")
        found = [line.split() for line in tasks.stdout.splitlines() if line.startswith(container)]
        return next((number for _, number, state in found if state != "STOPPED"), None)

    def signal(self, signal, name=POD):
        """To the process itself, past the kubelet."""
        number = self.process(self.container(name))
        check(number, f"containerd knows the process of {name}")
        sent = self.cluster.node_runs("sh", "-c", f"kill -{signal} {number}")
        check(sent.returncode == 0, f"it is sent a {signal}: {sent.stderr}")

    def scale(self, what, replicas):
        self.kubectl("scale", what, f"--replicas={replicas}")

    def gone(self, *what, patience=PATIENCE):
        self.wait(f"{' '.join(what)} is gone", lambda: self.get(*what) is None, patience)

    # ---- the node

    def drain(self, *more):
        self.cluster.kubectl("drain", NODE, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={PATIENCE}s", *more)

    def uncordon(self):
        self.cluster.kubectl("uncordon", NODE)

    # ---- manifests

    def apply(self, folder):
        """Every line of the answer; nothing may be warned of."""
        done = self.cluster.kubectl("apply", "-k", folder)
        check("Warning" not in done.stderr, f"{folder} is applied without a warning: {done.stderr}")
        return done.stdout.splitlines()

    def changes_nothing(self, folder):
        """Applied again, with everything as it was."""
        before = self.uid(), self.restarts()
        again = self.apply(folder)
        differences = self.cluster.kubectl("diff", "-k", folder, ok=False)
        check(differences.returncode == 0, f"{os.path.basename(folder)} applied twice is as once: {differences.stdout}{differences.stderr}")
        time.sleep(5)
        after = self.uid(), self.restarts()
        check(before == after and self.is_ready(), f"and the pod goes on: {before}, {after}")
        say(f"again      {len(again)} objects of {os.path.basename(folder)} applied a second time: no difference, the same pod")


class Clock:
    """How long a step takes, by the wall."""

    def __init__(self):
        self.began = time.monotonic()

    def __str__(self):
        return f"{self.secs():.0f} s"

    def secs(self):
        return time.monotonic() - self.began
