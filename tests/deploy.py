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

from demo import check, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.dirname(sys.executable)
KUBERNETES = "1.32.0"
# The operator's own kinds are not in Kubernetes' schemas.
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
        rendered = subprocess.run(["kubectl", "kustomize", os.path.join(ROOT, "deploy", place)], capture_output=True, text=True)
        check(rendered.returncode == 0, f"{place} can be rendered: {rendered.stderr}")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(rendered.stdout)
            file.flush()
            command = [os.path.join(TOOLS, "kubernetes-validate"), "--strict", "-k", KUBERNETES, file.name]
            found = subprocess.run(command, capture_output=True, text=True)
        check(found.returncode == 0, f"{place} is valid: {found.stdout}{found.stderr}")
        say(f"manifests  {place}: {rendered.stdout.count('kind:')} kinds named, valid for Kubernetes {KUBERNETES}")


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
