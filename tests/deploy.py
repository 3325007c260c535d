#!/usr/bin/env python3
"""Checks what is deployed, with the tools that others use for it.

    tests/deploy.py

Every overlay against the Kubernetes schemas, strictly, and against what has gone wrong in clusters: volumes, probes, budgets,
names, networks, secrets, identity; the examples of deploy/examples, and those of docs/kubernetes.md, rendered; the Dockerfile by
hadolint; the Tiltfile evaluated, with Tilt's own functions standing in. Needs the packages of tests/requirements.txt in the Python that runs it; what needs kubectl is
skipped, and says so, where there is none.
"""

import base64
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile

import starlark
import yaml

import identity
from demo import check, say
from manifests import DEPLOY, OPERATOR, POD_SECURITY, ROOT, TOOLS, kustomize, lets_out, of, one, validate, variables, with_components

PLACES = ["base", "overlays/dev", "overlays/production", "overlays/cluster-volumes", "overlays/cluster"]
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
    lease(places["overlays/production"])
    disruption(places["overlays/production"])
    for place in ("overlays/cluster-volumes", "overlays/cluster"):
        cluster(places[place])
    log(places["overlays/cluster"])
    network(places["overlays/production"])
    identity.production(places)
    identity.certificate(places["overlays/production"])
    identity.examples(places["overlays/production"])
    jobs(places["overlays/production"])
    dashboards()
    documented()


def jobs(production):
    """The Jobs of the examples: restricted, one at a time, and nothing that the Service sends requests to."""
    selected = one(production, "Service", "zombi")["spec"]["selector"]
    for name in ("backup.yaml", "care.yaml"):
        with open(os.path.join(DEPLOY, "examples", name)) as file:
            objects = validate(f"examples/{name}", list(yaml.safe_load_all(file)))
        spec = objects[0]["spec"]
        if objects[0]["kind"] == "CronJob":
            check(spec["concurrencyPolicy"] == "Forbid", f"{name}: of two backups at once one is refused: {spec}")
            spec = spec["jobTemplate"]["spec"]
        template = spec["template"]
        labels = template["metadata"]["labels"]
        check(any(labels.get(key) != value for key, value in selected.items()), f"{name}: the Service passes it by: {labels}")
        container = template["spec"]["containers"][0]
        context = {**template["spec"]["securityContext"], **container["securityContext"]}
        restricted = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "allowPrivilegeEscalation": False,
                      "capabilities": {"drop": ["ALL"]}}
        check(all(context.get(key) == value for key, value in restricted.items()), f"{name}: its pod is restricted: {context}")
        check(template["spec"]["automountServiceAccountToken"] is False, f"{name}: it needs nothing of the API server")


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


def lease(production):
    """The patch that production has ready, and leaves out, sets a lease and nothing else."""
    with tempfile.TemporaryDirectory() as directory:
        copied = os.path.join(directory, "deploy")
        shutil.copytree(DEPLOY, copied)
        place = os.path.join(copied, "overlays", "production")
        with open(os.path.join(place, "kustomization.yaml"), "r+") as file:
            text = file.read()
            ready = text.replace("\n  # - path: lease.yaml\n", "\n  - path: lease.yaml\n")
            check(ready != text, "production has a lease ready, and leaves it out")
            file.seek(0)
            file.truncate()
            file.write(ready)
        objects = validate("overlays/production with a lease", kustomize(place))
    before, leased = (variables(one(each, "StatefulSet", "zombi")) for each in (production, objects))
    secs = leased.pop("ZOMBI_S3_LEASE_SECS")
    check("ZOMBI_S3_LEASE_SECS" not in before and leased == before and int(secs) > 0, f"the lease alone is new: {secs}, {leased}")
    say(f"lease      production with its patch: {secs} s")


def disruption(objects):
    budget = one(objects, "PodDisruptionBudget", "zombi")["spec"]
    check(budget.get("maxUnavailable") == 1, f"a node can be drained: {budget}")
    check(budget.get("unhealthyPodEvictionPolicy") == "AlwaysAllow", f"an unready pod never keeps its node: {budget}")
    say("budget     one pod at a time, and an unready one always")


