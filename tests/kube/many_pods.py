"""The overlay cluster with all of its pods on one node: three of Zombi, three NATS servers. What it makes, and what becomes
of events and clients when the owner of a shard, the server that leads its log, and then every pod goes under load."""

import collections
import hashlib
import json
import os
import time

import yaml

from demo import check, say
from load import Connection, Load
from manifests import DEPLOY, ROOT
from namespace import SET, Clock, Namespace
from production import token
from volumes import CLASS

# What a development has little room for, there is little room for here.
SMALL = os.path.join(DEPLOY, "overlays", "dev", "small.yaml")
# The smallest log that there can be; S3 is never so long away that it matters.
SMALL_LOG = {"ZOMBI_CLUSTER_LOG_MAX_BYTES": "67108864", "ZOMBI_CLUSTER_LOG_KEEP_BYTES": "8388608"}
PODS, SERVERS = ([f"{name}-{number}" for number in range(3)] for name in ("zombi", "zombi-nats"))
SERVERS_SET = "statefulset/zombi-nats"
MONITOR = 8222
# A table for each pod, with few writers: every event costs several processes something.
WRITERS = 2
# Three pods, one after the other, each with its whole grace and a start, on a node that does all of it by itself.
PATIENCE = 1200
AT_ONCE = ["--grace-period=0", "--force", "--wait=false"]
# As long as the part may take on a slow machine.
TOKEN_LASTS = ["--audience", "zombi", "--duration", "12h"]
# Of every pod, once all is well.
ALL_WELL = ("zombi_log_servers_unmet", "zombi_log_streams_damaged", "zombi_log_damage_total")

# A shard with clients: who owns it, which other pod has a copy and in which term it is, the container of the owner.
Loaded = collections.namedtuple("Loaded", "number owner other term container")


def many_pods(cluster):
    # What production has left behind needs its room and its names.
    cluster.kubectl("delete", "namespace", "zombi", "shop", "--ignore-not-found", "--timeout=300s")
    space = Pods(cluster, "zombi")
    path = overlay(cluster)
    made(space, path)
    try:
        space.writes()
        space.settled()
        space.changes_nothing(path)
        for step in (owner_deleted, owner_killed, log_leader_deleted, log_leader_killed, zombi_rolled, nats_rolled):
            step(space)
            space.goes_on()
            space.settled()
        for load in space.loads:
            load.stop()
        all_well(space)
        for load in space.loads:
            load.compare(f"after all that, {load.table}")
    finally:
        space.unwatch()


class Pods(Namespace):
    """The namespace, what its pods say of shards, and clients of one table for each pod."""

    def __init__(self, cluster, name):
        super().__init__(cluster, name)
        self.bearer, self.loads = None, []

    def shown(self, pod):
        """What a pod says of the cluster; nothing if it does not."""
        connection = self.admin(pod)
        connection.headers = {"Authorization": f"Bearer {self.bearer}"}
        try:
            status, answer = connection.ask("GET", "/cluster")
        except OSError:
            return None
        check(status != 403, f"an operator may ask for it: {answer}")
        return answer if status == 200 else None

    def writes(self):
        """Begins clients, by the Service: of three tables, each of which another pod should own."""
        shards = self.wait("a pod shows the cluster", lambda: self.shown(PODS[0]))["shards"]
        headers = {"Host": "zombi:8080", "Authorization": f"Bearer {self.bearer}"}
        self.loads = [Load(self.service(), headers, table, WRITERS).start() for table in tables(shards)]
        self.goes_on()
        say(f"events     of {', '.join(load.table for load in self.loads)} go in through the Service, by a ServiceAccount's token")

    def goes_on(self):
        for load in self.loads:
            load.goes_on()

    def settled(self):
        """Until all pods say the same: the first of each shard's copies owns it, and every copy has applied as much of its log as
        any had when this began."""
        shown, ends = {}, {}

        def wrong():
            shown.update({pod: self.shown(pod) for pod in PODS})
            ends.update(ends or ends_of(shown))
            return unsettled(shown, ends)

        until_right("every shard has its owner, and every copy keeps up", wrong)
        return shown

    def loaded(self):
        """The shard of the first table."""
        shards = self.settled()[PODS[0]]["shards"]
        number = shard_of(self.loads[0].table, len(shards))
        owner, other = shards[number]["copies"]
        term = self.wait(f"{other} says in which term shard {number} is", lambda: self.term(other, number))
        return Loaded(number, owner, other, term, self.container(owner))

    def term(self, pod, number):
        """The term of a shard, as a pod knows it that has a copy; 0 if it does not say."""
        shown = self.shown(pod)
        return shown["shards"][number].get("copy", {}).get("term", 0) if shown else 0


