#!/usr/bin/env python3
"""Follows the pages for operators: runs the commands of docs/operations and docs/runbooks, page by page.

    tests/runbooks.py ZOMBI S3 [--only PAGE ..]

ZOMBI and S3 are the two binaries (`make runbooks` builds and passes them). Each page is one shell, in which whoever is on call has
a token as docs/operations/README.md says; every command must go well, on a Zombi in the state that the page is about. kubectl is a
stand-in (`oncall.py`): what it does to the pod is done to the real binary, and the names that it is told must be those of the
manifests; tests/kube has the real one. What a page looks for in metrics must be there, and what it looks for in logs must be what
the program says. Programs of others (aws, docker, gh ..) are not followed. Needs kubectl (to render), curl and jq, and the packages
of tests/requirements.txt.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import time
import urllib.error

import yaml

from demo import S3, check, say
from manifests import ROOT
from observe import OF_CLUSTER, OF_LOGS, WITH_ISSUER
from oncall import OTHERS, OnCall, Programs

# Pages that are followed at once: most of the time each waits for a process to start.
AT_ONCE = 4
DOCS = os.path.join(ROOT, "docs")
# Blocks that are about a machine or an image of the reader's own, by what they begin with, and what tries them.
ELSEWHERE = {
    "docker build ": "tests/kube", "docker run ": "tests/image.py", "export AWS_ACCESS_KEY_ID": "tests/demo.py",
    "ZOMBI_TLS_CERT_FILE": "tests/it/auth_tls",
}
# Pages of clusters: a pod that is alone in one shows the same.
OF_PODS = {"copies-out-of-step.md", "copy-stopped.md", "forward-failing.md", "log-filling.md", "shard-unowned.md",
           "shard-without-owner.md"}
# Settings of the pages that name another bucket than most.
BUCKETS = {"move.md": {"s3.bucket": "old-bucket", "s3.prefix": "prod"}}
# Pages about a volume that was left behind with events that only it has.
LEFT_BEHIND = {"salvage.md", "lost-node.md"}
# Commands that end as their pages say, and not with 0: nobody was answered 500.
ENDS_OTHERWISE = ("curl -s localhost:9090/metrics | grep -E '^zombi_http_requests_total.*status",)
# The mistake that was made after the state which is restored.
LATER = "after 14:00"
# Words that stand for what only the reader knows.
PLACEHOLDERS = {"GROUP": "billing", "TABLE": "orders", "LARGEST": "orders", "OFFSET": "0", "N": "0", "NODE": "node-1",
                "OTHER": "zombi", "NAME": "pvc-1", "PRINCIPAL": "sa:shop/checkout", "VERB": "append", "M": "3", "NNN": "000"}
# What logs are searched for in general, and not for what one line says.
ANYTHING = {"WARN", "ERROR", "jwks", "key", "recover", "lost", "volume", "bucket", "compaction", "log"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zombi")
    parser.add_argument("s3")
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    for tool in ("kubectl", "curl", "jq"):
        check(shutil.which(tool), f"{tool} is installed")
    pages = sorted(glob.glob(os.path.join(DOCS, "operations", "*.md")) + glob.glob(os.path.join(DOCS, "runbooks", "*.md")))
    chosen = [page for page in pages if not arguments.only or os.path.basename(page) in arguments.only]
    check(chosen, f"there are pages: {arguments.only}")
    binaries = os.path.abspath(arguments.zombi), os.path.abspath(arguments.s3)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as workers:
        found = list(workers.map(lambda page: follow(page, *binaries), chosen))
    others = set().union(*found)
    say(f"all {len(chosen)} pages can be followed, but for the commands of {', '.join(sorted(others)) or 'nobody'}")


def follow(path, binary, s3):
    """Follows a page; returns whose commands were not followed."""
    with open(path) as file:
        page = Page(file.read())
    with tempfile.TemporaryDirectory(prefix="zombi-runbooks-") as directory:
        asked = follow_on(page, os.path.basename(path), (binary, s3), directory)
    elsewhere = f", elsewhere: {', '.join(sorted(page.elsewhere))}" if page.elsewhere else ""
    say(f"{os.path.relpath(path, DOCS):40} {len(asked):3} commands{elsewhere}")
    return {program for program, _ in asked} & set(OTHERS)


def follow_on(page, name, binaries, directory):
    """Follows a page on a Zombi of its own; returns the commands."""
    binary, s3 = binaries
    bucket = os.path.join(directory, "s3")
    for known in ("my-events", "my-backups", "old-bucket", "new-bucket"):
        os.makedirs(os.path.join(bucket, known))
    settings = {"s3.bucket": "my-events"} | BUCKETS.get(name, {}) | (pods(directory) if name in OF_PODS else {})
    with contextlib.ExitStack() as ends:
        server = S3(s3, bucket)
        ends.callback(server.stop)
        oncall = OnCall(binary, server, directory, settings)
        ends.callback(oncall.end)
        # Ends first, so that nothing more is asked of a Zombi that ends.
        programs = Programs(directory, oncall)
        ends.callback(programs.end)
        erasure = fill(oncall)
        prepare(name, oncall)
        words = placeholders(name, oncall, erasure, directory)
        for script in page.scripts:
            run(name, oncall, programs, words, script)
            after(name, oncall, script)
        page.look(name, oncall.metrics() if oncall.zombi.process.poll() is None else "")
        judge(name, oncall)
    return oncall.asked


class Page:
    """The commands of a page: its blocks in order, then those in its text. JSON and YAML in it can be read."""

    def __init__(self, text):
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.M | re.S)
        self.scripts, self.elsewhere = [], set()
        for block in map(textwrap.dedent, blocks):
            tried = [where for begin, where in ELSEWHERE.items() if block.startswith(begin)]
            self.elsewhere |= set(tried)
            if not tried:
                self.scripts.append(block)
        inline = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
        commands = [" ".join(command.split()) for command in re.findall(r"`([^`]+)`", inline)]
        self.scripts += [command for command in commands if re.match(r"curl .*localhost:", command)]
        # Only named: that there is such a command with such options is all that can be said.
        named = {re.split(r" [|>] ", command)[0] for command in commands if re.match(r"(zombi|care) [a-z]", command)}
        self.scripts += [named_only(command) for command in sorted(named) if "..." not in command]
        self.text = text
        for block in re.findall(r"^ *```json\n(.*?)^ *```", text, re.M | re.S):
            json.loads(block)
        for block in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.M | re.S):
            check(yaml.safe_load(textwrap.dedent(block)), "a page has YAML that says something")

    def look(self, name, metrics):
        """What is looked for in metrics is in them, and what is looked for in logs is what the program logs."""
        absent = OF_CLUSTER | OF_LOGS | WITH_ISSUER
        for pattern in re.findall(r"/metrics \| grep (?:-E )?(\S+|'[^']*')$", self.text, re.M):
            for one in alternatives(pattern.strip("'")):
                metric = re.match(r"\^?(\w+)", one).group(1)
                found = re.search(rf"^{metric}", metrics, re.M)
                check(found or any(each.startswith(metric) for each in absent), f"{name}: there is {metric} in the metrics")
        for pattern in re.findall(r"\blogs\b[^\n]*?\| grep (?:-\w+ )?('[^']*'|\w+)", self.text):
            for one in set(alternatives(pattern.strip("'"))) - ANYTHING:
                check(is_said(one), f"{name}: {one!r} is in a line that the program logs")


def named_only(command):
    """The same command, which says how it is used and does nothing."""
    return command.removeprefix("care ").removeprefix("zombi ").join(["zombi ", " --help > /dev/null"])


def alternatives(pattern):
    """What a pattern may find: `a(b|c)` is `ab` and `ac`."""
    group = re.search(r"\(([^()]*)\)", pattern)
    if group is None:
        return pattern.split("|")
    return [pattern[:group.start()] + one + pattern[group.end():] for one in group.group(1).split("|")]


def is_said(words):
    """Whether some source has these words, and the tests have not alone."""
    found = subprocess.run(["grep", "-rqF", "--include=*.rs", words, "src", "crates"], cwd=ROOT)
    return found.returncode == 0


def pods(directory):
    """What makes a Zombi the only pod of a cluster."""
    secret = os.path.join(directory, "secret")
    with open(secret, "w") as file:
        file.write("0123456789abcdef0123456789abcdef0123456789abcdef\n")
    settings = {"cluster.pods": "1", "cluster.copies": "1", "pod": "zombi-0", "cluster.address": "127.0.0.1:8080"}
    return settings | {"cluster.secret_file": secret}


def fill(oncall):
    """What the pages tell of: tables, a group that has committed, and an erasure."""
    for table, count in (("orders", 20), ("events", 3), ("numbers", 2), ("carts", 2), ("one-that-was-deleted", 1)):
        for number in range(count):
            event = {"payload": {"number": number}, "idempotency_key": f"{table}-{number}"}
            if number == 5:
                event |= {"key": "customer-7", "partition": 0, "headers": {"subject": "customer-7"}}
            oncall.request("POST", f"/tables/{table}", event)
    for payload, key in (("of a customer", "order-815"), ("kept", "order-816")):
        oncall.request("POST", "/tables/orders", {"payload": payload, "idempotency_key": key})
    oncall.request("POST", "/consumers/billing/commit", {"table": "orders", "partition": 0, "offset": 3})
    oncall.request("POST", "/flush")
    erasure = oncall.request("POST", "/tables/orders/erase", {"offsets": [0], "reason": "ticket 1"})["id"]
    # What was before it comes back without the event, and the pages tell of states from now on.
    until = time.monotonic() + 300
    while oncall.request("GET", f"/tables/orders/erase/{erasure}")["status"] != "done":
        check(time.monotonic() < until, "the erasure is done")
        time.sleep(0.1)
    return erasure


def prepare(name, oncall):
    """The state that a page is about."""
    if name == "bucket.md":
        made = oncall.answer("zombi", ["backup", "--to", "s3://my-backups/zombi"], oncall.directory, {})
        check(made[0] == 0, f"there is a backup: {made}")
    if name in LEFT_BEHIND | {"README.md"}:
        for table in ("orders", "carts") if name in LEFT_BEHIND else ("orders",):
            oncall.request("POST", f"/tables/{table}", {"payload": "only here", "idempotency_key": "only here"})
        oncall.abandon()
        if name == "lost-node.md":
            os.rename(oncall.old, oncall.old + "-found")


def placeholders(name, oncall, erasure, directory):
    """By what stands in the pages, what it is here."""
    shown = oncall.answer("zombi", ["manifest", "show", "0", *(["--shard", "0"] if "pod" in oncall.more else [])], directory, {})
    check(shown[0] == 0, f"the first manifest is shown: {shown}")
    # Behind the last manifest, to the second.
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    then = now.replace(microsecond=0) + hour / 3600
    if name == "restore.md":
        write_later(oncall, then)
    words = {r"9b2c\.\.\.": erasure, r"6f0c\.\.\.": json.loads(shown[1])["store_id"],
             r"2026-11-\d\dT14:00:00Z": f"{then:%Y-%m-%dT%H:%M:%SZ}",
             r"2026-11-\d\dT12:00:00Z": f"{now - hour:%Y-%m-%dT%H:%M:%SZ}",
             r"/mnt/old": oncall.old, "/mnt/disk": directory, r"/tmp/policy\.yaml": f"{directory}/policy-now.yaml"}
    return words | {rf"\b{word}\b": meant for word, meant in PLACEHOLDERS.items()}


def write_later(oncall, then):
    """An event, and with it a manifest, after the state that is to be restored."""
    while datetime.datetime.now(datetime.UTC) < then + datetime.timedelta(milliseconds=50):
        time.sleep(0.02)
    oncall.request("POST", "/tables/orders", {"payload": LATER, "idempotency_key": LATER})
    oncall.request("POST", "/flush")


def run(name, oncall, programs, words, script):
    """Runs some commands as whoever is on call would, in one shell."""
    lines = []
    for line in script.splitlines():
        # A log of a Zombi that is well says nothing of this.
        if re.search(r"\blogs\b.*\| grep", line) or line.startswith(ENDS_OTHERWISE):
            line = f"{{ {line.split('   #')[0].rstrip()}; }} || true"
        lines.append(line)
    script = "\n".join(lines)
    for word, meant in words.items():
        script = re.sub(word, lambda _, meant=meant: meant, script)
    home = os.path.join(oncall.directory, "home")
    if not os.path.exists(home):
        os.mkdir(home)
        os.symlink(os.path.join(ROOT, "deploy"), os.path.join(home, "deploy"))
    environment = {"PATH": f"{programs.directory}:{os.environ['PATH']}", "HOME": home, "LANG": "C.UTF-8"}
    # What one block has exported, the next ones have.
    whole = f"set -euo pipefail\ntouch exported\n. ./exported\n{preamble()}\n{script}\nwait\nexport -p > exported\n"
    ran = subprocess.run(["bash", "-c", whole], cwd=home, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                         timeout=900)
    check(ran.returncode == 0, f"{name} can be followed:\n{script}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")


def preamble():
    """The commands by which whoever is on call gets a token, and the short name of those that run as a Job."""
    with open(os.path.join(DOCS, "operations", "README.md")) as file:
        blocks = re.findall(r"^```sh\n(.*?)^```", file.read(), re.M | re.S)
    found = [block for block in blocks if "create token" in block or block.startswith("care()")]
    check(len(found) == 2, "the page on operations says who asks, and what care is")
    return "".join(found)


def after(name, oncall, script):
    """What happens between two blocks of a page, and not by its commands."""
    if name == "rebuild.md" and "--replicas 0" in script:
        oncall.lose_manifests()
        shutil.rmtree(oncall.zombi.volume)
    if name == "salvage.md" and "--dry-run" in script:
        said = [f"1 events of {table} that only this volume has" for table in ("carts", "orders")]
        is_all = all(line in oncall.job[1] for line in said) and "payload" not in oncall.job[1]
        check(is_all, f"{name}: what each table has is counted, and not printed: {oncall.job}")
    if name == "restore.md" and "-k my-restored" in script:
        there = payloads(oncall, oncall.restored)
        check("kept" in there and LATER not in there, f"{name}: the state of then is restored, and nothing later: {there}")
    if name == "move.md" and "care restore" in script:
        # "Put the new bucket and prefix into the settings".
        oncall.applied = {"s3.bucket": "new-bucket", "s3.prefix": "prod"}
    if name == "lost-node.md" and "logs zombi-0" in script:
        os.rename(oncall.old + "-found", oncall.old)


def payloads(oncall, at):
    return [record["payload"] for record in oncall.request("GET", "/tables/orders?limit=100", at=at)["records"]]


def judge(name, oncall):
    """The page has led to where it says."""
    check(oncall.zombi.process.poll() is None, f"{name}: Zombi runs at its end")
    try:
        page = oncall.request("GET", "/tables/orders?limit=100")
    except urllib.error.URLError as error:
        check(False, f"{name}: Zombi answers at its end: {error}")
    there = [record["payload"] for record in page["records"]]
    check("kept" in there, f"{name}: what was there is there: {there}")
    if name in LEFT_BEHIND:
        check("only here" in there, f"{name}: what only the old volume had was saved: {there}")
    if name == "restore.md":
        check(oncall.restored and LATER in there, f"{name}: another one was begun beside, and this one goes on: {there}")
    if name == "move.md":
        check(not page.get("lost"), f"{name}: nothing is lost on the way: {page.get('lost')}")


if __name__ == "__main__":
    main()
