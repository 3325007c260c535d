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

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = os.path.join(HERE, "files")
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


def run(words, why, **options):
    """Runs something that may not be had: a build, or an installation."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    if done.returncode:
        raise Skip(f"{why}: {done.stdout[-400:].strip()}")
    return done.stdout


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
        run([sys.executable, "-m", "venv", directory], "no environment for Python can be made")
        pip = [os.path.join(directory, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", *packages]
        run(pip, f"PyPI does not give {' '.join(packages)}")
    return os.path.join(kept("python", make, *packages), "bin", "python")


def node(*packages):
    """A directory whose `node_modules` has these packages."""
    npm = command("npm")

    def make(directory):
        run([npm, "install", "--no-audit", "--no-fund", "--prefix", directory, *packages], f"npm does not give {' '.join(packages)}")
    return kept("node", make, *packages)


def go(source, *modules):
    """A program in Go that is built from one file of ours and these modules."""
    tool = command("go", "golang-go")
    with open(source) as file:
        text = file.read()

    def make(directory):
        environment = os.environ | {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
        shutil.copy(source, os.path.join(directory, "main.go"))
        run([tool, "mod", "init", "client"], "go mod init", cwd=directory, env=environment)
        for module in modules:
            run([tool, "get", module], f"the Go module proxy does not give {module}", cwd=directory, env=environment)
        run([tool, "build", "-o", "client", "."], f"{os.path.basename(source)} cannot be built", cwd=directory, env=environment)
    return os.path.join(kept("go", make, text, *modules), "client")


def maven(name):
    """The class path of a project in Java, built: `files/NAME/`."""
    tool = command("mvn", "maven")
    command("java", "default-jdk-headless")
    source = os.path.join(FILES, name)
    with open(os.path.join(source, "pom.xml")) as pom, open(os.path.join(source, "Main.java")) as main:
        texts = pom.read(), main.read()

    def make(directory):
        shutil.copy(os.path.join(source, "pom.xml"), directory)
        shutil.copy(os.path.join(source, "Main.java"), directory)
        goals = ["-q", "-B", "compile", "dependency:build-classpath", "-Dmdep.outputFile=classpath"]
        run([tool, *goals], f"Maven cannot build {name}", cwd=directory)
    directory = kept(f"java-{name}", make, *texts)
    with open(os.path.join(directory, "classpath")) as classpath:
        return f"{directory}/target/classes:{classpath.read().strip()}"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fill(name, directory, **values):
    """A configuration from `files/`, put into a directory, with `@DIRECTORY@` and other `@NAME@`s filled in; its path."""
    values["directory"] = directory
    with open(os.path.join(FILES, name)) as file:
        text = re.sub(r"@(\w+)@", lambda found: str(values[found.group(1).lower()]), file.read())
    path = os.path.join(directory, name)
    with open(path, "w") as file:
        file.write(text)
    return path


@contextlib.contextmanager
def running(words, directory, port=None, **options):
    """A program that runs until the block ends; with a port, once it listens there."""
    log = os.path.join(directory, os.path.basename(words[0]) + ".log")
    with open(log, "ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=directory, **options)
    try:
        until = time.monotonic() + 120
        while port and not listens(port):
            if process.poll() is not None or time.monotonic() > until:
                with open(log, errors="replace") as text:
                    raise Skip(f"{words[0]} does not start here: {text.read()[-400:]}")
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