def until_right(what, wrong):
    """Until there is nothing wrong; what it was at last is said."""
    clock = Clock()
    while found := wrong():
        check(clock.secs() < PATIENCE, f"{what}: not within {PATIENCE} s: {found[:6]}")
        time.sleep(1)


# ---- how it is made

def overlay(cluster):
    """An overlay of somebody's own, as docs/kubernetes.md has it: MinIO for a bucket, and everything small, on one node."""
    path = cluster.path("many-pods")
    os.makedirs(path)
    os.symlink(ROOT, os.path.join(path, "zombi"))
    with open(SMALL) as file:
        [container] = yaml.safe_load(file)["spec"]["template"]["spec"]["containers"]
    env = container["env"] + [{"name": name, "value": value} for name, value in SMALL_LOG.items()]
    patches = [on_one_node("zombi", {"name": "zombi", "env": env}), on_one_node("zombi-nats", {"name": "nats"})]
    with open(os.path.join(path, "kustomization.yaml"), "w") as file:
        yaml.safe_dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "zombi",
            "resources": ["zombi/deploy/overlays/cluster"],
            "components": ["zombi/deploy/components/minio"],
            "patches": [{"patch": yaml.safe_dump(patch)} for patch in patches],
            "images": [{"name": "registry.example.com/zombi", "newName": "zombi", "newTag": "dev"}],
        }, file)
    return path


def on_one_node(name, container):
    """A patch: its pods need not be apart, ask for little, and have small volumes."""
    label = {"matchLabels": {"app.kubernetes.io/name": name}}
    rather = {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": label}}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "template": {"spec": {
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None,
                                                 "preferredDuringSchedulingIgnoredDuringExecution": [rather]}},
                "containers": [container | {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}}],
            }},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS, "resources": {"requests": {"storage": "2Gi"}}}}],
        },
    }


def made(space, path):
    space.make()
    secrets(space)
    clock = Clock()
    space.apply(path)
    space.watch()
    for pod in [*SERVERS, *PODS]:
        space.ready(pod, patience=PATIENCE)
    space.bearer = token(space, "zombi-oncall", *TOKEN_LASTS)
    starts = sum(space.restarts(pod) for pod in PODS)
    say(f"cluster    {len(PODS)} pods of Zombi and {len(SERVERS)} NATS servers, all on one node, ready after {clock}; "
        f"Zombi was started again {starts} times")


def secrets(space):
    """As docs/cluster.md says: NATS reads what begins with a digit as a number."""
    password, routes = (f"z{os.urandom(24).hex()}" for _ in range(2))
    make = ["create", "secret", "generic"]
    space.kubectl(*make, "zombi-cluster", f"--from-literal=secret={os.urandom(48).hex()}")
    space.kubectl(*make, "zombi-nats", f"--from-literal=password={password}", f"--from-literal=credentials=zombi:{password}",
                  f"--from-literal=routes={routes}")


# ---- shards

def shard_of(table, shards):
    """docs/cluster.md: the first eight bytes of the SHA-256 of its name."""
    return int.from_bytes(hashlib.sha256(table.encode()).digest()[:8], "big") % shards


