"""The production overlay on a real API server, and identity with the cluster's own tokens and keys: who is let in,
who is not, a right that is taken away, a client's pod, drains against the budget, and what a deletion leaves."""

import http.client
import json
import os
import subprocess
import threading

import yaml

from cluster import NODE
from demo import check, say
from load import Connection, pages
from manifests import CERT_MANAGER, DEPLOY, OPERATOR, ROOT, kustomize, with_components
from monitoring import alerts, dashboards, kinds, monitors
from namespace import CLAIM, POD, SET, Clock, Namespace

OVERLAY = os.path.join(DEPLOY, "overlays", "production")
EXAMPLES = os.path.join(DEPLOY, "examples")
ONCALL = {"subjects": ["sa:zombi/zombi-oncall"], "role": "operator", "tables": ["*"], "groups": ["*"]}
# A change of a ConfigMap is in the pod within a minute, and looked at within 5 s; with an annotation sooner.
RELOAD = 180


def production(cluster):
    space, shop = Namespace(cluster, "zombi"), Namespace(cluster, "shop")
    space.make()
    has_kinds = kinds(cluster)
    dry_runs(space, has_kinds)
    folder = Overlay(cluster)
    made(space, folder)
    try:
        cluster.kubectl("apply", "-f", os.path.join(EXAMPLES, "client.yaml"))
        shop.kubectl("create", "serviceaccount", "billing")
        tokens(space, shop)
        client(space, shop)
        right_taken(space, shop, folder)
        space.changes_nothing(folder.path)
        dashboards(space, folder.path)
        if has_kinds:
            monitors(space)
        alerts(space)
        drain(space)
        drain_unready(space)
        deleted(space, shop, folder)
        counted(space, shop)
    finally:
        space.unwatch()


class Overlay:
    """An overlay of somebody's own, as docs/kubernetes.md has it: MinIO for a bucket, and a policy."""

    def __init__(self, cluster):
        self.path = cluster.path("overlay")
        os.makedirs(self.path)
        os.symlink(ROOT, os.path.join(self.path, "zombi"))
        with open(os.path.join(EXAMPLES, "policy.yaml")) as file:
            self.policy = yaml.safe_load(file)
        self.policy["bindings"].append(ONCALL)
        self.lets_in(self.policy["bindings"])
        with open(os.path.join(self.path, "kustomization.yaml"), "w") as file:
            yaml.safe_dump({
                "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "zombi",
                "resources": ["zombi/deploy/overlays/production"],
                "components": ["zombi/deploy/components/minio"],
                "generatorOptions": {"disableNameSuffixHash": True},
                "configMapGenerator": [{"name": "zombi-policy", "behavior": "replace", "files": ["policy.yaml"]}],
                "images": [{"name": "registry.example.com/zombi", "newName": "zombi", "newTag": "dev"}],
            }, file)

    def lets_in(self, bindings):
        with open(os.path.join(self.path, "policy.yaml"), "w") as file:
            yaml.safe_dump(self.policy | {"bindings": bindings}, file)

    def without_minio(self):
        """What belongs to Zombi alone."""
        objects = kustomize(self.path)
        return [one for one in objects if "minio" not in one["metadata"]["name"] and one["metadata"]["name"] != "zombi-s3"
                and not one["metadata"]["name"].startswith("zombi-s3-")]