def cluster(objects):
    """Three pods, one at a time away, which may call each other."""
    disruption(objects)
    stateful = one(objects, "StatefulSet", "zombi")
    pods = variables(stateful).get("ZOMBI_CLUSTER_PODS")
    check(str(stateful["spec"]["replicas"]) == pods, f"there are as many pods as the cluster has: {pods}")
    claims = stateful["spec"]["volumeClaimTemplates"]
    check(len(claims) == 1, f"each has a volume of its own: {claims}")
    rules = one(objects, "NetworkPolicy", "zombi")["spec"]["egress"]
    own = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "zombi"}}}
    check(any(rule.get("to") == [own] and rule["ports"] == [{"port": "http"}] for rule in rules), f"pods reach each other: {rules}")
    say(f"cluster    {pods} pods, each with a volume, apart, one at a time away")


def log(objects):
    """Three NATS servers that sync what they acknowledge, apart, one at a time away, which Zombi's pods alone may reach."""
    stateful, name = one(objects, "StatefulSet", "zombi-nats"), "zombi-nats"
    spec = stateful["spec"]["template"]["spec"]
    check(stateful["spec"]["replicas"] == 3, "two of three are a quorum")
    check(one(objects, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1, "one server at a time is away")
    check(spec["enableServiceLinks"] is False, "no Service sets ZOMBI_NATS_PORT")
    apart = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    check(apart[0]["topologyKey"] == "kubernetes.io/hostname", f"no two servers are on one node: {apart}")
    headless = one(objects, "Service", stateful["spec"]["serviceName"])["metadata"]["name"]
    hosts = [f"zombi-nats-{number}.{headless}" for number in range(3)]
    zombi = one(objects, "StatefulSet", "zombi")
    for variable, scheme, port in (("URLS", "nats", 4222), ("MONITORS", "http", 8222)):
        found = variables(zombi)[f"ZOMBI_CLUSTER_NATS_{variable}"].split(",")
        check(found == [f"{scheme}://{host}:{port}" for host in hosts], f"Zombi knows all servers: {found}")
    who = [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": name}}} for name in ("zombi", "zombi-nats")]
    egress = one(objects, "NetworkPolicy", "zombi")["spec"]["egress"]
    check({"to": [who[1]], "ports": [{"port": 4222}, {"port": 8222}]} in egress, f"Zombi's pods reach them: {egress}")
    entries = one(objects, "NetworkPolicy", name)["spec"]["ingress"]
    clients = [rule["from"] for rule in entries if {"port": "nats"} in rule["ports"]]
    servers = [rule["from"] for rule in entries if {"port": "cluster"} in rule["ports"]]
    check((clients, servers) == ([who[:1]], [who[1:]]), f"and nobody else is a client, or a server: {entries}")
    mount, volume = spec["containers"][0]["volumeMounts"], spec["volumes"]
    check({"name": "config", "mountPath": "/etc/nats", "readOnly": True} in mount, f"the configuration is mounted: {mount}")
    [config] = [each["configMap"]["name"] for each in volume if each["name"] == "config"]
    taken_by_nats(one(objects, "ConfigMap", config)["data"]["nats.conf"], variables(stateful), hosts)
    say("log        three NATS servers, apart, which sync always; their configuration is one that NATS takes")


def taken_by_nats(config, found, hosts):
    """The server itself reads its configuration, with an environment as the kubelet makes it."""
    check(re.search(r"(?m)^  sync_interval: always$", config), f"what is acknowledged is synced: {config}")
    check("no_auth_user" not in config and config.count("user:") == 2, f"there is one user, and one for routes: {config}")
    routes = found["NATS_ROUTES"].replace("$(NATS_ROUTE_PASSWORD)", "z1")
    check(re.findall(r'"nats://route:z1@([^:"]+):6222"', routes) == hosts, f"the servers know each other: {routes}")
    environment = {"POD_NAME": "zombi-nats-0", "NATS_PASSWORD": "z0", "NATS_ROUTE_PASSWORD": "z1", "NATS_ROUTES": routes}
    check(set(environment) <= set(found), f"the pod has the variables of the configuration: {sorted(found)}")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "nats.conf")
        with open(path, "w") as file:
            file.write(config)
        command = [os.path.join(TOOLS, "nats-server"), "--config", path, "-t"]
        taken = subprocess.run(command, capture_output=True, text=True, env=environment)
    check(taken.returncode == 0, f"NATS takes its configuration: {taken.stderr}")


def network(production):
    """The policy alone closes what a component opens; with the component it is open, and as much as before stays closed."""
    alone = one(with_components("network-policy"), "NetworkPolicy", "zombi")
    check(lets_out(alone, "kube-system", 53, "UDP") and lets_out(alone, "203.0.113.7", 443, "TCP"), "DNS and S3 are open")
    entries = one(production, "NetworkPolicy", "zombi")["spec"]["ingress"]
    metrics = [rule for rule in entries if {"port": "admin"} in rule["ports"]]
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
    identity.api_server(alone, one(production, "NetworkPolicy", "zombi"))
    there = {name for name in os.listdir(os.path.join(DEPLOY, "components")) if name.startswith("egress-")}
    check(there == set(WAYS_OUT), f"each component is tried: {there ^ set(WAYS_OUT)}")
    with open(os.path.join(ROOT, "docs", "kubernetes.md")) as file:
        text = file.read()
    check(all(f"`{component}`" in text for component in there), "docs/kubernetes.md has them all")
    say(f"network    {len(ways)} ways out for DNS and credentials: closed by the policy, opened by {len(there)} components")


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
            shutil.copy(os.path.join(DEPLOY, "examples", "policy.yaml"), directory)
            with open(os.path.join(directory, "tokens.yaml"), "w") as file:
                file.write("version: 1\ntokens: [{name: ci, sha256: " + "0" * 64 + "}]\n")
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
        books = [rule["annotations"]["runbook_url"] for rule in rules]
        copy = r"https://git\.example\.com/platform/zombi/blob/main/docs/runbooks/[a-z0-9-]+\.md"
        wrong = [book for book in books if not re.fullmatch(copy, book)]
        check(not wrong, f"every alert leads to the overlay's own copy of the runbooks: {wrong}")
        [monitor] = of(objects, "PodMonitor")
        check(monitor["metadata"]["namespace"] == "zombi", f"this one is scraped in the namespace that the alert asks for: {monitor}")
        stateful = one(objects, "StatefulSet", "zombi")
        image = stateful["spec"]["template"]["spec"]["containers"][0]["image"]
        check(image == "registry.corp.example/zombi:0.1.0", f"the overlay's own image runs: {image}")
        found = variables(stateful)
        check(found["ZOMBI_S3_BUCKET"] == "my-events", f"the overlay's own bucket holds: {found}")
        check("ZOMBI_HTTP_HOSTS" in found and "ZOMBI_POD" in found, f"and the rest stays: {found}")
        # By the same names, or the pod would still have the examples of the component.
        policy = yaml.safe_load(one(objects, "ConfigMap", "zombi-policy")["data"]["policy.yaml"])
        check("quotas" not in policy, f"the overlay's own policy holds: {policy}")
        tokens = yaml.safe_load(base64.b64decode(one(objects, "Secret", "zombi-tokens")["data"]["tokens.yaml"]))
        check([token["name"] for token in tokens["tokens"]] == ["ci"], f"the overlay's own tokens hold: {tokens}")
        check(found["ZOMBI_AUTH_OIDC_ISSUER"].startswith("https://oidc.eks."), f"and its issuer: {found}")
    for path in glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True):
        with open(path) as file:
            for link in re.findall(r"\]\(([^)#:]+)\)", file.read()):
                target = os.path.join(os.path.dirname(path), link)
                check(os.path.exists(target), f"{os.path.relpath(path, ROOT)} leads to {link}")
    policies = rights()
    say(f"docs       {len(examples)} example rendered; every link leads somewhere; {policies} policies and rules as JSON")


def rights():
    """Policies and rules of the page, pasted as they are: what Zombi needs and nothing more, and no rule that deletes its objects."""
    with open(os.path.join(ROOT, "docs", "operations", "iam.md")) as file:
        found = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", file.read(), re.S)]
    statements = [statement for each in found for statement in each.get("Statement", []) if "Resource" in statement]
    actions = {action for each in statements for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])}
    wanted = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "kms:Decrypt", "kms:GenerateDataKey"}
    check(actions == wanted, f"Zombi's rights are these and no others: {actions ^ wanted}")
    rules = [rule for each in found for rule in each.get("Rules", [])]
    check(rules, "there are lifecycle rules")
    for rule in rules:
        deletes = "Transitions" in rule or set(rule.get("Expiration", {})) - {"ExpiredObjectDeleteMarker"}
        check(not deletes, f"no rule deletes or moves what is current: {rule}")
    return len(found)


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
