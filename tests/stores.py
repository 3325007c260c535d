#!/usr/bin/env python3
"""Second opinions: Zombi against S3 servers that others have written.

    tests/stores.py ZOMBI

moto honours conditional writes: events go in, S3 alone brings them back on a new volume, and of two writers the first is
fenced. rclone ignores them: Zombi must refuse it, and say what to do; told to take it as it is, it works. ZOMBI is the binary
(`make stores` builds and passes it). Needs the packages of tests/requirements.txt in the Python that runs it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from demo import Zombi, check, say

HERE = os.path.dirname(sys.executable)
FENCED = 4


def main():
    zombi = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="zombi-stores-") as directory:
        with Store([os.path.join(HERE, "moto_server"), "--host", "127.0.0.1", "--port", "{port}"]) as store:
            one_writer(zombi, store.endpoint, os.path.join(directory, "moto"))
            two_writers(zombi, store.endpoint, os.path.join(directory, "fence"))
        say("moto      events come back from S3 alone; of two writers the first is fenced")
        files = os.path.join(directory, "files")
        os.mkdir(files)
        command = [os.path.join(HERE, "rclone"), "serve", "s3", "--addr", "127.0.0.1:{port}", "--auth-key", "zombi,zombi-secret",
                   "--config", os.devnull, files]
        with Store(command) as store:
            refused(zombi, store.endpoint, os.path.join(directory, "refused"))
            one_writer(zombi, store.endpoint, os.path.join(directory, "unfenced"), {"s3.unfenced": "true"})
        say("rclone    is refused, and works with s3.unfenced")


def one_writer(binary, endpoint, volume, settings=None):
    zombi = start(binary, endpoint, volume, settings)
    try:
        zombi.post_stream(f'{{"payload": {n}, "partition": {n % 3}}}\n'.encode() for n in range(3000))
        status, answer = zombi.request("POST", "/flush")
        check(status == 200 and answer["events"] == 3000, f"flushed: {status} {answer}")
        before = sorted((one["partition"], one["offset"], one["payload"]) for one in zombi.pages())
        zombi.kill()
        shutil.rmtree(volume)
        zombi.start()
        after = sorted((one["partition"], one["offset"], one["payload"]) for one in zombi.pages())
        check(len(after) == 3000 and after == before, "all events come back from S3 alone")
        audit = subprocess.run(zombi.command + ["verify"], env=zombi.environment, capture_output=True, text=True)
        check(audit.returncode == 0, f"the audit finds nothing: {audit.stdout}{audit.stderr}")
    finally:
        zombi.kill()


def two_writers(binary, endpoint, volume):
    settings = {"s3.prefix": "fence"}
    first = start(binary, endpoint, volume + "-1", settings)
    second = None
    try:
        first.post_stream(f'{{"payload": {n}}}\n'.encode() for n in range(100))
        check(first.request("POST", "/flush")[0] == 200, "the first writer flushes")
        second = start(binary, endpoint, volume + "-2", settings)
        check(first.process.wait(timeout=300) == FENCED, f"the first writer is fenced: {first.process.returncode}")
        check(len(list(second.pages())) == 100, "the second has its events")
    finally:
        first.kill()
        if second:
            second.kill()


def refused(binary, endpoint, volume):
    zombi = start(binary, endpoint, volume, wait=False)
    code = zombi.process.wait(timeout=300)
    with open(volume + ".log", errors="replace") as log:
        text = log.read()
    check(code == 1 and "s3.unfenced" in text, f"a store without conditional writes is refused: {code}\n{text}")


def start(binary, endpoint, volume, settings=None, wait=True):
    return Zombi(binary, volume, endpoint, settings, wait)


class Store:
    """An S3 server in a process of its own, on a port that was free a moment ago."""

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        for _ in range(10):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [word.format(port=port) for word in self.command]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.endpoint = f"http://127.0.0.1:{port}"
            if self.answers():
                return self
            self.__exit__()
        check(False, f"{self.command[0]} serves")

    def answers(self):
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.endpoint, timeout=10)
                return True
            except urllib.error.HTTPError:
                return True
            except OSError:
                time.sleep(0.1)
        return False

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main()
