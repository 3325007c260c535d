"""Stands in for what the pages for operators speak to: one Zombi with identity, as the production overlay has it, on a bucket of the
stand-in S3. `kubectl`, `curl` and `zombi` are programs in a directory of their own, which ask this process; what `kubectl` does to the
pod is done to the real binary, and a Job of deploy/examples/care.sh is run as it says. `runbooks.py` follows the pages with it."""

import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import urllib.request

import yaml

from demo import Zombi, check
from manifests import DEPLOY, ROOT, kustomize, of, one, variables, with_components

# Commands that look at the bucket or the settings, and so have the pod's settings; the others ask the server.
OF_STORE = {"backup", "restore", "verify", "manifest", "segment", "salvage", "config", "auth"}
# Whose names in the pages must be those that are deployed.
DEPLOYED = {"statefulset": "StatefulSet", "svc": "Service", "configmap": "ConfigMap", "podmonitor": "PodMonitor"}
# Asks the process that follows the pages, and prints what that says.
PROGRAM = """#!{python}
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({socket!r})
environment = {{name: value for name, value in os.environ.items() if name.startswith("ZOMBI_")}}
given = sys.stdin.read() if sys.argv[-1] == "-" else ""
asked.sendall(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), environment, given]).encode() + b"\\n")
code, out, err = json.loads(asked.makefile().read())
sys.stderr.write(err)
try:
    sys.stdout.write(out)
    sys.stdout.flush()
except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.exit(code)
"""
# What belongs to others: neither is it here, nor can it be followed.
OTHERS = ["aws", "docker", "kind", "gh", "amtool", "make", "sleep", "sha256sum"]
# What NATS says of itself where there is none: tests/log has three real servers.
NO_NATS = '{"account_details": [], "config": {}}'


