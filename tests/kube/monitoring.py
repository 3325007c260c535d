"""What watches Zombi on a real cluster: the kinds of the Prometheus operator, which is not run; a Prometheus of Debian's that
has the component's alerts, and as its targets the pods that the PodMonitor selects; and the dashboards' ConfigMap."""

import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request

import yaml

from demo import check, say
from manifests import DEPLOY, ROOT, of, one, with_components
from namespace import POD, SET, Clock

COMPONENTS = os.path.join(DEPLOY, "components")
# What must be silent while Zombi is well, and what says that it is gone.
ALERTS = {"ZombiAbsent", "ZombiDown", "ZombiNotReady"}
GONE = "ZombiAbsent"
PROMETHEUS = "http://127.0.0.1:9095"


def kinds(cluster):
    """The operator's, in the API server, where `make kube-build` has brought them."""
    folder = os.path.join(cluster.programs, "kinds")
    if not os.path.isdir(folder):
        say("kinds      SKIPPED: those of the Prometheus operator are not here; `make kube-build` brings them")
        return False
    # Too large for what a client-side apply notes of them.
    cluster.kubectl("apply", "--server-side", "-f", folder)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", folder)
    say(f"kinds      {len(os.listdir(folder))} of the Prometheus operator")
    return True


def monitors(space):
    """With the patch of docs/kubernetes.md, kube-prometheus-stack selects them by its label; and the PodMonitor the pod."""
    with open(os.path.join(ROOT, "docs", "kubernetes.md")) as file:
        blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", file.read(), re.M | re.S)]
    patches = [patch for block in blocks for patch in block.get("patches", []) if patch.get("target") == {"group": "monitoring.coreos.com"}]
    check(len(patches) == 1, f"the page has the patch for the label: {patches}")
    folder = kustomization(space, "monitors", components=[os.path.join(COMPONENTS, "prometheus-operator")], patches=patches)
    space.apply(folder)
    label = "release=kube-prometheus-stack"
    found = json.loads(space.kubectl("get", "podmonitors,prometheusrules", f"--selector={label}", "-o", "json").stdout)["items"]
    check({each["kind"] for each in found} == {"PodMonitor", "PrometheusRule"}, f"both are selected by {label}: {len(found)}")
    [monitor] = of(found, "PodMonitor")
    pods = selected_pods(space, monitor["spec"])
    names = [pod["metadata"]["name"] for pod in pods]
    check(names == [POD], f"the PodMonitor selects the pod, and no other: {names}")
    ports = {port["name"] for container in pods[0]["spec"]["containers"] for port in container["ports"]}
    wanted = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    check(wanted <= ports, f"the pod has the ports {wanted}: {ports}")
    say(f"monitors   {len(found)} objects taken by the API server and found by {label}; they select {POD}")


def dashboards(space, overlay):
    """The component with a changed dashboard: the same ConfigMap and no second one, and the pod goes on."""
    component = space.cluster.path("dashboards")
    shutil.copytree(os.path.join(COMPONENTS, "grafana-dashboards"), component)
    folder = kustomization(space, "with-dashboards", resources=[overlay], components=[component])
    space.apply(folder)
    before, [first] = (space.uid(), space.restarts()), boards(space)
    path = os.path.join(component, "zombi.json")
    with open(path) as file:
        board = json.load(file)
    board["title"] += ", changed"
    with open(path, "w") as file:
        json.dump(board, file)
    space.apply(folder)
    found = boards(space)
    check([each["metadata"]["uid"] for each in found] == [first["metadata"]["uid"]], f"it is the same ConfigMap, and the only one: {len(found)}")
    check(found[0]["data"] != first["data"], "with the changed dashboard")
    time.sleep(5)
    after = space.uid(), space.restarts()
    check(before == after and space.is_ready(), f"no pod is started again for it: {before}, {after}")
    say("dashboards a changed one takes the place of the old one, under its name; the pod goes on")


def boards(space):
    """What Grafana's sidecar finds."""
    return json.loads(space.kubectl("get", "configmaps", "--selector=grafana_dashboard=1", "-o", "json").stdout)["items"]


def kustomization(space, name, **what):
    """A folder that names others, by paths from itself."""
    folder = space.cluster.path(name)
    os.makedirs(folder)
    for kind in {"resources", "components"} & set(what):
        what[kind] = [os.path.relpath(os.path.realpath(path), os.path.realpath(folder)) for path in what[kind]]
    with open(os.path.join(folder, "kustomization.yaml"), "w") as file:
        yaml.safe_dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": space.name} | what, file)
    return folder


