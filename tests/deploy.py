#!/usr/bin/env python3
"""Checks what is deployed, with the tools that others use for it.

    tests/deploy.py

Every overlay against the Kubernetes schemas, strictly; the Dockerfile by hadolint; the Tiltfile evaluated, with Tilt's own
functions standing in. Needs the packages of tests/requirements.txt in the Python that runs it; what needs kubectl is skipped,
and says so, where there is none.
"""

import os
import shutil
import subprocess
import sys
import tempfile

import starlark
import yaml

from demo import check, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.dirname(sys.executable)
KUBERNETES = "1.32.0"
# The Prometheus operator's kinds are not in Kubernetes' schemas.
OPERATOR = "monitoring.coreos.com/"
PLACES = ["base", "overlays/dev", "overlays/production"]


def main():
    manifests()
    dockerfile()
    tiltfile()


def manifests():
    if not shutil.which("kubectl"):
        say("manifests  SKIPPED: there is no kubectl to render them")
        return
    for place in PLACES:
        validate(place, os.path.join(ROOT, "deploy", place))
    # Every component by itself on the base.
    components = os.path.join(ROOT, "deploy", "components")
    for component in sorted(os.listdir(components)):
        with tempfile.TemporaryDirectory() as directory:
            paths = [os.path.relpath(path, directory) for path in (os.path.join(ROOT, "deploy", "base"), os.path.join(components, component))]
            with open(os.path.join(directory, "kustomization.yaml"), "w") as file:
                yaml.safe_dump({"resources": paths[:1], "components": paths[1:]}, file)
            validate(f"components/{component}", directory)


def validate(place, directory):
    rendered = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True)
    check(rendered.returncode == 0, f"{place} can be rendered: {rendered.stderr}")
    objects = list(yaml.safe_load_all(rendered.stdout))
    known = [one for one in objects if not one["apiVersion"].startswith(OPERATOR)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        command = [os.path.join(TOOLS, "kubernetes-validate"), "--strict", "-k", KUBERNETES, file.name]
        found = subprocess.run(command, capture_output=True, text=True)
    check(found.returncode == 0, f"{place} is valid: {found.stdout}{found.stderr}")
    others = f"; {len(objects) - len(known)} of the operator's own" if len(known) < len(objects) else ""
    say(f"manifests  {place}: {len(known)} objects valid for Kubernetes {KUBERNETES}{others}")


def dockerfile():
    found = subprocess.run([os.path.join(TOOLS, "hadolint"), os.path.join(ROOT, "Dockerfile")], capture_output=True, text=True)
    check(found.returncode == 0, f"hadolint finds nothing: {found.stdout}{found.stderr}")
    say("Dockerfile hadolint finds nothing")


def tiltfile():
    calls = []

    def recorded(name):
        def call(*arguments, **named):
            calls.append((name, arguments, named))
            return name
        return call

    module = starlark.Module()
    for name in ["allow_k8s_contexts", "docker_build", "k8s_yaml", "kustomize", "k8s_resource", "local_resource"]:
        module.add_callable(name, recorded(name))
    module["TRIGGER_MODE_MANUAL"] = 1
    with open(os.path.join(ROOT, "Tiltfile")) as file:
        starlark.eval(module, starlark.parse("Tiltfile", file.read()), starlark.Globals.standard())
    named = {arguments[0] for name, arguments, _ in calls if name in ("k8s_resource", "local_resource")}
    check({"zombi", "minio", "smoke", "load", "flush"} <= named, f"Tilt has Zombi, MinIO and its buttons: {named}")
    folder = next(arguments[0] for name, arguments, _ in calls if name == "kustomize")
    check(os.path.exists(os.path.join(ROOT, folder, "kustomization.yaml")), f"{folder} is there")
    only = next(named["only"] for name, _, named in calls if name == "docker_build")
    check(all(os.path.exists(os.path.join(ROOT, path)) for path in only), f"what the image is built from is there: {only}")
    say(f"Tiltfile   evaluated: {len(calls)} calls, resources {', '.join(sorted(named))}")


if __name__ == "__main__":
    main()
