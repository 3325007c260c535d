"""The development overlay, unchanged: what it makes, and what becomes of events and clients when pods, the node,
MinIO and volumes come and go."""

import base64
import json
import os

from cluster import NODE
from demo import check, say
from load import PATIENCE as A_CLIENT_WAITS, Load
from manifests import DEPLOY
from namespace import CLAIM, POD, SET, Clock, Namespace

OVERLAY = os.path.join(DEPLOY, "overlays", "dev")
MINIO = "deployment/minio"
# deploy/base/stateful-set.yaml: how long the kubelet waits for an end, and after how long it knows that a process
# makes no progress; with a liveness probe's own grace it waits 10 s for that one.
GRACE, NO_PROGRESS = 110, 60


def development(cluster):
    space = made(cluster)
    try:
        load = Load(space.service()).start()
        load.goes_on()
        say("events     go in through the Service")
        space.changes_nothing(OVERLAY)
        for step in (rolling_update, deleted_pod, drain, killed, stopped, second_pod, minio_deleted, deleted_claim):
            step(space, load)
            load.goes_on()
        load.stop()
        load.compare("after all that")
        emptied(space)
        deleted(space)
    finally:
        space.unwatch()


def made(cluster):
    clock, space = Clock(), Namespace(cluster, "zombi-dev")
    space.apply(OVERLAY)
    space.watch()
    space.ready()
    space.rolled_out(MINIO)
    space.rolled_out(SET)
    say(f"dev        applied unchanged, ready after {clock}")
    claims = {name: space.get("pvc", name)["status"]["phase"] for name in (CLAIM, "minio")}
    check(set(claims.values()) == {"Bound"}, f"each has its volume: {claims}")
    label = space.cluster.kubectl("get", "namespace", space.name, "-o", "jsonpath={.metadata.labels}").stdout
    check(json.loads(label)["pod-security.kubernetes.io/enforce"] == "restricted", f"the namespace is restricted: {label}")
    secrets = json.loads(space.kubectl("get", "secrets", "-o", "json").stdout)["items"]
    [keys] = [each["data"] for each in secrets if each["metadata"]["name"].startswith("zombi-s3")]
    words = {name: base64.b64decode(value).decode() for name, value in keys.items()}
    # Tilt blacks them out wherever they occur: neither may be a word that is used for anything else.
    others = {"zombi", "zombi-dev", "minio", "events", "admin", "secret"}
    check(words and not set(words.values()) & others, f"no key of MinIO is a word of its own: {words}")
    # So that it is seen that the rule is in force, and not only that nothing broke it.
    other = space.kubectl("run", "other", "--image=zombi:dev", "--dry-run=server", ok=False)
    check(other.returncode != 0 and "violates PodSecurity" in other.stderr, f"others are turned away: {other.stdout}{other.stderr}")
    say("security   Pod Security `restricted` lets both pods in, and turns away one that asks for more")
    return space


def rolling_update(space, load):
    uid, claim, clock = space.uid(), space.get("pvc", CLAIM)["metadata"]["uid"], Clock()
    space.kubectl("rollout", "restart", SET)
    space.rolled_out(SET)
    space.ready(other_than=uid)
    took = str(clock)
    space.ended_well(uid, "a rolling update")
    check(space.get("pvc", CLAIM)["metadata"]["uid"] == claim, "the claim is bound again")
    say(f"rollout    under load: SIGTERM, exit 0, a new pod on the same claim is ready after {took}")


def deleted_pod(space, load):
    uid, clock = space.uid(), Clock()
    space.kubectl("delete", "pod", POD)
    space.ready(other_than=uid)
    took = str(clock)
    space.ended_well(uid, "kubectl delete pod")
    say(f"delete     the pod, under load: exit 0, ready again after {took}")


def drain(space, load):
    """The whole node: Zombi's bucket goes at the same time, so its last flush may not reach it."""
    uid, clock = space.uid(), Clock()
    space.drain()
    took = str(clock)
    ended = space.ending(uid)
    check(ended["exitCode"] != 137, f"Zombi ends within {GRACE} s, with MinIO going too: {ended}")
    space.uncordon()
    space.rolled_out(MINIO)
    space.ready(other_than=uid)
    check(clock.secs() < A_CLIENT_WAITS, f"clients need not wait longer than they do: {clock}")
    say(f"drain      {NODE} is empty after {took}, Zombi (exit {ended['exitCode']}) and MinIO ready again after {clock}")


def killed(space, load):
    probe = space.pod()["spec"]["containers"][0]["startupProbe"]
    often = probe["periodSeconds"], probe["failureThreshold"]
    check(often == (1, 3600), f"it is asked every second whether it has started, for an hour: {probe}")
    restarts, clock = space.restarts(), Clock()
    space.signal("KILL")
    space.ready(restarts=restarts + 1)
    took = clock.secs()
    check(took < 60, f"a restart is a matter of seconds: {took:.0f} s")
    say(f"kill -9    the kubelet starts it again, ready after {took:.0f} s")