def alerts(space):
    """The pod goes, and the alert fires; while it is there, all is silent."""
    if not shutil.which("prometheus"):
        say("alerts     SKIPPED: there is no Prometheus (Debian: prometheus)")
        return
    find = begin(space)
    try:
        space.wait("the pod is scraped", lambda: find() and asked("query?query=sum(up{job=%22zombi%22})==1")["result"])
        # Longer than the alerts wait.
        time.sleep(15)
        check(not active(), f"all is silent while Zombi is well: {active()}")
        uid, clock = space.uid(), Clock()
        space.scale(SET, 0)
        space.wait(f"{GONE} fires", lambda: not find() and active().get(GONE) == "firing")
        took = str(clock)
        space.scale(SET, 1)
        space.ready(other_than=uid)
        space.wait("all is silent again", lambda: find() and not active())
        say(f"alerts     Prometheus has the pod that the PodMonitor selects; scaled to nothing, {GONE} fires after {took}, and then ends")
    finally:
        end(space.cluster)


def begin(space):
    """With what the operator would make of both objects, but each second, and with alerts that wait 5 s. Debian's cannot ask an API
    server for pods: what is returned finds them for it, and says how many there are."""
    objects = with_components("prometheus-operator")
    [monitor], rules = of(objects, "PodMonitor"), one(objects, "PrometheusRule", "zombi")
    found = [rule | {"for": "5s"} for group in rules["spec"]["groups"] for rule in group["rules"] if rule.get("alert") in ALERTS]
    check({rule["alert"] for rule in found} == ALERTS, f"there are the alerts {ALERTS}: {found}")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    folder = space.cluster.path("prometheus")
    os.makedirs(folder)
    config, groups, pods = (os.path.join(folder, name) for name in ("prometheus.yml", "rules.yml", "pods.json"))

    def find():
        targets = selected(space, monitor)
        with open(f"{pods}.new", "w") as file:
            json.dump(targets, file)
        os.replace(f"{pods}.new", pods)
        return len(targets)

    find()
    with open(groups, "w") as file:
        json.dump({"groups": [{"name": "zombi", "rules": found}]}, file)
    with open(config, "w") as file:
        found_by = [{"files": [pods], "refresh_interval": "1s"}]
        json.dump({"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [groups],
                   "scrape_configs": [{"job_name": "pods", "metrics_path": endpoint["path"], "file_sd_configs": found_by}]}, file)
    space.cluster.run("prometheus", "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                      f"--web.listen-address={PROMETHEUS.removeprefix('http://')}", "--web.enable-lifecycle")
    return find


def selected(space, monitor):
    """The pods of a PodMonitor, as targets with the labels that the operator gives them."""
    spec = monitor["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    targets = []
    for pod in selected_pods(space, spec):
        ports = [port for container in pod["spec"]["containers"] for port in container["ports"] if port["name"] == endpoint["port"]]
        address, labels = pod["status"].get("podIP"), pod["metadata"]["labels"]
        if address and ports:
            named = {"job": labels[spec["jobLabel"]], "namespace": space.name, "pod": pod["metadata"]["name"]}
            targets.append({"targets": [f"{address}:{port['containerPort']}" for port in ports], "labels": named})
    return targets


def selected_pods(space, spec):
    selector = ",".join("=".join(pair) for pair in spec["selector"]["matchLabels"].items())
    return json.loads(space.kubectl("get", "pods", f"--selector={selector}", "-o", "json").stdout)["items"]


def asked(what):
    try:
        with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and error.code != 503:
            return check(False, f"Prometheus is asked for {what}: {error.read().decode()}")
        return {"result": [], "alerts": []}  # it is not up yet, or not ready


def active():
    """The alerts that are pending or firing."""
    return {alert["labels"]["alertname"]: alert["state"] for alert in asked("alerts")["alerts"]}


def end(cluster):
    process = cluster.started.pop("prometheus")
    try:
        urllib.request.urlopen(urllib.request.Request(f"{PROMETHEUS}/-/quit", method="POST"), timeout=10).close()
        process.wait(timeout=30)
    except Exception as error:
        # It ends with the cluster at the latest.
        say(f"Prometheus does not end by itself: {error!r}")
