"""The consumer loops of examples/: nothing is left out or doubled, whoever is killed."""

import json
import os
import subprocess
import sys
import time

from demo import check

from had import EXAMPLES, Skip, command, go as built, node as installed, put, recipe, run

EVENTS = 400


def python(world):
    return loop(world, [sys.executable, os.path.join(EXAMPLES, "consumer.py")])


def node(world):
    source, tool = os.path.join(EXAMPLES, "consumer.ts"), command("node", "nodejs")
    version = [int(part) for part in run([tool, "--version"]).strip().lstrip("v").split(".")[:2]]
    if version >= [22, 6]:
        return loop(world, [tool, "--experimental-strip-types", "--no-warnings", source])
    plain = os.path.join(world.directory, "consumer.mjs")
    esbuild = os.path.join(installed("esbuild@0.28.2"), "node_modules", ".bin", "esbuild")
    run([esbuild, source, f"--outfile={plain}", "--format=esm", "--platform=node", "--target=node18"])
    return loop(world, [tool, plain])


def go(world):
    return loop(world, [built(os.path.join(EXAMPLES, "consumer.go"))])


def rust(world):
    consumer = os.path.join(os.path.dirname(world.zombi.command[0]), "examples", "consumer")
    if not os.path.exists(consumer):
        raise Skip(f"{consumer} is not built")
    return loop(world, [consumer])


def by_ordinal(world):
    """The members of docs/coming-from-kafka.md, one of which is killed and comes back: each event is worked on, by its partition's own."""
    group = f"{world.table}-group"
    path = put(world.directory, "member.py", recipe(os.path.join("..", "coming-from-kafka.md"), "python"),
               ("http://zombi.zombi:8080", world.url), ('"orders"', f'"{world.table}"'), ('"billing"', f'"{group}"'))
    world.write(EVENTS // 2)
    members = []
    try:
        members += [member(world, path, number) for number in range(2)]
        world.until("both work", lambda: all(worked_by(world, number) for number in range(2)))
        members[1].kill()
        members[1].wait()
        world.write(EVENTS)  # the first half is known
        members[1] = member(world, path, 1)
        world.until("all is committed", lambda: is_without_lag(world, group))
        check(all(process.poll() is None for process in members), "the members still run")
    finally:
        for process in members:
            process.kill()
            process.wait()
    worked = [worked_by(world, number) for number in range(2)]
    for number, places in enumerate(worked):
        check({partition % 2 for partition, _ in places} == {number}, f"member {number} has its own partitions: {set(places)}")
    check(len(worked[0]) == len(set(worked[0])), "who is not killed repeats nothing")
    found = sorted(set(worked[0]) | set(worked[1]))
    there = sorted((record["partition"], record["offset"]) for record in world.records())
    check(found == there and len(there) == EVENTS, f"each event is worked on: {len(found)} of {len(there)}")
    return f"{EVENTS} events, each by the member of its partition, over a kill of one of two"


def member(world, path, number):
    with open(os.path.join(world.directory, f"worked-{number}"), "ab") as out:
        environment = os.environ | {"MEMBER": str(number), "MEMBERS": "2"}
        return subprocess.Popen([sys.executable, path], stdout=out, stderr=subprocess.STDOUT, env=environment)


def worked_by(world, number):
    """The places of the events that a member has worked on; what it died in is no whole line."""
    with open(os.path.join(world.directory, f"worked-{number}")) as lines:
        words = [line.split() for line in lines if line.endswith("}\n")]
    return [(int(partition), int(offset)) for partition, offset, *_ in words]


def loop(world, words):
    """Kills the loop in the middle of its work, and then the server while the loop goes on."""
    table, results, group = world.table, f"{world.table}-results", f"{world.table}-group"
    world.write(EVENTS // 2)
    arguments = [*words, world.url, table, results, group]
    # It dies at some event, and begins anew where it stood.
    process = subprocess.Popen(arguments, cwd=world.directory)
    world.until("the loop works", lambda: len(world.records(results)) >= EVENTS // 8 or process.poll() is not None)
    check(process.poll() is None, f"the loop has no end of its own: {process.returncode}")
    process.kill()
    process.wait()
    done = len(world.records(results))
    check(os.path.exists(os.path.join(world.directory, f"{group}.place")), "it has kept its place")
    world.write(EVENTS)  # the first half is known
    process = subprocess.Popen(arguments, cwd=world.directory)
    try:
        world.until("the loop goes on", lambda: len(world.records(results)) > max(done, EVENTS // 4))
        # The port stays, so that the loop finds the server again.
        restart(world)
        world.until("all is worked on", lambda: len(world.records(results)) >= EVENTS)
        time.sleep(1)
        check(process.poll() is None, f"the loop still runs: {process.returncode}")
        lag = world.until("all is committed", lambda: is_without_lag(world, group))
    finally:
        process.kill()
        process.wait()
    worked = sorted(record["payload"]["worked_on"]["number"] for record in world.records(results))
    check(worked == list(range(EVENTS)), f"each event is worked on once: {len(worked)}")
    return f"{EVENTS} events once each, over a kill of the loop after {done} and one of the server; lag {lag - 1}"


def is_without_lag(world, group):
    """1 if the group has read everything, else 0."""
    status, _, body = world.ask("GET", f"/consumers/{group}")
    return int(status == 200 and json.loads(body)["lag"] == 0)


def restart(world):
    zombi, port = world.zombi, world.zombi.port
    zombi.kill()
    words = zombi.command
    zombi.command = [f"port={port}" if word == "port=0" else word for word in words]
    zombi.start()