class OnCall:
    """A Zombi, and what whoever is on call may do to it. `more` is set beside what every page needs."""

    def __init__(self, binary, s3, directory, more):
        self.binary, self.s3, self.directory, self.more = binary, s3, directory, dict(more)
        self.old = os.path.join(directory, "old")
        self.asked, self.restored, self.applied, self.job = [], None, {}, (0, "")
        self.token, self.files = identity(binary, directory)
        self.names = deployed()
        # Last: what fails before it leaves no process behind.
        self.zombi = self.begin(os.path.join(directory, "volume"))

    def begin(self, volume, **more):
        # Nothing is flushed unasked, so that a page finds what it tells of.
        settings = {"flush.interval_secs": "3600"} | self.files | self.more | more
        return Zombi(self.binary, volume, self.s3.endpoint, settings)

    def request(self, method, path, body=None, expected=(200, 201, 202), at=None):
        zombi = at or self.zombi
        status, answer = zombi.request(method, path, body=body, headers={"Authorization": f"Bearer {self.token}"})
        check(status in expected, f"{method} {path}: {status} {answer}")
        return answer

    def stop(self):
        """As the kubelet does."""
        if self.zombi.process.poll() is None:
            self.zombi.process.send_signal(signal.SIGTERM)
            check(self.zombi.process.wait(300) == 0, "Zombi stops cleanly")

    def end(self):
        for zombi in filter(None, (self.zombi, self.restored)):
            zombi.kill()

    def start(self):
        if self.zombi.process.poll() is not None:
            settings = self.more | self.applied
            self.more, self.applied = settings, {}
            self.zombi = self.begin(self.zombi.volume)

    def abandon(self):
        """The volume is left behind with what only it has, and another one serves."""
        self.zombi.kill()
        os.rename(self.zombi.volume, self.old)
        self.zombi = self.begin(self.zombi.volume)

    def begin_beside(self, overlay):
        """Another one, in the namespace and with the prefix that an overlay gives it."""
        rendered = kustomize(overlay)
        spaces = {each["metadata"].get("namespace") for each in rendered}
        check(spaces == {"zombi-restored"}, f"all of it is in a namespace of its own: {spaces}")
        prefix = variables(one(rendered, "StatefulSet", "zombi"))["ZOMBI_S3_PREFIX"]
        self.restored = self.begin(os.path.join(self.directory, "restored"), **{"s3.prefix": prefix})

    def lose_manifests(self):
        """As if somebody had deleted them. Zombi is stopped."""
        self.s3.stop()
        shutil.rmtree(os.path.join(self.s3.directory, self.more["s3.bucket"], "manifests"))
        # Its port may be another program's by now, so it gets a new one, and commands on the bucket ask there.
        was = self.s3.endpoint
        self.s3.start()
        self.zombi.command = [word.replace(was, self.s3.endpoint) for word in self.zombi.command]

    def log(self):
        with open(self.zombi.volume + ".log", errors="replace") as log:
            return log.read()

    def admin_port(self):
        return int(re.findall(r"the admin port address=\S+:(\d+)", self.log())[-1])

    def metrics(self):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port()}/metrics", timeout=60).read().decode()

    def answer(self, program, words, directory, environment, given=""):
        """What a program prints that is given this input: exit code, standard output and standard error."""
        self.asked.append((program, words))
        if program in OTHERS:
            return 0, "", ""
        if program == "kubectl":
            return self.run_kubectl(words, directory, environment, given)
        return getattr(self, f"run_{program}")(words, directory, environment)

    def run_zombi(self, words, directory, environment):
        check(words, "zombi is told what to do")
        command = [self.binary, *words]
        if words[0] in OF_STORE:
            command = [self.binary, *self.settings(words, environment), *words]
        url = f"http://127.0.0.1:{self.zombi.port}"
        command = [url if word == "http://localhost:8080" else word for word in command]
        ran = subprocess.run(command, cwd=directory, env=self.zombi.environment | {"ZOMBI_URL": url} | environment,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
        return ran.returncode, ran.stdout, ran.stderr

    def settings(self, words, environment):
        """The pod's, without those that the command or its environment has itself."""
        pairs = zip(self.zombi.command[1::2], self.zombi.command[2::2])
        is_given = {name.removeprefix("ZOMBI_").lower() for name in environment}
        is_given |= {"data_dir"} if "--data-dir" in words else set()
        return [word for pair in pairs if pair[1].split("=")[0].replace(".", "_") not in is_given for word in pair]

    def run_curl(self, words, directory, environment):
        if any("localhost:8222" in word for word in words):
            return 0, NO_NATS, ""
        ports = {"localhost:8080": self.zombi.port, "localhost:9090": self.admin_port(), "zombi:8080": self.zombi.port,
                 "localhost:8081": self.restored and self.restored.port}
        for name, port in ports.items():
            words = [re.sub(rf"^(http://)?{name}", f"http://127.0.0.1:{port}", word) for word in words]
        ran = subprocess.run(["/usr/bin/env", "-u", "http_proxy", "curl", "--fail-with-body", *words], cwd=directory,
                             capture_output=True, text=True, timeout=600)
        return ran.returncode, ran.stdout, f"{ran.stderr}{ran.stdout}" if ran.returncode else ran.stderr

    def run_kubectl(self, words, directory, environment, given):
        if "--local" in words:
            ran = subprocess.run(["kubectl", *words], cwd=directory, capture_output=True, text=True, timeout=60)
            return ran.returncode, ran.stdout, ran.stderr
        while words[0] in ("-n", "--namespace"):
            words = words[2:]
        verb, rest = words[0], words[1:]
        if verb == "create" and rest[-1] == "-":
            self.run_job(yaml.safe_load(given), directory)
            return 0, "", ""
        if "job/zombi-care" in rest:
            return 0, self.job[1], ""
        if verb == "get" and rest[0] == "job":
            return 0, "1/" if self.job[0] == 0 else "/1", ""
        if verb == "exec":
            program, *given = rest[rest.index("--") + 1:]
            check(program == "zombi", f"only zombi is in the image: {rest}")
            return self.run_zombi(given, directory, environment)
        if verb == "logs":
            return 0, self.log(), ""
        if verb == "create" and rest[0] == "token":
            check(rest[1] in self.names["ServiceAccount"], f"there is the account {rest[1]}")
            return 0, self.token + "\n", ""
        if verb == "apply" and "-k" in rest:
            place = rest[rest.index("-k") + 1]
            if place == "my-restored":
                self.begin_beside(os.path.join(directory, place))
                return 0, "", ""
            is_own = place == "." or "/my-" in place
            check(is_own or os.path.isdir(os.path.join(ROOT, place)), f"there is {place}")
            self.start()
            return 0, "", ""
        self.check_names(rest)
        return 0, self.kubectl(verb, rest), ""

    def run_job(self, job, directory):
        """Runs the one command of a Job; its log has both outputs. The claim that it mounts is a volume that was left behind."""
        template = job["spec"]["template"]["spec"]
        container = template["containers"][0]
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in template.get("volumes", [])}
        mounted = {mount["mountPath"]: claims[mount["name"]] for mount in container.get("volumeMounts", [])}
        check(set(mounted.values()) <= self.names["pvc"], f"there are the claims {mounted}")
        words = [self.old if word in mounted else word for word in container["args"]]
        code, out, err = self.run_zombi(words, directory, {})
        self.job = code, err + out

    def kubectl(self, verb, rest):
        """What such a command prints, after it has done to Zombi what the cluster would do to the pod."""
        said = " ".join(rest)
        if verb == "scale":
            self.stop() if re.search(r"--replicas[ =]0", said) else self.start()
        elif (verb, rest[0]) == ("delete", "pod") or said.startswith("restart statefulset"):
            self.stop()
            self.start()
        elif (verb, rest[0]) == ("delete", "pvc") and self.zombi.process.poll() is not None:
            shutil.rmtree(self.zombi.volume)
        elif verb == "wait":
            check(self.zombi.process.poll() is not None, "nothing runs any more")
        elif verb == "describe":
            return "Used By: <none>\n"
        elif "zombi-policy" in rest:
            with open(self.files["auth.policy_file"]) as policy:
                return policy.read()
        elif "yaml" in rest:
            return json.dumps(self.pod, indent=1)
        elif "--raw" in rest:
            return '{"name": "data-zombi-0"}\n' if "stats" in said else "{}\n"
        return "pvc-1 zombi-0 data-zombi-0\n"

    @property
    def pod(self):
        return of(with_components(on="overlays/production"), "StatefulSet")[0]

    def check_names(self, rest):
        """Whoever follows a page finds what it names."""
        kinds = rest[0].split(",") if rest and "/" not in rest[0] else []
        named = [word.split("/") for word in rest if re.fullmatch(r"[a-z]+/[a-z0-9-]+", word)]
        if len(kinds) == 1 and len(rest) > 1 and not rest[1].startswith("-"):
            named.append([kinds[0], rest[1]])
        if rest and re.fullmatch(r"zombi-[a-z0-9-]+", rest[0]):
            named.append(["pod", rest[0]])
        for kind, name in named:
            there = self.names.get(DEPLOYED.get(kind, kind))
            check(there is None or name in there, f"there is the {kind} {name}: {there}")