def dry_runs(space, has_kinds):
    """A real API server takes everything whose kinds it has, and warns of nothing."""
    done = space.cluster.kubectl("apply", "-k", OVERLAY, "--dry-run=server")
    check("Warning" not in done.stderr, f"the production overlay is taken without a warning: {done.stderr}")
    say(f"dry run    {len(done.stdout.splitlines())} objects of the production overlay, by the API server")
    names, left_out = sorted(os.listdir(os.path.join(DEPLOY, "components"))), 0
    foreign = (CERT_MANAGER,) if has_kinds else (CERT_MANAGER, OPERATOR)
    for name in names:
        objects = with_components("network-policy", name) if name.startswith("egress-") else with_components(name)
        known = [one for one in objects if not one["apiVersion"].startswith(foreign)]
        left_out += len(objects) - len(known)
        done = space.kubectl("apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump_all(known))
        check("Warning" not in done.stderr, f"the component {name} is taken without a warning: {done.stderr}")
    say(f"dry run    {len(names)} components on the base; {left_out} objects of operators' own are left out")


def made(space, folder):
    clock = Clock()
    space.apply(folder.path)
    space.watch()
    space.ready()
    say(f"production with MinIO for a bucket and {len(folder.policy['bindings'])} bindings, ready after {clock}")
    metrics = space.metrics()
    check(metrics.get("zombi_auth_enabled") == 1, "auth.mode is required")
    keys = space.wait("the cluster's keys are there", lambda: space.metrics().get("zombi_auth_keys"))
    say(f"keys       {keys:.0f} from the cluster's own /openid/v1/jwks, with no right but that of every ServiceAccount")


def token(space, account, *more):
    return space.kubectl("create", "token", account, *more).stdout.strip()


def caller(space, bearer=None, host="zombi.zombi:8080"):
    headers = {"Host": host} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
    return Connection(space.service(), headers=headers)


def asks(connection, method, path, body=None):
    """Status, and code or reason of a problem."""
    try:
        status, answer = connection.ask(method, path, body)
    except OSError as error:
        return 0, str(error)
    answer = answer if isinstance(answer, dict) else {}
    return status, answer.get("reason") or answer.get("code")


def tokens(space, shop):
    """TokenRequest's tokens, verified by the cluster's keys."""
    for_zombi = ["--audience", "zombi", "--duration", "1h"]
    shop.wait("the account default", lambda: shop.get("serviceaccount", "default"))
    checkout, billing = (caller(space, token(shop, name, *for_zombi)) for name in ("checkout", "billing"))
    event, orders = {"payload": {"order": 0}, "idempotency_key": "by-hand"}, "/tables/orders"
    commit = {"table": "orders", "partition": 0, "offset": 1}
    expected = [
        (checkout, "POST", orders, event, (201, None)),
        (checkout, "GET", orders, None, (403, "forbidden")),
        (checkout, "POST", "/tables/others", event, (403, "forbidden")),
        (billing, "GET", orders, None, (200, None)),
        (billing, "POST", orders, event, (403, "forbidden")),
        (billing, "POST", "/consumers/billing/commit", commit, (200, None)),
        (billing, "POST", "/consumers/others/commit", commit, (403, "forbidden")),
        (caller(space), "GET", orders, None, (401, "unauthenticated")),
        (caller(space, token(shop, "checkout", "--audience", "others")), "POST", orders, event, (401, "wrong_audience")),
        # The API server's own, which every pod had once.
        (caller(space, token(shop, "checkout")), "POST", orders, event, (401, "wrong_audience")),
        # Of an account that no binding names.
        (caller(space, token(shop, "default", *for_zombi)), "GET", orders, None, (403, "forbidden")),
        (caller(space, "e30.e30.e30"), "GET", orders, None, (401, None)),
        (caller(space, token(shop, "billing", *for_zombi), "elsewhere.example.com"), "GET", orders, None, (421, "wrong_host")),
    ]
    for number, (connection, method, path, body, (status, word)) in enumerate(expected):
        found = asks(connection, method, path, body)
        check(found[0] == status and word in (None, found[1]), f"request {number}, {method} {path}, is {status} {word}: {found}")
    oncall = Connection(space.pod()["status"]["podIP"], 9090)
    check(asks(oncall, "POST", "/flush")[0] == 401, "on the admin port too nobody flushes without a token")
    oncall.headers = {"Authorization": f"Bearer {token(space, 'zombi-oncall', *for_zombi)}"}
    found = asks(oncall, "POST", "/flush")
    check(found[0] == 200, f"a person with a token of zombi-oncall does: {found}")
    say(f"tokens     {len(expected) + 2} requests with real ServiceAccount tokens, each let in or refused as the policy says")


def client(space, shop):
    """deploy/examples/client.yaml, unchanged: by Zombi's name, with the token that the kubelet brings it."""
    billing = caller(space, token(shop, "billing", "--audience", "zombi", "--duration", "1h"))

    def arrived():
        found = [one for one in pages(billing, "orders") if one.get("idempotency_key", "").startswith("checkout-")]
        return len(found) if len(found) >= 5 else None

    count = space.wait("the client's events arrive", arrived)
    labels = json.loads(space.cluster.kubectl("get", "namespace", "shop", "-o", "json").stdout)["metadata"]["labels"]
    check(labels["pod-security.kubernetes.io/enforce"] == "restricted", f"under the same rule: {labels}")
    say(f"client     the pod of deploy/examples writes as sa:shop/checkout: {count} events")


def right_taken(space, shop, folder):
    """Both clients lose their bindings while one writes each second and the other has a stream open."""
    before = space.uid(), space.restarts()
    for_zombi = ["--audience", "zombi", "--duration", "1h"]
    checkout = caller(space, token(shop, "checkout", *for_zombi))
    stream = Stream(caller(space, token(shop, "billing", *for_zombi)))
    space.wait("the stream is open", stream.opened.is_set)
    check(stream.status == 200, f"billing follows: {stream.status}")
    clock = Clock()
    folder.lets_in([ONCALL])
    reloaded(space, folder)
    body = {"payload": {"order": 0}, "idempotency_key": "by-hand"}
    space.wait("checkout is refused", lambda: asks(checkout, "POST", "/tables/orders", body) == (403, "forbidden"), RELOAD)
    took = str(clock)
    space.wait("billing's stream ends", stream.ended.is_set, 60)
    space.wait("the client says so", lambda: '"forbidden"' in shop.logs("checkout", "--tail=20"), 60)
    check((space.uid(), space.restarts()) == before and space.is_ready(), "and Zombi was not started again for it")
    folder.lets_in(folder.policy["bindings"])
    reloaded(space, folder)
    space.wait("checkout is let in again", lambda: asks(checkout, "POST", "/tables/orders", body)[0] == 200, RELOAD)
    say(f"rights     taken away by `kubectl apply`: refused after {took}, an open stream ended; given back: let in; no restart")


def reloaded(space, folder):
    space.apply(folder.path)
    # docs/security.md: so that the kubelet looks at once.
    space.kubectl("annotate", "pod", POD, f"looked-at={os.urandom(4).hex()}", "--overwrite")


class Stream:
    """Server-sent events of orders, read until they end."""

    def __init__(self, connection):
        self.connection, self.status = connection, None
        self.opened, self.ended = threading.Event(), threading.Event()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            it = http.client.HTTPConnection(self.connection.address, self.connection.port, timeout=120)
            it.request("GET", "/tables/orders", headers=self.connection.headers | {"Accept": "text/event-stream"})
            answer = it.getresponse()
            self.status = answer.status
            self.opened.set()
            while answer.read1(65_536):
                pass
        except (OSError, http.client.HTTPException):
            pass  # a reset is an end too
        self.opened.set()
        self.ended.set()


def drain(space):
    """A ready pod, one at a time."""
    allowed = space.wait("the budget allows one", lambda: space.get("pdb", "zombi").get("status", {}).get("disruptionsAllowed"))
    uid, clock = space.uid(), Clock()
    space.drain("--pod-selector=app.kubernetes.io/name=zombi")
    took = str(clock)
    space.ended_well(uid, "kubectl drain")
    space.uncordon()
    space.ready(other_than=uid)
    say(f"budget     {allowed} pod may go: {NODE} is drained of Zombi after {took}, ready again after {clock}")


def drain_unready(space):
    """A pod that is not ready is none that the budget could spare, and may go all the same."""
    uid, clock = space.uid(), Clock()
    space.signal("STOP")
    space.wait("the pod is unready", lambda: not space.is_ready())
    space.wait("the budget allows none", lambda: space.get("pdb", "zombi")["status"]["disruptionsAllowed"] == 0)
    command = [space.cluster.program("kubectl"), "drain", NODE, "--pod-selector=app.kubernetes.io/name=zombi", "--timeout=200s"]
    drained = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=space.cluster.environment())
    try:
        space.wait("it is evicted", lambda: "deletionTimestamp" in (space.pod() or {}).get("metadata", {}), 60)
        # So that it need not be killed at the end of its grace.
        space.signal("CONT")
        said, _ = drained.communicate(timeout=200)
    finally:
        drained.kill()
    check(drained.returncode == 0, f"the node is drained: {said}")
    space.uncordon()
    space.ready(other_than=uid)
    say(f"budget     none may go, an unready pod goes all the same: drained, ready again after {clock}")


