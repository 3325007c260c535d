"""A Kubernetes of one node, real but for DNS and volumes, in namespaces of its own (mount, net, pid, uts, ipc).

Everything that it writes is below one folder, and everything that it starts ends with the first process of its
namespaces. README.md beside this file says what it took.
"""

import ctypes
import glob
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request

import yaml

from api import TOKEN
from demo import check, say

HERE = os.path.dirname(os.path.abspath(__file__))
ADDRESS, NODE = "10.97.0.1", "node"
API = f"https://{ADDRESS}:6443"
# What kubeadm's clusters have, and so the component auth.
ISSUER = "https://kubernetes.default.svc.cluster.local"
PATIENCE = 300
PLUGINS = "/usr/lib/cni"
# Commands and Debian's packages, where those have another name.
TOOLS = {
    "etcd": "etcd-server", "containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables",
    "ip": "iproute2", "openssl": "openssl", "nsenter": "util-linux", "unshare": "util-linux", "setpriv": "util-linux", "mount": "mount",
    "mkfs.ext4": "e2fsprogs", "cc": "gcc", "diff": "diffutils", f"{PLUGINS}/bridge": "containernetworking-plugins",
}
# Who asks the API server: the token and the group of each.
USERS = {
    "admin": ("admin", "system:masters"),
    "manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "node": (f"system:node:{NODE}", "system:nodes"),
}
NETWORK = {
    "cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
# Without CAP_SYS_RESOURCE no process may lower an oom_score_adj, and every sandbox would die of trying.
CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False,
    "clusterDNS": [ADDRESS], "clusterDomain": "cluster.local",
    "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
    "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
}
PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
    "mode": "iptables", "clusterCIDR": "10.244.0.0/16", "hostnameOverride": NODE,
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    "iptables": {"localhostNodePorts": False},
}
CLONE_NEWNET = 0x40000000


def hindrance():
    """Why no cluster can run here, or nothing."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "this needs Linux and root"
    missing = sorted({package for command, package in TOOLS.items() if not shutil.which(command)})
    if missing:
        return f"this needs {', '.join(missing)} (Debian's names)"
    if occupied():
        return f"a kubelet runs here already: {', '.join(occupied())}"
    # What the cluster does first, in namespaces that end with it.
    tries = ("ip link add br0 type bridge && ip link add a0 type veth peer name b0 && iptables -t nat -L -n "
             "&& mount -t tmpfs tmpfs /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/o "
             "&& mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w overlay /mnt/o "
             "&& ls /dev/loop-control /proc/sys/net/bridge/bridge-nf-call-iptables")
    tried = subprocess.run(["unshare", "-m", "-n", "-p", "-f", "-u", "-i", "--mount-proc", "sh", "-c", tries],
                           capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return None if tried.returncode == 0 else f"this kernel does not let it: {tried.stderr.strip() or tries}"


def control_groups():
    return glob.glob("/sys/fs/cgroup/kubepods*") + glob.glob("/sys/fs/cgroup/*/kubepods*")


def occupied():
    """The kubelet's control groups that have processes."""
    return [top for top in control_groups() if any(processes(directory) for directory, _, _ in os.walk(top))]


def processes(directory):
    try:
        with open(os.path.join(directory, "cgroup.procs")) as file:
            return file.read().split()
    except OSError:
        return []


