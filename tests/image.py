#!/usr/bin/env python3
"""Builds the image's last stage around a binary and runs it as Kubernetes would.

    tests/image.py ZOMBI S3

ZOMBI and S3 are the two binaries (`make image-check` builds and passes them). buildah makes the image on a Debian made by
debootstrap; podman runs it read-only, without capabilities and with little memory; `podman kube play` runs the pod that
`kubectl kustomize deploy/overlays/dev` renders: events are written, the pod is stopped, made again on the same volume, and
the events are read. Containers use the host's network and ports that are free. Needs root, Linux and those tools (Debian's
buildah, podman, runc and debootstrap); without them it says so and checks nothing.
"""

import argparse
import base64
import http.client
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time

import yaml

from demo import S3, ask, check, say
from manifests import DEPLOY, ROOT, kustomize

TOOLS = ["buildah", "podman", "runc", "debootstrap", "kubectl", "strip", "readelf"]
BASE, IMAGE = "localhost/debian:trixie-slim", "localhost/zombi:dev"
# What distroless/cc-debian13 brings, the base of the image that is shipped.
PROVIDED = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
MEMORY = 256 << 20
PATIENCE = 300


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("zombi")
    arguments.add_argument("s3")
    arguments = arguments.parse_args()
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if os.geteuid() != 0 or missing:
        say(f"image     SKIPPED: this needs root{' and ' + ', '.join(missing) if missing else ''}")
        return
    libraries(arguments.zombi)
    with tempfile.TemporaryDirectory(prefix="zombi-image-") as directory:
        # The container's user has to get to its files below.
        os.chmod(directory, 0o711)
        containers = Containers(directory)
        s3 = S3(arguments.s3, os.path.join(directory, "bucket"))
        try:
            if build(containers, arguments.zombi, directory):
                alone(containers)
                pod(containers, s3.endpoint, directory)
        finally:
            s3.stop()
            containers.remove()


def libraries(zombi):
    dynamic = subprocess.run(["readelf", "-d", zombi], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    check(needed <= PROVIDED, f"the runtime image has every library: {needed - PROVIDED}")
    say(f"binary    needs {', '.join(sorted(needed))}: all in the runtime image")


def build(containers, zombi, directory):
    """Whether there is an image; where no Debian can be had, there is none."""
    base = debian()
    if not base:
        return False
    containers.run("podman", "import", base, BASE)
    os.makedirs(os.path.join(directory, "builder", "out", "data"))
    subprocess.run(["strip", "-o", os.path.join(directory, "builder", "out", "zombi"), zombi], check=True)
    containers.run("buildah", "bud", "--isolation", "chroot", "--build-context", f"builder={directory}/builder",
                   "--build-arg", f"RUNTIME={BASE}", "--build-arg", "VERSION=test", "--build-arg", "REVISION=abc123", "-t", IMAGE, ROOT)
    image = json.loads(containers.run("podman", "inspect", IMAGE))[0]
    check(image["User"] == "65532:65532", f"the image's user is not root: {image['User']}")
    said = {name: image["Labels"][f"org.opencontainers.image.{name}"] for name in ("version", "revision", "licenses")}
    check(said == {"version": "test", "revision": "abc123", "licenses": "Apache-2.0"}, f"the image says what it is: {said}")
    # Docker gives a new volume the owner of the folder that it is mounted on; podman would give it to the user in any case.
    root = containers.run("podman", "image", "mount", IMAGE).strip()
    for name in ("LICENSE", "NOTICE"):
        check(same(os.path.join(root, "usr", "share", "doc", "zombi", name), os.path.join(ROOT, name)), f"the image has {name}")
    folder = os.path.join(root, "var", "lib", "zombi")
    check(os.path.isdir(folder), "the image has the folder that a volume is mounted on")
    data = os.stat(folder)
    containers.run("podman", "image", "unmount", IMAGE)
    owner, mode = (data.st_uid, data.st_gid), stat.S_IMODE(data.st_mode)
    check((owner, mode) == ((65532, 65532), 0o755), f"a new volume belongs to the image's user: {owner}, {mode:o}")
    say(f"image     built; its user is {image['User']}, to whom a new volume belongs")
    return True


def same(one, other):
    with open(one, "rb") as first, open(other, "rb") as second:
        return first.read() == second.read()


def debian(*more):
    """A Debian 13 with what distroless/cc has, and with more packages, as a tar file that is made once."""
    name = "-".join(["debian-trixie", *more]) + ".tar"
    kept = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "zombi", name)
    if not os.path.exists(kept):
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            packages = ",".join(["libstdc++6", "ca-certificates", *more])
            made = subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", "trixie", directory],
                                  capture_output=True, text=True)
            if made.returncode:
                say(f"image     SKIPPED: debootstrap cannot make a Debian here: {(made.stdout + made.stderr)[-300:]}")
                return None
            # The tar file's root becomes the container's.
            os.chmod(directory, 0o755)
            subprocess.run(["tar", "-C", directory, "-cf", kept + ".new", "."], check=True)
        os.rename(kept + ".new", kept)
    return kept