def tables(shards):
    """The name of a table for each pod, in a shard that this pod should own."""
    found = {}
    for table in (f"orders-{number}" for number in range(1000)):
        found.setdefault(shards[shard_of(table, len(shards))]["copies"][0], table)
    check(set(found) == set(PODS), f"every pod should own some shards: {found}")
    return [found[pod] for pod in PODS]


def ends_of(shown):
    """How far each shard is, at that copy which is farthest; nothing until all pods say it of all their copies."""
    ends = {}
    for answer in shown.values():
        for shard in answer["shards"] if answer else []:
            ends.setdefault(shard["shard"], []).extend(lag["applied"] for lag in shard["lags"])
    whole = all(shown.values()) and all(None not in applied for applied in ends.values())
    return {shard: max(applied) for shard, applied in ends.items()} if whole else {}


def unsettled(shown, ends):
    """What is not yet as it should be, by what each pod says."""
    wrong = [f"{pod} does not show the cluster" for pod, answer in shown.items() if not answer]
    if not ends:
        return wrong or ["not every copy says how far it is"]
    for pod, answer in shown.items():
        for shard in answer["shards"] if answer else []:
            number, owner, copies = shard["shard"], shard["owner"], shard["copies"]
            says = f"{pod} says of shard {number}:"
            if owner != copies[0]:
                wrong.append(f"{says} its owner is {owner}, and the first of its copies is {copies[0]}")
            applied = {lag["pod"]: lag["applied"] for lag in shard["lags"]}
            if any(applied.get(copy) is None or applied[copy] < ends[number] for copy in copies):
                wrong.append(f"{says} its copies have applied {applied}, and all should have {ends[number]}")
            if shard.get("copy", {}).get("stopped"):
                wrong.append(f"{says} its copy has stopped: {shard['copy']['stopped']}")
    return wrong


# ---- what goes away

def went_on(space, shard):
    """The owner's process ends, the shard gets another term, which is returned, and all clients get on."""
    space.wait("the process has ended", lambda: not space.process(shard.container))
    space.goes_on()

    def newer():
        term = space.term(shard.other, shard.number)
        return term if term > shard.term else None

    return space.wait(f"shard {shard.number} has another term than {shard.term}", newer)


def owner_deleted(space):
    """With grace 0 the kubelet waits next to nothing after its SIGTERM: shards are handed over in that time, or taken over."""
    shard = space.loaded()
    uid, clock = space.uid(shard.owner), Clock()
    space.kubectl("delete", "pod", shard.owner, *AT_ONCE)
    term, took = went_on(space, shard), str(clock)
    space.ready(shard.owner, other_than=uid, patience=PATIENCE)
    say(f"delete     {shard.owner}, which owned shard {shard.number}, with grace 0, under load: term {shard.term} became {term}, "
        f"clients of all tables went on, {took}; ready again after {clock}")


def owner_killed(space):
    """Nothing is handed over: another copy hears the silence, or the same one is back before."""
    shard = space.loaded()
    restarts, clock = space.restarts(shard.owner), Clock()
    space.signal("KILL", shard.owner)
    term, took = went_on(space, shard), str(clock)
    space.ready(shard.owner, restarts=restarts + 1, patience=PATIENCE)
    say(f"kill -9    {shard.owner}, which owned shard {shard.number}, under load: term {shard.term} became {term}, clients of all "
        f"tables went on, {took}; ready again after {clock}")


def log_leader_deleted(space):
    """With its grace: without one, two servers could be at work in one folder for a moment, which NATS does not notice."""
    leader, before, clock = leads(space), lives(space), Clock()
    uid, container = space.uid(leader), space.container(leader)
    space.kubectl("delete", "pod", leader, "--wait=false")
    took = without_leader(space, container, clock)
    space.ready(leader, other_than=uid, patience=PATIENCE)
    untouched(space, before)
    say(f"nats       {leader}, which led the log, deleted under load: clients of all tables went on, {took}; ready again after {clock}")