class Cluster:
    """Programs from `programs`, files below `work`."""

    def __init__(self, programs, work):
        self.programs, self.work, self.started, self.outer, self.pid = programs, work, {}, None, None

    def path(self, *names):
        return os.path.join(self.work, *names)

    def program(self, name):
        return os.path.join(self.programs, name)

    # ---- start and end

    def start(self):
        began = time.monotonic()
        self.settings()
        self.first_process()
        self.enter()
        self.control_plane()
        self.node()
        say(f"cluster    a node is ready after {time.monotonic() - began:.0f} s; everything is in {self.work}")

    def settings(self):
        for directory in ("conf", "pki", "log", "etcd", "volumes", "node/cni-conf"):
            os.makedirs(self.path(directory), exist_ok=True)
        lines = [f"{user}-token,{name},{user}" + (f",{group}" if group else "") for user, (name, group) in USERS.items()]
        check(lines[0].startswith(TOKEN + ","), "what runs on the node is an administrator")
        self.write("conf/tokens.csv", "\n".join(lines) + "\n")
        for user in USERS:
            self.write(f"conf/{user}.kubeconfig", yaml.safe_dump({
                "apiVersion": "v1", "kind": "Config", "current-context": "it",
                "clusters": [{"name": "it", "cluster": {"server": API, "certificate-authority": self.path("pki", "apiserver.crt")}}],
                "users": [{"name": user, "user": {"token": f"{user}-token"}}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": user}}],
            }))
        self.write("conf/resolv.conf", "")
        self.write("conf/kubelet.yaml", yaml.safe_dump(KUBELET | {"resolvConf": self.path("conf", "resolv.conf")}))
        self.write("conf/proxy.yaml", yaml.safe_dump(PROXY | {"clientConnection": {"kubeconfig": self.path("conf", "proxy.kubeconfig")}}))
        self.write("conf/containerd.toml", CONTAINERD)
        self.write("node/cni-conf/10-pods.conflist", json.dumps(NETWORK, indent=1))
        for command in (["genrsa", "-out", self.path("pki", "sa.key"), "2048"],
                        ["rsa", "-in", self.path("pki", "sa.key"), "-pubout", "-out", self.path("pki", "sa.pub")]):
            made = subprocess.run(["openssl", *command], capture_output=True, text=True)
            check(made.returncode == 0, f"openssl makes a key: {made.stderr}")

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)

    def first_process(self):
        with open(self.path("log", "init.log"), "wb") as log:
            # It ends with this process, however that ends.
            command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-n", "-p", "-f", "-u", "-i", "--mount-proc", "--kill-child",
                       "bash", os.path.join(HERE, "init.sh"), self.work, ADDRESS, NODE]
            self.outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.wait("the namespaces", lambda: os.path.exists(self.path("up")) or self.outer.poll() is not None)
        check(self.outer.poll() is None, f"the namespaces are made:\n{self.tail('init')}")
        with open(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children") as children:
            self.pid = int(children.read().split()[0])
        # For people: WORK/in kubectl get pods -A
        self.write("in", f'#!/bin/sh\nexec {" ".join(self.inside())} env KUBECONFIG={self.path("conf", "admin.kubeconfig")} '
                         f'HOME={self.work} PATH="{self.programs}:$PATH" "$@"\n')
        os.chmod(self.path("in"), 0o755)

    def enter(self):
        """This thread, and all that it starts from now on, sees the cluster's network."""
        # There is no way out of it, so no proxy either.
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{self.pid}/ns/net") as network:
            check(libc.setns(network.fileno(), CLONE_NEWNET) == 0, f"the network is entered: {os.strerror(ctypes.get_errno())}")

    def control_plane(self):
        self.run("etcd", "etcd", "--data-dir", self.path("etcd"), "--unsafe-no-fsync",
                 "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
                 "--listen-peer-urls", "http://127.0.0.1:2380")
        self.run("containerd", "containerd", "--config", self.path("conf", "containerd.toml"))
        self.wait("etcd", lambda: answers("http://127.0.0.1:2379/health"))
        self.run("apiserver", self.program("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379",
                 f"--bind-address={ADDRESS}", f"--advertise-address={ADDRESS}", "--secure-port=6443", f"--cert-dir={self.path('pki')}",
                 "--service-cluster-ip-range=10.96.0.0/24", f"--token-auth-file={self.path('conf', 'tokens.csv')}",
                 "--authorization-mode=Node,RBAC", "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
                 f"--service-account-issuer={ISSUER}", f"--service-account-key-file={self.path('pki', 'sa.pub')}",
                 f"--service-account-signing-key-file={self.path('pki', 'sa.key')}")
        self.wait("the API server", lambda: answers(f"{API}/readyz"))
        self.run("manager", self.program("kube-controller-manager"), f"--kubeconfig={self.path('conf', 'manager.kubeconfig')}",
                 "--leader-elect=false", "--use-service-account-credentials=true", "--bind-address=127.0.0.1",
                 f"--cert-dir={self.path('pki', 'manager')}", f"--service-account-private-key-file={self.path('pki', 'sa.key')}",
                 f"--root-ca-file={self.path('pki', 'apiserver.crt')}")
        self.run("scheduler", self.program("kube-scheduler"), f"--kubeconfig={self.path('conf', 'scheduler.kubeconfig')}",
                 "--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={self.path('pki', 'scheduler')}")

    def node(self):
        self.wait("containerd", lambda: subprocess.run(self.inside("ctr", "version"), capture_output=True).returncode == 0)
        self.run("kubelet", self.program("kubelet"), f"--config={self.path('conf', 'kubelet.yaml')}",
                 f"--kubeconfig={self.path('conf', 'node.kubeconfig')}", f"--hostname-override={NODE}", f"--node-ip={ADDRESS}",
                 f"--cert-dir={self.path('pki', 'kubelet')}", "--root-dir=/var/lib/kubelet")
        self.run("proxy", self.program("kube-proxy"), f"--config={self.path('conf', 'proxy.yaml')}")
        authority = self.path("pki", "apiserver.crt")
        self.run("dns", sys.executable, "-B", os.path.join(HERE, "dns.py"), ADDRESS, authority)
        self.run("volumes", sys.executable, "-B", os.path.join(HERE, "volumes.py"), ADDRESS, authority, self.path("volumes"))
        ready = ["wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=10s"]
        self.wait("the node", lambda: self.kubectl(*ready, ok=False).returncode == 0)
        self.wait("the account default", lambda: self.kubectl("get", "serviceaccount", "default", ok=False).returncode == 0)
        self.kubectl("apply", "-f", os.path.join(HERE, "storage.yaml"))

    def load(self, archives):
        """Images, from the archives that `images.build` made."""
        for archive in archives:
            loaded = self.node_runs("ctr", "-n", "k8s.io", "images", "import", archive)
            check(loaded.returncode == 0, f"containerd takes {archive}: {loaded.stdout}{loaded.stderr}")

    def stop(self):
        if self.pid:
            # The first process of the namespace takes all others with it.
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in [*self.started.values(), self.outer]:
            if process:
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
        # Empty control groups stay behind otherwise.
        until = time.monotonic() + 30
        while occupied() and time.monotonic() < until:
            time.sleep(0.2)
        for top in control_groups():
            for directory, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass

    # ---- use

    def inside(self, *command):
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "-i", "--", *command]

    def run(self, name, *command):
        """Starts a part of the cluster, with a log of its own."""
        with open(self.path("log", f"{name}.log"), "ab") as log:
            self.started[name] = subprocess.Popen(self.inside(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                  start_new_session=True)

    def node_runs(self, *command):
        return subprocess.run(self.inside(*command), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)

    def kubectl(self, *arguments, ok=True, text=None):
        command = [self.program("kubectl"), *arguments]
        done = subprocess.run(command, input=text or "", capture_output=True, text=True, env=self.environment(), timeout=2 * PATIENCE)
        check(done.returncode == 0 or not ok, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done

    def environment(self):
        return os.environ | {"KUBECONFIG": self.path("conf", "admin.kubeconfig"), "HOME": self.work,
                             "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def wait(self, what, holds, patience=PATIENCE):
        """Until it holds; the cluster must stay whole meanwhile."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            found = holds()
            if found:
                return found
            for name, process in self.started.items():
                check(process.poll() is None, f"{name} runs, but it has ended with {process.returncode}:\n{self.tail(name)}")
            time.sleep(0.2)
        check(False, f"{what}: not within {patience} s")

    def tail(self, name, lines=30):
        try:
            with open(self.path("log", f"{name}.log"), errors="replace") as log:
                return "".join(log.readlines()[-lines:])
        except OSError as error:
            return f"{error}\n"

    def tell(self):
        """What a person wants to see of a failure."""
        if self.pid and "apiserver" in self.started and self.started["apiserver"].poll() is None:
            for arguments in (["get", "pods,pvc,pv,pdb,svc,endpointslices", "-A", "-o", "wide"],
                              ["get", "events", "-A", "--sort-by=.lastTimestamp"],
                              ["describe", "pods", "-A"]):
                try:
                    shown = self.kubectl(*arguments, ok=False)
                    say(f"---- kubectl {' '.join(arguments)}\n{shown.stdout[-12_000:]}{shown.stderr[-2_000:]}")
                except subprocess.TimeoutExpired:
                    say(f"---- kubectl {' '.join(arguments)}: no answer")
        for log in sorted(glob.glob(self.path("log", "*.log"))):
            say(f"---- {log}\n{self.tail(os.path.basename(log)[:-len('.log')])}")
        for log in sorted(glob.glob(self.path("node", "pods", "*", "*", "*.log")), key=os.path.getmtime)[-8:]:
            with open(log, errors="replace") as file:
                say(f"---- {log}\n{''.join(file.readlines()[-30:])}")


def answers(url):
    """Whether a server answers 200."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    # It writes its certificate when it starts: until then there is nothing to trust it by.
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, context=trust, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