def stopped(space, load):
    """A process that makes no progress and hears no SIGTERM: the liveness probe's own short grace counts."""
    restarts, clock = space.restarts(), Clock()
    space.signal("STOP")
    space.wait("the liveness probe sees it", lambda: space.restarts() > restarts)
    took = clock.secs()
    check(took < NO_PROGRESS + GRACE - 10, f"the kubelet does not wait {GRACE} s for it: {took:.0f} s")
    last = space.pod()["status"]["containerStatuses"][0]["lastState"]["terminated"]
    check(last["exitCode"] == 137, f"it is killed: {last}")
    space.ready(restarts=restarts + 1)
    said = space.kubectl("get", "events", "--field-selector", f"involvedObject.name={POD},reason=Unhealthy").stdout
    check("Liveness probe failed" in said, f"and it was the liveness probe: {said}")
    say(f"SIGSTOP    the liveness probe has it started again after {took:.0f} s, ready after {clock}")


def second_pod(space, load):
    """It says why it does not start, and takes nothing from the first."""
    first, restarts = space.uid(), space.restarts()
    space.scale(SET, 2)

    def ended():
        pod = space.pod("zombi-1")
        for status in (pod or {}).get("status", {}).get("containerStatuses") or []:
            for state in (status["state"], status["lastState"]):
                if state.get("terminated"):
                    return state["terminated"]
        return None

    end = space.wait("the second pod ends", ended)
    logs = space.logs("zombi-1") + space.logs("zombi-1", "--previous")
    check(end["exitCode"] == 2 and "set replicas to 1" in logs, f"it refuses to start, and says why: {end}\n{logs}")
    load.goes_on()
    space.scale(SET, 1)
    space.gone("pod", "zombi-1")
    space.kubectl("delete", "pvc", "data-zombi-1")
    check(space.uid() == first and space.restarts() == restarts and space.is_ready(), "the first goes on as if nothing had been")
    say("replicas   2: the second pod refuses to start and says why; the first goes on, under load")


def minio_deleted(space, load):
    uid, restarts, clock = space.uid(), space.restarts(), Clock()
    space.kubectl("delete", "pod", "--selector=app.kubernetes.io/name=minio")
    space.rolled_out(MINIO)
    took = str(clock)
    status, answer = flush(space)
    check(status == 200, f"a new pod of MinIO has the old bucket: {status} {answer}")
    check(space.uid() == uid and space.restarts() == restarts and space.is_ready(), "Zombi stays ready all the while")
    say(f"minio      its pod deleted: another has the same bucket after {took}, Zombi stays ready")


def deleted_claim(space, load):
    """Scaled to nothing, Zombi takes everything to the bucket; then the volume is not needed any more."""
    uid, old, clock = space.uid(), space.get("pvc", CLAIM), Clock()
    space.scale(SET, 0)
    space.gone("pod", POD)
    space.ended_well(uid, "kubectl scale --replicas=0")
    space.kubectl("delete", "pvc", CLAIM)
    space.gone("pvc", CLAIM)
    space.scale(SET, 1)
    space.ready()
    new = space.get("pvc", CLAIM)
    volumes = [claim["spec"]["volumeName"] for claim in (old, new)]
    check(volumes[0] != volumes[1], f"it begins with an empty volume: {volumes}")
    load.goes_on()
    say(f"claim      deleted, with its volume: an empty one recovers from the bucket, clients go on after {clock}")


def emptied(space):
    """The bucket's volume is lost: an empty bucket in its place is called what it is, with the cure."""
    space.scale(MINIO, 0)
    wait_for_no_minio(space)
    space.kubectl("delete", "pvc", "minio")
    space.apply(OVERLAY)
    space.rolled_out(MINIO)
    uid = space.uid()
    space.kubectl("delete", "pod", POD, "--wait=false")
    space.wait("another pod", lambda: space.uid() not in (None, uid))

    def named():
        try:
            _, answer = space.admin().ask("GET", "/readyz?verbose")
        except OSError:
            return None
        details = [one["detail"] for one in (answer or {}).get("checks", []) if one["name"] == "bucket"]
        return next((detail for detail in details if "came back empty" in detail), None)

    detail = space.wait("/readyz?verbose names the empty bucket", named)
    check("Bring its objects back" in detail, f"and the cure: {detail}")
    # Where the volume had nothing to serve by itself, the start has ended by now.
    logs = space.logs() + space.logs(POD, "--previous")
    check("came back empty" in logs and "Bring its objects back" in logs, f"the log has both too:\n{logs[-2000:]}")
    say(f"emptied    a bucket that comes back empty is named, in the log and in /readyz?verbose: {detail[:72]}..")


def wait_for_no_minio(space):
    def none():
        return not json.loads(space.kubectl("get", "pods", "--selector=app.kubernetes.io/name=minio", "-o", "json").stdout)["items"]

    space.wait("MinIO's pod is gone", none)


def deleted(space):
    clock = Clock()
    space.cluster.kubectl("delete", "-k", OVERLAY, "--timeout=300s")
    left = space.cluster.kubectl("get", "namespace", space.name, "--ignore-not-found").stdout
    check(not left, f"the namespace belongs to the set: {left}")
    say(f"deleted    the development set, with its namespace and both claims, in {clock}")


def flush(space):
    """On the admin port; it answers when everything is in the bucket."""
    answer = None

    def done():
        nonlocal answer
        try:
            answer = space.admin().ask("POST", "/flush")
        except OSError as error:
            answer = (0, str(error))
        return answer[0] == 200

    space.wait("a flush", done)
    return answer
