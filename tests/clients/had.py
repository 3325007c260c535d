"""Where the clients of others come from. What cannot be had is skipped, and says why."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time

from demo import check

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = os.path.join(HERE, "files")
PAGES = os.path.join(HERE, "..", "..", "docs", "clients")
EXAMPLES = os.path.join(HERE, "..", "..", "examples")
HOME = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "zombi", "clients")


class Skip(Exception):
    """Something is not to be had here."""


def command(name, package=None):
    """A program of this machine."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/local/go/bin")
    if not found:
        raise Skip(f"there is no {name} here (Debian's package: {package or name})")
    return found


def fetch(words, why, **options):
    """Gets something that may not be had here."""
    code, said = said_by(words, **options)
    if code:
        raise Skip(f"{why}: {said[-400:].strip()}")


def run(words, **options):
    """Runs what is here, or is ours: it must go well. What it says."""
    code, said = said_by(words, **options)
    check(code == 0, f"{' '.join(words)}: {code}\n{said[-4000:].strip()}")
    return said


def said_by(words, **options):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    return done.returncode, done.stdout


def kept(name, make, *contents):
    """A directory that is made once for its contents: `make` fills it."""
    sha = hashlib.sha256("\0".join([name, *contents]).encode()).hexdigest()[:16]
    directory = os.path.join(HOME, f"{name}-{sha}")
    if not os.path.exists(os.path.join(directory, "complete")):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        make(directory)
        open(os.path.join(directory, "complete"), "w").close()
    return directory


def python(*packages):
    """A Python that has these packages."""
    def make(directory):
        fetch([sys.executable, "-m", "venv", directory], "no environment for Python can be made")
        pip = [os.path.join(directory, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", *packages]
        fetch(pip, f"PyPI does not give {' '.join(packages)}")
    return os.path.join(kept("python", make, *packages), "bin", "python")


def node(*packages):
    """A directory whose `node_modules` has these packages."""
    npm = command("npm")

    def make(directory):
        fetch([npm, "install", "--no-audit", "--no-fund", "--prefix", directory, *packages], f"npm does not give {' '.join(packages)}")
    return kept("node", make, *packages)


def go(source, *modules):
    """A program in Go that is built from one file of ours and these modules."""
    tool = command("go", "golang-go")
    with open(source) as file:
        text = file.read()

    def make(directory):
        environment = os.environ | {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
        shutil.copy(source, os.path.join(directory, "main.go"))
        run([tool, "mod", "init", "client"], cwd=directory, env=environment)
        for module in modules:
            fetch([tool, "get", module], f"the Go module proxy does not give {module}", cwd=directory, env=environment)
        run([tool, "build", "-o", "client", "."], cwd=directory, env=environment)
    return os.path.join(kept("go", make, text, *modules), "client")


def maven(name):
    """The class path of a project in Java, built: `files/NAME/`."""
    tool, compiler = command("mvn", "maven"), command("javac", "default-jdk-headless")
    source = os.path.join(FILES, name)
    with open(os.path.join(source, "pom.xml")) as pom, open(os.path.join(source, "Main.java")) as main:
        texts = pom.read(), main.read()

    def make(directory):
        shutil.copy(os.path.join(source, "pom.xml"), directory)
        goal = ["dependency:build-classpath", "-Dmdep.outputFile=classpath"]
        fetch([tool, "-q", "-B", *goal], f"Maven does not give what {name} needs", cwd=directory)
        run([compiler, "-cp", class_path(directory), "-d", directory, os.path.join(source, "Main.java")])
    return class_path(kept(f"java-{name}", make, *texts))


def class_path(directory):
    with open(os.path.join(directory, "classpath")) as file:
        return f"{directory}:{file.read().strip()}"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def recipe(page, language, number=0):
    """A block of code of a page of docs/clients, as it is written there: what is tried is what is recommended."""
    with open(os.path.join(PAGES, page)) as file:
        blocks = re.findall(rf"^```{language}\n(.*?)^```", file.read(), re.DOTALL | re.MULTILINE)
    check(len(blocks) > number, f"{page} has a recipe in {language}, number {number}")
    return blocks[number]


def adapted(name, text, *changes):
    """A recipe for this machine: each of the changes, (what, by what), must be needed."""
    for what, instead in changes:
        check(what in text, f"{name} has {what!r}:\n{text}")
        text = text.replace(what, str(instead))
    return text


def put(directory, name, text, *changes):
    """Writes an adapted recipe; its path."""
    path = os.path.join(directory, name)
    with open(path, "w") as file:
        file.write(adapted(name, text, *changes))
    return path


def fill(name, directory, **values):
    """A configuration from `files/`, put into a directory, with `@DIRECTORY@` and other `@NAME@`s filled in; its path."""
    values["directory"] = directory
    with open(os.path.join(FILES, name)) as file:
        text = re.sub(r"@(\w+)@", lambda found: str(values[found.group(1).lower()]), file.read())
    return put(directory, name, text)


@contextlib.contextmanager
def running(words, directory, port=None, **options):
    """A program that runs until the block ends; with a port, once it listens there."""
    log = os.path.join(directory, os.path.basename(words[0]) + ".log")
    with open(log, "ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=directory, **options)
    try:
        until = time.monotonic() + 120
        while port and not listens(port):
            with open(log, errors="replace") as text:
                ends = process.poll() is not None or time.monotonic() > until
                check(not ends, f"{words[0]} starts: {process.returncode}\n{text.read()[-4000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
