"""The images that the node runs, as archives for containerd: Zombi's, as tests/image.py builds it, the small S3
server under MinIO's name, a curl under that of the client in deploy/examples, the NATS server of
tests/requirements.txt under that of NATS, and what every pod begins with."""

import os
import shutil
import subprocess

import yaml

import image
from demo import check, say
from manifests import DEPLOY, ROOT, TOOLS, kustomize, one

HERE = os.path.dirname(os.path.abspath(__file__))
# What containerd puts before a name without a registry.
LIBRARY = "docker.io/library/"
ZOMBI = f"{LIBRARY}zombi:dev"
PAUSE = "localhost/pause:1"
NATS_SERVER = os.path.join(TOOLS, "nats-server")
CURL_BASE = "localhost/debian:curl"


def build(directory, zombi, s3):
    """The archives; nothing where no Debian can be had."""
    os.makedirs(directory)
    # A container's user has to get to its files.
    os.chmod(directory, 0o711)
    containers = image.Containers(directory)
    try:
        if not image.build(containers, zombi, directory):
            return None
        curl = image.debian("curl")
        if not curl:
            return None
        containers.run("podman", "tag", image.IMAGE, ZOMBI)
        containers.run("podman", "import", curl, CURL_BASE)
        names = [ZOMBI, minio(), client(), nats(), PAUSE]
        stand_in(containers, directory, s3, names[1])
        containers.run("podman", "tag", CURL_BASE, names[2])
        nats_server(containers, directory, names[3])
        pause(containers, directory)
        return [save(containers, directory, number, name) for number, name in enumerate(names)]
    finally:
        containers.remove()


def minio():
    """The name that the manifests have."""
    stateless = one(kustomize(os.path.join(DEPLOY, "overlays", "dev")), "Deployment", "minio")
    return stateless["spec"]["template"]["spec"]["containers"][0]["image"]


def client():
    with open(os.path.join(ROOT, "deploy", "examples", "client.yaml")) as file:
        return one(list(yaml.safe_load_all(file)), "Pod", "checkout")["spec"]["containers"][0]["image"]


def nats():
    stateful = one(kustomize(os.path.join(DEPLOY, "overlays", "cluster")), "StatefulSet", "zombi-nats")
    return LIBRARY + stateful["spec"]["template"]["spec"]["containers"][0]["image"]


def stand_in(containers, directory, s3, name):
    """MinIO's own arguments follow those of the entry point, and are left alone. Not the folder that the volume is
    mounted on, which has a `lost+found`."""
    files = os.path.join(directory, "minio")
    os.makedirs(files)
    subprocess.run(["strip", "-o", os.path.join(files, "s3"), s3], check=True)
    recipe(containers, files, name, f"FROM {image.BASE}", "COPY s3 /s3", 'ENTRYPOINT ["/s3", "0.0.0.0:9000", "/data/buckets"]')


def nats_server(containers, directory, name):
    """The server and nothing else, where `preStop` finds it by its name; the manifests' arguments follow those of the entry point."""
    said = subprocess.run([NATS_SERVER, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    check(name.split(":")[1].startswith(said.removeprefix("v") + "-"), f"it is the version that the manifests name, {name}: {said}")
    files = os.path.join(directory, "nats")
    os.makedirs(files)
    shutil.copy(NATS_SERVER, files)
    recipe(containers, files, name, "FROM scratch", "COPY nats-server /usr/local/bin/nats-server", "ENV PATH=/usr/local/bin",
           'ENTRYPOINT ["nats-server"]')


def pause(containers, directory):
    files = os.path.join(directory, "pause")
    os.makedirs(files)
    made = subprocess.run(["cc", "-static", "-Os", "-o", os.path.join(files, "pause"), os.path.join(HERE, "pause.c")],
                          capture_output=True, text=True)
    check(made.returncode == 0, f"the first process of a pod is built: {made.stderr}")
    recipe(containers, files, PAUSE, "FROM scratch", "COPY pause /pause", 'ENTRYPOINT ["/pause"]')


def recipe(containers, files, name, *lines):
    path = os.path.join(files, "Dockerfile")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    containers.run("buildah", "bud", "--isolation", "chroot", "-f", path, "-t", name, files)


def save(containers, directory, number, name):
    archive = os.path.join(directory, f"{number}.tar")
    containers.run("podman", "save", "--format", "docker-archive", "--output", archive, name)
    say(f"images     {name}: {os.path.getsize(archive) >> 20} MiB")
    return archive


def hindrance():
    """Why no images can be made here, or nothing."""
    missing = [tool for tool in [*image.TOOLS, NATS_SERVER] if not shutil.which(tool)]
    return f"the images need {', '.join(missing)}" if missing else None
