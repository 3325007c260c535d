"""Clients that generators make of the server's own description: they compile, and do what their page says."""

import os

from demo import check

from had import command, node, put, python, recipe, run

PAGE = "generated.md"
HOST = "http://zombi.zombi:8080"


def typescript(world):
    modules = os.path.join(node("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3"), "node_modules")
    os.symlink(modules, os.path.join(world.directory, "node_modules"))
    generate = recipe(PAGE, "sh").split()
    check(generate[:2] == ["npx", "openapi-typescript"], f"the page has the command: {generate}")
    words = [word.replace(HOST, world.url) for word in generate[1:]]
    run([os.path.join(modules, ".bin", words[0]), *words[1:]], cwd=world.directory)
    put(world.directory, "package.json", '{"type": "module"}')
    put(world.directory, "client.ts", recipe(PAGE, "ts"), (HOST, world.url), ('"orders"', f'"{world.table}"'))
    tsc = [os.path.join(modules, ".bin", "tsc"), "--strict", "--target", "es2022", "--module", "nodenext", "client.ts"]
    run(tsc, cwd=world.directory)
    said = [run([command("node", "nodejs"), "client.js"], cwd=world.directory) for _ in range(2)]
    return stored_once(world, said, '0 {"order":7}')


def python_client(world):
    interpreter = python("openapi-python-client==0.29.1", "httpx==0.28.1", "attrs==26.1.0", "python-dateutil==4.0.0")
    binaries = os.path.dirname(interpreter)
    put(world.directory, "generator.yaml", recipe(PAGE, "yaml"))
    words = [word.replace(HOST, world.url) for word in recipe(PAGE, "sh", 1).split()]
    # Its formatter is not needed, and without one it says so and goes on.
    said = run([os.path.join(binaries, words[0]), *words[1:], "--output-path", "made"], cwd=world.directory)
    check("WARNING parsing" in said and "Unable" not in said, f"only kinds of bodies are left out:\n{said[-4000:]}")
    made = os.path.join(world.directory, "made")
    each = "import importlib, pkgutil, zombi_client as made\n" \
           "for one in pkgutil.walk_packages(made.__path__, 'zombi_client.'): importlib.import_module(one.name)"
    environment = os.environ | {"PYTHONPATH": made}
    run([interpreter, "-c", each], env=environment)
    path = put(world.directory, "client.py", recipe(PAGE, "python"), (HOST, world.url), ('"orders"', f'"{world.table}"'))
    return stored_once(world, [run([interpreter, path], env=environment) for _ in range(2)], "0 {'order': 7}")


def stored_once(world, said, line):
    """Run twice, the client has written its event once, and read it each time."""
    check(all(text.splitlines()[1:] == [line] for text in said), f"the event is read: {said}")
    found = [(record["payload"], record["key"], record["idempotency_key"]) for record in world.records()]
    check(found == [({"order": 7}, "customer-7", "order-7")], f"the event is stored once: {found}")
    return "compiles, writes and reads"
