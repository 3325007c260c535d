#!/usr/bin/env python3
"""Runs a pod that is killed now and then, as kill -9 does, and started again: killed.py PERIOD FIRST ADMIN TURN -- COMMAND...

The first kill is FIRST seconds after the start, the others follow every PERIOD seconds; one that is due before the pod is ready waits for
that. ADMIN is where the pod's probes are, and TURN a file for all pods of a cluster: who holds its lock is killed and not ready yet, and no
other pod is killed meanwhile. To whoever started this it is the pod: signals are passed on, and it ends as the pod does that ends by itself
or is told to. `crates/testing/src/server/kills.rs` runs it.
"""

import ctypes
import fcntl
import signal
import subprocess
import sys
import time
import urllib.request

PAUSE = 0.05
ANSWER_TIMEOUT = 5
DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG
LIBC = ctypes.CDLL(None)
ASK = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def dies_with_parent():
    """In the pod, before it is the pod: who kills this with -9 kills the pod."""
    LIBC.prctl(DEATH_OF_PARENT, signal.SIGKILL)


class Pod:
    """The pod's process, one after the other."""

    def __init__(self, command, admin):
        self.command, self.probe = command, f"http://{admin}/readyz"
        self.process = None
        self.is_told = False  # to end, whether it has heard it or not
        self.waits = None  # the signal that it has not heard
        self.starts_again = False  # then a signal waits until it is ready
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.tell(number))
        self.start()

    def tell(self, number):
        self.is_told, self.waits = True, number
        self.pass_on()

    def pass_on(self):
        if self.waits and self.process and not self.starts_again:
            number, self.waits = self.waits, None
            self.process.send_signal(number)

    def start(self):
        self.process = subprocess.Popen(self.command, preexec_fn=dies_with_parent)
        self.pass_on()

    def kill(self):
        """Kills it and waits until it is ready again, unless it was told to end."""
        self.starts_again = True
        if not self.is_told:
            self.process.kill()
            self.process.wait()
            print("killed, and started again", file=sys.stderr, flush=True)
            self.start()
            while not self.is_ready():
                self.ends()
                time.sleep(PAUSE)
        self.starts_again = False
        self.pass_on()

    def is_ready(self):
        try:
            with ASK(self.probe, timeout=ANSWER_TIMEOUT) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ends(self):
        """Ends as the pod has ended, if it has."""
        code = self.process.poll()
        if code is None:
            return
        if code >= 0:
            sys.exit(code)
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.raise_signal(-code)


def has_turn(turn):
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main():
    words = sys.argv[1:]
    at = words.index("--")
    (period, first, admin, path), command = words[:at], words[at + 1 :]
    period, due = float(period), time.monotonic() + float(first)
    pod = Pod(command, admin)
    with open(path, "a") as turn:
        while True:
            pod.ends()
            if time.monotonic() >= due and has_turn(turn):
                if pod.is_ready():
                    pod.kill()
                    while due <= time.monotonic():
                        due += period
                fcntl.flock(turn, fcntl.LOCK_UN)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