def log_leader_killed(space):
    """The others hear nothing of it and choose another."""
    leader, before, clock = leads(space), lives(space), Clock()
    restarts, container = space.restarts(leader), space.container(leader)
    space.signal("KILL", leader)
    took = without_leader(space, container, clock)
    space.ready(leader, restarts=restarts + 1, patience=PATIENCE)
    untouched(space, before)
    say(f"kill -9    {leader}, which led the log, under load: clients of all tables went on, {took}; ready again after {clock}")


def without_leader(space, container, clock):
    space.wait("the server has ended", lambda: not space.process(container))
    space.goes_on()
    return str(clock)


def leads(space):
    """The server that leads the log of the shard of the first table."""
    number = space.loaded().number
    return space.wait(f"the log of shard {number} has a leader", lambda: leader_of(space, number))


def leader_of(space, number):
    """The server that leads the log of a shard, as the first says that knows it."""
    for server in SERVERS:
        try:
            _, said = Connection(space.address(server), MONITOR).ask("GET", "/jsz?accounts=true&streams=true")
        except OSError:
            continue
        for account in said.get("account_details") or []:
            for stream in account.get("stream_detail") or []:
                # ZOMBI_{cluster}_{shard}_{generation}
                if stream["name"].split("_")[2:3] == [f"{number:03}"] and stream.get("cluster", {}).get("leader"):
                    return stream["cluster"]["leader"]
    return None


def lives(space):
    return {pod: (space.uid(pod), space.restarts(pod)) for pod in PODS}


def untouched(space, before):
    after = lives(space)
    check(after == before, f"no Zombi was started again for it: {before}, {after}")


def zombi_rolled(space):
    rolled(space, SET, PODS)


def nats_rolled(space):
    before = lives(space)
    gone = rolled(space, SERVERS_SET, SERVERS)
    untouched(space, before)
    events = json.loads(space.kubectl("get", "events", "--field-selector", "reason=FailedPreStopHook", "-o", "json").stdout)["items"]
    failed = [one["message"] for one in events if one["involvedObject"].get("uid") in gone]
    check(not failed, f"each was told first that it will go: {failed}")


def rolled(space, what, pods):
    """One pod after the other: each ends by itself, and others are there for its clients. Those that went, by their uids."""
    before, clock = {pod: space.uid(pod) for pod in pods}, Clock()
    space.kubectl("rollout", "restart", what)
    space.wait(f"{what} is rolled out", lambda: is_rolled_out(space.get(what)), PATIENCE)
    took = str(clock)
    for pod, uid in before.items():
        check(space.uid(pod) != uid, f"{pod} is another one")
        space.ended_well(uid, f"a rolling update of {what}")
    say(f"rollout    {what} under load: {len(pods)} pods, each SIGTERM, exit 0, and another in its place, {took}")
    return set(before.values())


def is_rolled_out(stateful):
    """Every pod is of the newest revision, and ready."""
    wanted, status = stateful["spec"]["replicas"], stateful["status"]
    return (status.get("observedGeneration") == stateful["metadata"]["generation"]
            and status.get("currentRevision") == status.get("updateRevision")
            and status.get("updatedReplicas") == status.get("readyReplicas") == wanted)


# ---- the end

def all_well(space):
    """What clients were told is in every copy; pods and servers are as they should be, by their own word."""
    shards = space.settled()[PODS[0]]["shards"]
    owned = {pod: sum(shard["owner"] == pod for shard in shards) for pod in PODS}

    def wrong():
        found = [(pod, name, space.metrics(pod).get(name)) for pod in PODS for name in ALL_WELL]
        return [f"{pod}: {name} {value}" for pod, name, value in found if value != 0]

    until_right("no pod finds fault with logs and servers", wrong)
    say(f"settled    GET /cluster on each pod: {len(shards)} shards, owned by {owned}; each copy has applied what clients were told")
