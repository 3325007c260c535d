#!/usr/bin/env python3
"""Checks what is deployed, with the tools that others use for it.

    tests/deploy.py

Every overlay against the Kubernetes schemas, strictly, and against what has gone wrong in clusters: volumes, probes, budgets,
names, networks, secrets; the examples of docs/kubernetes.md, rendered; the Dockerfile by hadolint; the Tiltfile evaluated, with
Tilt's own functions standing in. Needs the packages of tests/requirements.txt in the Python that runs it; what needs kubectl is
skipped, and says so, where there is none.
"""

import base64
import glob
import ipaddress
import os
import re
import shutil
import subprocess
import sys
import tempfile

import starlark
import yaml

from demo import check, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEPLOY = os.path.join(ROOT, "deploy")
TOOLS = os.path.dirname(sys.executable)
KUBERNETES = "1.32.0"
# The Prometheus operator's kinds are not in Kubernetes' schemas.
OPERATOR = "monitoring.coreos.com/"
PLACES = ["base", "overlays/dev", "overlays/production"]
POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}
MONTH = 30 * 24 * 60 * 60
# What a cluster may need beside the NetworkPolicy: addresses and ports that a component must open, and nothing else does.
WAYS_OUT = {
    "egress-node-local-dns": [("169.254.20.10", 53, "UDP"), ("169.254.20.10", 53, "TCP"), ("169.254.169.254", 53, "UDP"),
                              ("10.96.0.10", 53, "UDP"), ("fd00::a", 53, "UDP")],
    "egress-openshift-dns": [("openshift-dns", 5353, "UDP"), ("openshift-dns", 5353, "TCP")],
    "egress-eks-pod-identity": [("169.254.170.23", 80, "TCP"), ("fd00:ec2::23", 80, "TCP")],
    "egress-ec2-metadata": [("169.254.169.254", 80, "TCP"), ("fd00:ec2::254", 80, "TCP")],
    "egress-gke-metadata": [("169.254.169.252", 988, "TCP"), ("169.254.169.254", 80, "TCP")],
}


def main():
    manifests()
    dockerfile()
    tiltfile()


def manifests():
    if not shutil.which("kubectl"):
        say("manifests  SKIPPED: there is no kubectl to render them")
        return
    places = {place: validate(place, kustomize(os.path.join(DEPLOY, place))) for place in PLACES}
    # Every component by itself on the base.
    for component in sorted(os.listdir(os.path.join(DEPLOY, "components"))):
        validate(f"components/{component}", with_components(component))
    for place, objects in places.items():
        pod(place, one(objects, "StatefulSet", "zombi"))
    bucket_in_development(places["overlays/dev"])
    namespaces(places["overlays/dev"], places["overlays/production"])
    settings(places["overlays/production"])
    disruption(places["overlays/production"])
    network(places["overlays/production"])
    dashboards()
    documented()


def kustomize(directory):
    rendered = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True)
    check(rendered.returncode == 0, f"{directory} can be rendered: {rendered.stderr}")
    return list(yaml.safe_load_all(rendered.stdout))


def with_components(*components):
    """The base with these components."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(DEPLOY, "base")] + [os.path.join(DEPLOY, "components", component) for component in components]
        paths = [os.path.relpath(path, directory) for path in paths]
        with open(os.path.join(directory, "kustomization.yaml"), "w") as file:
            yaml.safe_dump({"resources": paths[:1], "components": paths[1:]}, file)
        return kustomize(directory)


def validate(place, objects):
    known = [each for each in objects if not each["apiVersion"].startswith(OPERATOR)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        command = [os.path.join(TOOLS, "kubernetes-validate"), "--strict", "-k", KUBERNETES, file.name]
        found = subprocess.run(command, capture_output=True, text=True)
    check(found.returncode == 0, f"{place} is valid: {found.stdout}{found.stderr}")
    others = f"; {len(objects) - len(known)} of the operator's own" if len(known) < len(objects) else ""
    say(f"manifests  {place}: {len(known)} objects valid for Kubernetes {KUBERNETES}{others}")
    return objects


def of(objects, kind):
    return [each for each in objects if each["kind"] == kind]


def one(objects, kind, name):
    found = [each for each in of(objects, kind) if each["metadata"]["name"] == name]
    check(len(found) == 1, f"there is one {kind} {name}: {len(found)}")
    return found[0]


def variables(stateful):
    """The environment of Zombi's container: a value, or where it comes from."""
    env = stateful["spec"]["template"]["spec"]["containers"][0]["env"]
    names = [each["name"] for each in env]
    check(len(names) == len(set(names)), f"no variable is set twice: {names}")
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in env}