def alone(containers):
    """`docker run`, as docs/operations/README.md has it, with nothing but a new volume to write to."""
    version = containers.run("podman", "run", "--rm", "--network=none", IMAGE, "--version").strip()
    check(re.fullmatch(r"zombi \S+ \(\S+\)", version), f"it says its version and commit: {version}")

    def start():
        return containers.started("podman", "run", "--detach", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
                                  f"--memory={MEMORY}", "--network=host", "--volume", "zombi:/var/lib/zombi",
                                  "--env", "ZOMBI_PORT=0", "--env", "ZOMBI_ADMIN_PORT=0", IMAGE)

    name, port = start()
    limit = containers.run("podman", "inspect", name, "--format", "{{.HostConfig.Memory}}").strip()
    check(limit == str(MEMORY), f"the memory is limited: {limit}")
    write(port, 2_000)
    containers.stop(name)
    name, port = start()
    check(len(read(port)) == 2_000, "what was written before is read after")
    containers.stop(name)
    say(f"run       a new volume, read-only, no capabilities, {MEMORY >> 20} MiB: 2,000 events written, SIGTERM, exit 0, read again")


def pod(containers, endpoint, directory):
    """The rendered pod, but for what podman has no kubelet for: probes, and the port numbers of a host that others use too."""
    objects = kustomize(os.path.join(DEPLOY, "overlays", "dev"))
    stateful = next(one for one in objects if one["kind"] == "StatefulSet")
    spec = stateful["spec"]["template"]["spec"]
    container = spec["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        del container[probe]
    del container["ports"], spec["serviceAccountName"]
    spec["hostNetwork"] = True
    container["image"], container["imagePullPolicy"] = IMAGE, "Never"
    ours = {"ZOMBI_PORT": "0", "ZOMBI_ADMIN_PORT": "0", "ZOMBI_S3_ENDPOINT": endpoint, "ZOMBI_HOT_KEEP_SECS": "0"}
    container["env"] = [one for one in container["env"] if one["name"] not in ours] + [{"name": name, "value": value} for name, value in ours.items()]
    spec["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": "data-zombi-0"}})
    # This podman reads no Secret as kubectl renders it: what the pod names of it goes straight into its environment.
    secrets = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "Secret"}
    for source in container.pop("envFrom"):
        values = secrets[source["secretRef"]["name"]]
        container["env"] += [{"name": name, "value": base64.b64decode(value).decode()} for name, value in values.items()]
    # The small S3 server lets in one key pair, and not the one of the MinIO that the manifests bring.
    known = {"AWS_ACCESS_KEY_ID": "zombi", "AWS_SECRET_ACCESS_KEY": "zombi-secret"}
    container["env"] = [one for one in container["env"] if one["name"] not in known] + [{"name": name, "value": value} for name, value in known.items()]
    kept = [one for one in objects if one["kind"] == "ConfigMap"]
    manifest = os.path.join(directory, "pod.yaml")
    with open(manifest, "w") as file:
        yaml.safe_dump_all(kept + [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "zombi-0"}, "spec": spec}], file)

    grace = spec["terminationGracePeriodSeconds"]
    for lives in range(2):
        containers.run("podman", "kube", "play", "--network=host", manifest)
        name, port = containers.wait_for("zombi-0-zombi")
        if lives == 0:
            write(port, 5_000)
            status, answer = request(port, "POST", "/flush")
            check(status == 200, f"flushed: {status} {answer}")
            write(port, 100)
        else:
            records = read(port)
            offsets = {(one["partition"], one["offset"]) for one in records}
            check(len(records) == len(offsets) == 5_100, f"every event is read once, from both tiers: {len(records)}")
        containers.stop(name, grace)
        containers.run("podman", "kube", "down", manifest)
    say("kube play the dev overlay's pod: 5,000 events to S3, 100 more, SIGTERM, exit 0, a new pod on the same volume reads 5,100")