def deployed():
    """The names of what is deployed, by kind; of pods and claims those that Kubernetes makes."""
    objects = with_components("prometheus-operator", on="overlays/cluster")
    names = {}
    for each in objects:
        names.setdefault(each["kind"], set()).add(each["metadata"]["name"])
    pods = [(each, f"{each['metadata']['name']}-{number}") for each in of(objects, "StatefulSet")
            for number in range(each["spec"]["replicas"])]
    names["pod"] = {pod for _, pod in pods}
    names["pvc"] = {f"{claim['metadata']['name']}-{pod}" for each, pod in pods for claim in each["spec"]["volumeClaimTemplates"]}
    return names


def identity(binary, directory):
    """The token of whoever is on call, and the settings by which Zombi knows it: the rights are those of the production overlay."""
    made = subprocess.run([binary, "token", "new", "oncall"], capture_output=True, text=True, check=True).stdout
    token, line = (found for found in made.splitlines() if "zmb_" in found or "sha256" in found)
    with open(os.path.join(DEPLOY, "components", "auth", "policy.yaml")) as policy:
        text = policy.read().replace("sa:zombi/zombi-oncall", "token:oncall")
    check("token:oncall" in text, "the policy names who is on call")
    files = {"policy": text, "tokens": f"version: 1\ntokens:\n{line}\n"}
    settings = {"auth.mode": "required"}
    for name, content in files.items():
        settings[f"auth.{name}_file"] = os.path.join(directory, f"{name}.yaml")
        with open(settings[f"auth.{name}_file"], "w") as file:
            file.write(content)
    return token.strip(), settings


class Programs:
    """The directory of the programs, for as long as their questions are answered."""

    def __init__(self, directory, oncall):
        self.directory, self.oncall = os.path.join(directory, "bin"), oncall
        os.mkdir(self.directory)
        socket = os.path.join(directory, "asked")
        for name in ["kubectl", "curl", "zombi", *OTHERS]:
            path = os.path.join(self.directory, name)
            with open(path, "w") as file:
                file.write(PROGRAM.format(python=sys.executable, socket=socket))
            os.chmod(path, 0o755)
        programs = self

        class Asked(socketserver.StreamRequestHandler):
            def handle(self):
                asked = json.loads(self.rfile.readline())
                try:
                    answer = programs.oncall.answer(*asked)
                except (SystemExit, OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
                    answer = 1, "", f"{asked[:2]}: {error!r}\n"
                self.wfile.write(json.dumps(answer).encode())

        self.server = socketserver.ThreadingUnixStreamServer(socket, Asked)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()