def pod(place, stateful):
    container = stateful["spec"]["template"]["spec"]["containers"][0]
    name = variables(stateful).get("ZOMBI_POD")
    check(name == {"fieldRef": {"fieldPath": "metadata.name"}}, f"{place}: a second pod can tell that it is not the first: {name}")
    startup, liveness = container["startupProbe"], container["livenessProbe"]
    check(startup["periodSeconds"] == 1, f"{place}: a start is noticed within a second: {startup}")
    check(startup["periodSeconds"] * startup["failureThreshold"] >= 3600, f"{place}: a recovery has an hour: {startup}")
    grace = liveness.get("terminationGracePeriodSeconds", stateful["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])
    check(grace == 10, f"{place}: a pod that makes no progress is not waited for: {grace} s")
    # By the pod's address, which is in no list of http.hosts: the main port would answer 421.
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        check(container[probe]["httpGet"]["port"] == "admin", f"{place}: the {probe} needs no name: {container[probe]}")
    old = [name for name in variables(stateful) if name.startswith("ZOMBI_HOT_RETENTION")]
    check(not old, f"{place}: what hot keeps is ZOMBI_HOT_KEEP_*: {old}")
    if place == "base":
        memory = container["resources"]["limits"]["memory"]
        check(memory == "1Gi", f"the defaults run in 1 GiB: {memory}")


def bucket_in_development(objects):
    """MinIO and Zombi live equally long, and no word of everyday's is a secret."""
    volumes = one(objects, "Deployment", "minio")["spec"]["template"]["spec"]["volumes"]
    claims = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in volumes}
    check(claims == {"data": "minio"}, f"the bucket is on a volume that outlives MinIO's pod: {volumes}")
    one(objects, "PersistentVolumeClaim", "minio")
    strategy = one(objects, "Deployment", "minio")["spec"]["strategy"]["type"]
    check(strategy == "Recreate", f"two pods of MinIO never want one volume: {strategy}")
    secrets = {base64.b64decode(value).decode() for secret in of(objects, "Secret") for value in secret["data"].values()}
    check(len(secrets) == 2, "there are an access key and a secret key")
    text = yaml.safe_dump_all(each for each in objects if each["kind"] != "Secret")
    with open(os.path.join(ROOT, "Tiltfile")) as file:
        text += file.read()
    for secret in secrets:
        check(secret not in text, f"Tilt blacks out {secret!r} wherever it occurs, and it occurs in the manifests or the Tiltfile")
    say(f"minio      its bucket is on a volume; its access key {min(secrets, key=len)} is no other word")


def namespaces(development, production):
    owned = [each["metadata"]["name"] for each in of(production, "Namespace")]
    check(not owned, f"deleting the production set deletes no namespace, and no claim in it: {owned}")
    used = {each["metadata"].get("namespace") for each in production}
    check(used == {"zombi"}, f"everything is in the namespace zombi: {used}")
    labels = one(development, "Namespace", "zombi-dev")["metadata"]["labels"]
    check(POD_SECURITY.items() <= labels.items(), f"the development's own namespace is restricted: {labels}")
    label = "=".join(*POD_SECURITY.items())
    for path in ("deploy/overlays/production/kustomization.yaml", "docs/kubernetes.md"):
        with open(os.path.join(ROOT, path)) as file:
            text = file.read()
        for command in ("kubectl create namespace zombi", f"kubectl label namespace zombi {label}"):
            check(command in text, f"{path} says: {command}")
    say("namespace  production owns none, and says how to make it; development's is restricted")


def settings(objects):
    found = variables(one(objects, "StatefulSet", "zombi"))
    expire = found.get("ZOMBI_CONSUMERS_EXPIRE_SECS")
    check(expire == str(MONTH), f"a group that nobody uses is forgotten after 30 days: {expire}")
    hosts = found.get("ZOMBI_HTTP_HOSTS", "").split(",")
    names = [service["metadata"]["name"] for service in of(objects, "Service")]
    names.append(f"zombi-0.{one(objects, 'StatefulSet', 'zombi')['spec']['serviceName']}")
    for name in names:
        for suffix in ("", ".zombi", ".zombi.svc", ".zombi.svc.cluster.local"):
            check(name + suffix in hosts, f"a client may call Zombi {name + suffix}: {hosts}")
    check("localhost" in hosts, f"a port that kubectl forwards is localhost: {hosts}")
    check(len(hosts) == len(set(hosts)) == 4 * len(names) + 1 and all(host == host.strip() for host in hosts), f"and nothing else: {hosts}")
    say(f"settings   production answers to {len(hosts)} names and forgets groups after 30 days")


def disruption(objects):
    budget = one(objects, "PodDisruptionBudget", "zombi")["spec"]
    check(budget.get("maxUnavailable") == 1, f"a node can be drained: {budget}")
    check(budget.get("unhealthyPodEvictionPolicy") == "AlwaysAllow", f"an unready pod never keeps its node: {budget}")
    say("budget     one pod at a time, and an unready one always")


def network(production):
    """The policy alone closes what a component opens; with the component it is open, and as much as before stays closed."""
    alone = one(production, "NetworkPolicy", "zombi")
    check(lets_out(alone, "kube-system", 53, "UDP") and lets_out(alone, "203.0.113.7", 443, "TCP"), "DNS and S3 are open")
    metrics = [rule for rule in alone["spec"]["ingress"] if {"port": "admin"} in rule["ports"]]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    check([rule["from"] for rule in metrics] == [[monitoring]], f"the admin port is open to monitoring alone: {metrics}")
    ways = [way for opened in WAYS_OUT.values() for way in opened]
    for component, opened in WAYS_OUT.items():
        policy = one(with_components("network-policy", component), "NetworkPolicy", "zombi")
        for way in ways:
            what = f"{way[0]} port {way[1]}/{way[2]}"
            check(not lets_out(alone, *way), f"{what} is closed without a component")
            # GKE's and EC2's metadata servers share an address.
            check(lets_out(policy, *way) == (way in opened), f"{component} {'opens' if way in opened else 'does not open'} {what}")
        rules = alone["spec"]["egress"]
        check(policy["spec"]["egress"][:len(rules)] == rules, f"{component} takes nothing away")
        check(policy["spec"]["ingress"] == alone["spec"]["ingress"], f"{component} leaves alone who may come in")
        check(not of(with_components(component), "NetworkPolicy"), f"{component} by itself closes nothing")
    there = {name for name in os.listdir(os.path.join(DEPLOY, "components")) if name.startswith("egress-")}
    check(there == set(WAYS_OUT), f"each component is tried: {there ^ set(WAYS_OUT)}")
    with open(os.path.join(ROOT, "docs", "kubernetes.md")) as file:
        text = file.read()
    check(all(f"`{component}`" in text for component in there), "docs/kubernetes.md has them all")
    say(f"network    {len(ways)} ways out for DNS and credentials: closed by the policy, opened by {len(there)} components")


def lets_out(policy, where, port, protocol):
    """Whether the policy lets Zombi go to an address, or to the pods of a namespace."""
    for rule in policy["spec"]["egress"]:
        ports = rule.get("ports")
        if ports and not any((each["port"], each.get("protocol", "TCP")) == (port, protocol) for each in ports):
            continue
        if not rule.get("to") or any(reaches(peer, where) for peer in rule["to"]):
            return True
    return False


def reaches(peer, where):
    if "ipBlock" in peer:
        check("except" not in peer["ipBlock"], "no way out has an exception")
        try:
            return ipaddress.ip_address(where) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        except ValueError:
            return False
    check(set(peer) == {"namespaceSelector"}, f"a way out is an address or a namespace: {peer}")
    return peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": where}


def dashboards():
    found = of(with_components("grafana-dashboards"), "ConfigMap")
    maps = [each["metadata"]["name"] for each in found if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    check(maps == ["zombi-dashboards"], f"a changed dashboard replaces the old one: {maps}")
    say("dashboards in a ConfigMap whose name stays")


def documented():
    """The examples of the page, as somebody has them who copies them."""
    with open(os.path.join(ROOT, "docs", "kubernetes.md")) as file:
        examples = re.findall(r"```yaml\n# kustomization\.yaml\n(.*?)```", file.read(), re.S)
    check(examples, "docs/kubernetes.md has an example")
    for number, example in enumerate(examples, 1):
        with tempfile.TemporaryDirectory() as directory:
            os.symlink(ROOT, os.path.join(directory, "zombi"))
            with open(os.path.join(directory, "kustomization.yaml"), "w") as file:
                file.write(example)
            objects = validate(f"docs/kubernetes.md, example {number}", kustomize(directory))
        watched = [each for each in objects if each["apiVersion"].startswith(OPERATOR)]
        kinds = {each["kind"] for each in watched}
        check(kinds == {"PodMonitor", "PrometheusRule"}, f"Prometheus has what to scrape, and alerts: {kinds}")
        for each in watched:
            label = each["metadata"]["labels"].get("release")
            check(label == "kube-prometheus-stack", f"kube-prometheus-stack finds the {each['kind']}: {label}")
        rules = [rule for group in one(objects, "PrometheusRule", "zombi")["spec"]["groups"] for rule in group["rules"]]
        [absent] = [rule["expr"] for rule in rules if rule["alert"] == "ZombiAbsent"]
        check(absent == 'absent(up{job="zombi",namespace="zombi"})', f"no other Zombi hides that this one is gone: {absent}")
        [monitor] = of(objects, "PodMonitor")
        check(monitor["metadata"]["namespace"] == "zombi", f"this one is scraped in the namespace that the alert asks for: {monitor}")
        found = variables(one(objects, "StatefulSet", "zombi"))
        check(found["ZOMBI_S3_BUCKET"] == "my-events", f"the overlay's own bucket holds: {found}")
        check("ZOMBI_HTTP_HOSTS" in found and "ZOMBI_POD" in found, f"and the rest stays: {found}")
    for path in glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True):
        with open(path) as file:
            for link in re.findall(r"\]\(([^)#:]+)\)", file.read()):
                target = os.path.join(os.path.dirname(path), link)
                check(os.path.exists(target), f"{os.path.relpath(path, ROOT)} leads to {link}")
    say(f"docs       {len(examples)} example rendered; every link leads somewhere")


def dockerfile():
    found = subprocess.run([os.path.join(TOOLS, "hadolint"), os.path.join(ROOT, "Dockerfile")], capture_output=True, text=True)
    check(found.returncode == 0, f"hadolint finds nothing: {found.stdout}{found.stderr}")
    say("Dockerfile hadolint finds nothing")


def tiltfile():
    calls = []

    def recorded(name):
        def call(*arguments, **named):
            calls.append((name, arguments, named))
            return name
        return call

    module = starlark.Module()
    for name in ["allow_k8s_contexts", "docker_build", "k8s_yaml", "kustomize", "k8s_resource", "local_resource"]:
        module.add_callable(name, recorded(name))
    module["TRIGGER_MODE_MANUAL"] = 1
    with open(os.path.join(ROOT, "Tiltfile")) as file:
        starlark.eval(module, starlark.parse("Tiltfile", file.read()), starlark.Globals.standard())
    named = {arguments[0] for name, arguments, _ in calls if name in ("k8s_resource", "local_resource")}
    check({"zombi", "minio", "smoke", "load", "flush"} <= named, f"Tilt has Zombi, MinIO and its buttons: {named}")
    folder = next(arguments[0] for name, arguments, _ in calls if name == "kustomize")
    check(os.path.exists(os.path.join(ROOT, folder, "kustomization.yaml")), f"{folder} is there")
    only = next(named["only"] for name, _, named in calls if name == "docker_build")
    check(all(os.path.exists(os.path.join(ROOT, path)) for path in only), f"what the image is built from is there: {only}")
    say(f"Tiltfile   evaluated: {len(calls)} calls, resources {', '.join(sorted(named))}")


if __name__ == "__main__":
    main()