def write(port, count):
    records = [{"payload": json.dumps({"number": number}), "partition": number % 3} for number in range(count)]
    status, answer = request(port, "POST", "/tables/orders/bulk", {"records": records})
    check(status == 201, f"written: {status} {answer}")


def read(port):
    records, cursor = [], ""
    while True:
        status, page = request(port, "GET", f"/tables/orders?limit=1000{cursor}")
        check(status == 200, f"read: {status} {page}")
        records += page["records"]
        if not page["has_more"]:
            return records
        cursor = f"&cursor={page['next_cursor']}"


def request(port, method, path, body=None):
    return ask(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE), method, path, body)


class Containers:
    """podman and buildah with a store of their own, so that nothing else on this machine is touched."""

    def __init__(self, directory):
        store, engine = os.path.join(directory, "storage.conf"), os.path.join(directory, "containers.conf")
        with open(store, "w") as file:
            file.write(f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n')
        with open(engine, "w") as file:
            file.write('[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
                       f'volume_path = "{directory}/volumes"\ntmp_dir = "{directory}/tmp"\n'
                       '[containers]\nlog_driver = "k8s-file"\ndefault_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]\n')
        self.environment = os.environ | {"CONTAINERS_STORAGE_CONF": store, "CONTAINERS_CONF": engine}

    def run(self, *command):
        run = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        check(run.returncode == 0, f"{' '.join(command)}: {run.stdout}{run.stderr}")
        return run.stdout

    def started(self, *command):
        return self.wait_for(self.run(*command).strip())

    def wait_for(self, name):
        """The container and its main port, once it says that it is ready."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            log = self.log(name)
            port = re.search(r'the main port"?,?"?.*address"?[=:]"?\S+?:(\d+)', log)
            if port and re.search(r'INFO ready|"message":"ready"', log):
                return name, int(port.group(1))
            state = self.run("podman", "inspect", name, "--format", "{{.State.Status}}").strip()
            check(state in ("created", "initialized", "running"), f"the container runs, it is {state}:\n{log}")
            time.sleep(0.1)
        check(False, f"the container becomes ready:\n{self.log(name)}")

    def stop(self, name, grace=110):
        """SIGTERM, as the kubelet does it; the container must have ended by itself, in time and well."""
        self.run("podman", "stop", "--time", str(grace), name)
        code = self.run("podman", "inspect", name, "--format", "{{.State.ExitCode}}").strip()
        check(code == "0", f"it ends with 0 after a SIGTERM, not {code}:\n{self.log(name)}")

    def log(self, name):
        logs = subprocess.run(["podman", "logs", name], capture_output=True, text=True, env=self.environment)
        return logs.stdout + logs.stderr

    def remove(self):
        for command in (["pod", "rm", "--all", "--force"], ["rm", "--all", "--force"], ["volume", "rm", "--all", "--force"], ["rmi", "--all", "--force"]):
            subprocess.run(["podman", *command], capture_output=True, env=self.environment)


if __name__ == "__main__":
    main()
