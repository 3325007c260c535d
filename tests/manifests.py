"""Renders what is in deploy/, checks it against the Kubernetes schemas, and finds things in it."""

import ipaddress
import os
import subprocess
import sys
import tempfile

import yaml

from demo import check, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEPLOY = os.path.join(ROOT, "deploy")
TOOLS = os.path.dirname(sys.executable)
KUBERNETES = "1.32.0"
# Kinds of the Prometheus operator and of cert-manager are not in Kubernetes' schemas.
OPERATOR = "monitoring.coreos.com/"
CERT_MANAGER = "cert-manager.io/"
POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}


def kustomize(directory):
    rendered = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True)
    check(rendered.returncode == 0, f"{directory} can be rendered: {rendered.stderr}")
    return list(yaml.safe_load_all(rendered.stdout))


def with_components(*components, on="base"):
    """The base, or an overlay, with these components."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(DEPLOY, on)] + [os.path.join(DEPLOY, "components", component) for component in components]
        paths = [os.path.relpath(path, directory) for path in paths]
        with open(os.path.join(directory, "kustomization.yaml"), "w") as file:
            yaml.safe_dump({"resources": paths[:1], "components": paths[1:]}, file)
        return kustomize(directory)


def validate(place, objects):
    known = [each for each in objects if not each["apiVersion"].startswith((OPERATOR, CERT_MANAGER))]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        command = [os.path.join(TOOLS, "kubernetes-validate"), "--strict", "-k", KUBERNETES, file.name]
        found = subprocess.run(command, capture_output=True, text=True)
    check(found.returncode == 0, f"{place} is valid: {found.stdout}{found.stderr}")
    rights = [each["kind"] for each in objects if each["apiVersion"].startswith("rbac.authorization.k8s.io/")]
    check(not rights, f"{place} asks the cluster for no right: {rights}")
    others = f"; {len(objects) - len(known)} of operators' own" if len(known) < len(objects) else ""
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
