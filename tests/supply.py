#!/usr/bin/env python3
"""Checks what Zombi is made of, and how it is released.

    tests/supply.py

The binary that is shipped has no fail points and nothing of the tests; NOTICE has the licences of what is linked in; packages for Python have
hashes; workflows use actions by their commits, keep no credentials and have no right that they do not need; the Dockerfile's images are
tags of Debian 13 that the release resolves; and what the image is built from is in its context. cargo-deny looks at licences, sources and
bans, and at advisories where their database can be reached; it is skipped, and says so, where it is not installed. Builds nothing.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

import yaml

from demo import check, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ACTION = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$")


def main():
    binary()
    notice()
    python()
    workflows()
    dockerfile()
    deny()


def text(*path):
    with open(os.path.join(ROOT, *path)) as file:
        return file.read()


def tree(*words):
    """The names of the crates of the binary that cargo would build."""
    command = ["cargo", "tree", "--locked", "-p", "zombi", "--prefix", "none", "--format", "{p}", *words]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    check(found.returncode == 0, f"{' '.join(command)}: {found.stderr}")
    return {line.split()[0] for line in found.stdout.splitlines() if line}


def binary():
    shipped = tree("-e", "normal")
    wrong = shipped & {"fail", "libfuzzer-sys", "proptest", "s3s", "tempfile", "zombi-testing"}
    check(not wrong, f"the binary that is shipped has nothing of the tests: {wrong}")
    check("fail" in tree("-e", "normal", "--features", "failpoints"), "what is tested has fail points, so this would see them")
    say(f"binary     {len(shipped)} crates, without fail points")


def notice():
    found = subprocess.run([sys.executable, os.path.join(ROOT, "tests", "notice.py"), "--check"], capture_output=True, text=True)
    check(found.returncode == 0, f"{found.stderr}")
    say(found.stdout.strip())


def python():
    one = r"(?m)^([A-Za-z0-9_.\[\]-]+)==(\S+)([^\n]*(?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)*)"
    locked = re.findall(one, text("tests", "requirements.txt"))
    bare = [name for name, _, rest in locked if "--hash=" not in rest]
    check(locked and not bare, f"every package has hashes: {bare}")
    versions = {name.lower(): version for name, version, _ in locked}
    wanted = re.findall(r"(?m)^([A-Za-z0-9_.-]+)(?:\[\w+\])?==(\S+)$", text("tests", "requirements.in"))
    other = [(name, version) for name, version in wanted if versions.get(name.lower()) != version]
    check(wanted and not other, f"requirements.txt is made from requirements.in: make requirements: {other}")
    check("--require-hashes" in text(".ci", "python"), "pip is held to them")
    say(f"python     {len(locked)} packages, each with its hashes")


def steps(workflow):
    for job in workflow["jobs"].values():
        yield from job["steps"]


def workflows():
    actions = 0
    for path in sorted(glob.glob(os.path.join(ROOT, ".github", "workflows", "*.yml"))):
        name, source = os.path.basename(path), text(os.path.relpath(path, ROOT))
        workflow = yaml.safe_load(source)
        # YAML reads `on` as true.
        check("pull_request_target" not in workflow[True], f"{name}: no code of a pull request runs with our rights")
        check(workflow["permissions"] == {"contents": "read"}, f"{name}: a job that may more says so: {workflow['permissions']}")
        for step in steps(workflow):
            if "uses" not in step:
                continue
            actions += 1
            check(ACTION.match(step["uses"]), f"{name}: an action is a commit, which cannot change: {step['uses']}")
            check(re.search(re.escape(step["uses"]) + r" # v\d", source), f"{name}: and says which version that is: {step['uses']}")
            if step["uses"].startswith("actions/checkout@"):
                kept = step.get("with", {}).get("persist-credentials")
                check(kept is False, f"{name}: what is checked out holds no credential")
        check("cargo install" not in source or re.search(r"cargo install --locked --version", source), f"{name}: tools have versions")
    release = text(".github", "workflows", "release.yml")
    for word in ("cargo auditable build", "cargo cyclonedx", "--sbom=true", "--provenance=mode=max", "attest-build-provenance", "digests.txt",
                 "SHA256SUMS", "NOTICE", "REVISION"):
        check(word in release, f"a release has {word}")
    say(f"workflows  {actions} uses of actions, all by commit")


def dockerfile():
    source = text("Dockerfile")
    images = dict(re.findall(r"(?m)^ARG (RUST|RUNTIME)=(\S+)$", source))
    expected = {"RUST": r"docker\.io/library/rust:\d+\.\d+-slim-trixie", "RUNTIME": r"gcr\.io/distroless/cc-debian13:nonroot"}
    for name, image in expected.items():
        check(re.fullmatch(image, images.get(name, "")), f"{name} is a tag on Debian 13: {images.get(name)}")
        check(f"--build-arg {name}=" in text(".github", "workflows", "release.yml"), f"the release resolves {name}")
    rust = re.search(r'(?m)^rust-version = "(.*)"', text("Cargo.toml")).group(1)
    check(f"rust:{rust}-" in images["RUST"], f"the image is built with the Rust that is tested, {rust}: {images['RUST']}")
    check(source.count("cargo auditable build --release --locked") == 2, "the binary says which crates it has")
    crates = {os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(ROOT, "crates", "*", "Cargo.toml"))}
    first = set(re.findall(r"(?m)^COPY crates/([\w-]+)/Cargo\.toml crates/\1/$", source))
    check(crates == first, f"the layer of the dependencies has each crate of Cargo.lock, or cargo refuses it: {crates ^ first}")
    copied = [words for words in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", source)]
    paths = {path.split("/")[0] for words in copied for path in words.split()}
    let_in = set(re.findall(r"(?m)^!(\S+)$", text(".dockerignore")))
    check(paths == let_in, f".dockerignore lets in what is copied, and nothing else: {paths ^ let_in}")
    tilt = set(re.findall(r'"([^"]+)"', re.search(r"only = \[(.*?)\]", text("Tiltfile")).group(1)))
    check(paths == tilt, f"and so does the Tiltfile: {paths ^ tilt}")
    say(f"Dockerfile {images['RUST']} and {images['RUNTIME']}; {len(paths)} things copied")


def deny():
    if not shutil.which("cargo-deny"):
        say("deny       SKIPPED: there is no cargo-deny (cargo install --locked cargo-deny)")
        return
    for what in (["bans", "licenses", "sources"], ["advisories"]):
        found = subprocess.run(["cargo", "deny", "--locked", "check", *what], capture_output=True, text=True, cwd=ROOT)
        if what == ["advisories"] and "failed to fetch" in found.stderr:
            say("deny       advisories SKIPPED: their database cannot be reached")
            continue
        check(found.returncode == 0, f"cargo deny check {' '.join(what)}: {found.stderr}")
        say(f"deny       {', '.join(what)}: nothing")


if __name__ == "__main__":
    main()