def deleted(space, shop, folder):
    """Deleting the set takes neither the namespace nor the claim; applied again, everything is there."""
    claim, objects = space.get("pvc", CLAIM)["metadata"]["uid"], folder.without_minio()
    kinds = sorted({one["kind"] for one in objects})
    check("Namespace" not in kinds and "PersistentVolumeClaim" not in kinds, f"they are not of the set: {kinds}")
    uid = space.uid()
    space.kubectl("delete", "--timeout=300s", "-f", "-", text=yaml.safe_dump_all(objects))
    space.gone("pod", POD)
    space.ended_well(uid, "kubectl delete -k")
    check(space.get("pvc", CLAIM)["metadata"]["uid"] == claim, "the claim stays, with its namespace")
    space.apply(folder.path)
    space.ready(other_than=uid)
    space.rolled_out(SET)
    say("deleted    the production set: namespace and claim stay; applied again, it goes on with them")


def counted(space, shop):
    """What the client was told is there, and no order twice, over all of it."""
    space.wait("the client goes on", lambda: '"offset"' in shop.logs("checkout", "--tail=1"))
    check(shop.restarts("checkout") == 0, "the client ran all the while")
    told = []
    for line in shop.logs("checkout").splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and "offset" in answer:
            told.append(answer["offset"])
    billing = caller(space, token(shop, "billing", "--audience", "zombi", "--duration", "1h"))
    mine = [one for one in pages(billing, "orders") if one["idempotency_key"].startswith("checkout-")]
    offsets, orders = {one["offset"] for one in mine}, [one["payload"]["order"] for one in mine]
    check(told and set(told) <= offsets, f"nothing acknowledged is lost: {sorted(set(told) - offsets)[:5]}")
    check(len(orders) == len(set(orders)), f"nothing is there twice: {len(orders)} events, {len(set(orders))} orders")
    say(f"compared   {len(told)} events were acknowledged to the client: each is there, none twice")
