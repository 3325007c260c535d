"""Checks what is deployed for identity: who gets in and by which files, TLS, the way to the API server, the
example of a client."""

import base64
import os
import re
import subprocess

import yaml

from demo import check, say
from manifests import CERT_MANAGER, DEPLOY, POD_SECURITY, lets_out, of, one, validate, variables
from manifests import with_components

# What production lets a client use that has no quota of its own.
QUOTAS = {
    "requests_per_sec": 500, "write_bytes_per_sec": 16 << 20, "read_bytes_per_sec": 64 << 20,
    "inflight_bytes": 32 << 20, "streams": 16, "flushes_per_min": 30, "tables": 100, "partitions": 2000,
    "groups": 100,
}
# By its variable, each file of identity: the kind of volume that it is in, and its name there.
AUTH_FILES = {
    "ZOMBI_AUTH_POLICY_FILE": ("configMap", "policy.yaml"),
    "ZOMBI_AUTH_TOKENS_FILE": ("secret", "tokens.yaml"),
    "ZOMBI_AUTH_OIDC_CA_FILE": ("projected", "ca.crt"),
    "ZOMBI_AUTH_OIDC_TOKEN_FILE": ("projected", "token"),
}
TLS_FILES = {
    "ZOMBI_TLS_CERT_FILE": ("secret", "tls.crt"),
    "ZOMBI_TLS_KEY_FILE": ("secret", "tls.key"),
}


def api_server(closed, production):
    """Zombi gets to the keys of ServiceAccounts' tokens, by the Service's port and by the one behind it."""
    opened = one(with_components("network-policy", "auth"), "NetworkPolicy", "zombi")
    check(not lets_out(closed, "203.0.113.7", 6443, "TCP"), "the API server is closed without auth")
    for policy in (opened, production):
        for port in (443, 6443):
            check(lets_out(policy, "203.0.113.7", port, "TCP"), f"auth opens the API server's port {port}")
        rules = closed["spec"]["egress"]
        check(policy["spec"]["egress"][:len(rules)] == rules, "auth takes nothing away")
        # Clients to the main port, monitoring to the admin port.
        check(policy["spec"]["ingress"] == closed["spec"]["ingress"], "auth leaves alone who may come in")
    check(not of(with_components("auth"), "NetworkPolicy"), "auth by itself closes nothing")


def production(places):
    """Production, and what stands on it, lets in whom its policy names, by files that change under the running
    pod; the others let in everybody."""
    for place, rendered in places.items():
        found = variables(one(rendered, "StatefulSet", "zombi"))
        named = sorted(name for name in found if name.startswith(("ZOMBI_AUTH_", "ZOMBI_TLS_")))
        if place in ("overlays/production", "overlays/cluster-volumes", "overlays/cluster"):
            check(found.get("ZOMBI_AUTH_MODE") == "required", f"{place} refuses strangers: {named}")
        else:
            check(not named, f"{place} asks nobody who they are: {named}")
    objects = places["overlays/production"]
    for account in of(objects, "ServiceAccount"):
        check(account.get("automountServiceAccountToken") is False, f"no pod gets a token unasked: {account}")
    policy = yaml.safe_load(one(objects, "ConfigMap", "zombi-policy")["data"]["policy.yaml"])
    quotas = policy["quotas"]["default"]
    check(policy["version"] == 1 and quotas == QUOTAS, f"the policy has production's quotas: {quotas}")
    tokens = base64.b64decode(one(objects, "Secret", "zombi-tokens")["data"]["tokens.yaml"])
    check(yaml.safe_load(tokens) == {"version": 1, "tokens": []}, f"no token is good everywhere: {tokens}")
    files = mounted(objects)
    check(files == AUTH_FILES, f"the files are where their settings say: {files}")
    say(f"identity   production lets in whom its policy names; {len(files)} files change under the pod")


def mounted(objects):
    """By the variable that names it, each file of Zombi's: the kind of its volume, and its name there."""
    stateful = one(objects, "StatefulSet", "zombi")
    spec = stateful["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounts = {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
    found = {}
    for variable, path in variables(stateful).items():
        if not variable.endswith("_FILE"):
            continue
        directory, name = os.path.split(path)
        check(directory in mounts, f"{variable} is in a volume: {path} in {sorted(mounts)}")
        mount = mounts[directory]
        # The kubelet does not update what is mounted by a subPath.
        is_whole = not {"subPath", "subPathExpr"} & set(mount)
        check(mount.get("readOnly") and is_whole, f"{variable} is in a whole volume: {mount}")
        [kind] = set(volumes[mount["name"]]) - {"name"}
        found[variable] = (kind, name)
    return found


def certificate(production):
    """TLS on the main port alone, for the names that clients may use."""
    objects = validate("overlays/production with tls", with_components("tls", on="overlays/production"))
    [issued] = [each for each in objects if each["apiVersion"].startswith(CERT_MANAGER)]
    stateful, before = one(objects, "StatefulSet", "zombi"), one(production, "StatefulSet", "zombi")
    files = mounted(objects)
    check(files == AUTH_FILES | TLS_FILES, f"certificate and key are where their settings say: {files}")
    volumes = stateful["spec"]["template"]["spec"]["volumes"]
    [secret] = [each["secret"]["secretName"] for each in volumes if each["name"] == "tls"]
    issues = issued["kind"] == "Certificate" and issued["spec"]["secretName"] == secret
    check(issues, f"they are the certificate's: {secret}, {issued}")
    hosts = variables(before)["ZOMBI_HTTP_HOSTS"].split(",")
    names = issued["spec"]["dnsNames"]
    check(sorted(names) == sorted(hosts), f"the certificate has the names that Zombi answers to: {names}")
    for member in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
        sets = (before, stateful)
        was, found = (each["spec"]["template"]["spec"]["containers"][0][member] for each in sets)
        check(found == was, f"the {member} stay as they are: {found}")
    for service in ("zombi", "zombi-headless"):
        first, *rest = one(objects, "Service", service)["spec"]["ports"]
        expected = {"name": "https", "appProtocol": "https", "port": 8080, "targetPort": "http"}
        check(first == expected, f"{service} says https: {first}")
        plain = one(production, "Service", service)["spec"]["ports"][1:]
        check(rest == plain, f"the admin port of {service} stays plain: {rest}")
    with open(os.path.join(DEPLOY, "overlays", "production", "kustomization.yaml")) as file:
        check("\n  # - ../../components/tls\n" in file.read(), "production has tls ready, and leaves it out")
    say(f"tls        a certificate for {len(hosts)} names; probes and metrics stay plain")


def examples(production):
    """The client of deploy/examples has what it needs to be let in, and nothing more."""
    with open(os.path.join(DEPLOY, "examples", "client.yaml")) as file:
        objects = validate("examples/client.yaml", list(yaml.safe_load_all(file)))
    pod = one(objects, "Pod", "checkout")
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    labels = one(objects, "Namespace", namespace)["metadata"]["labels"]
    check(POD_SECURITY.items() <= labels.items(), f"its namespace is restricted: {labels}")
    rules = one(production, "NetworkPolicy", "zombi")["spec"]["ingress"]
    peer = {"namespaceSelector": {"matchLabels": {"zombi-client": labels.get("zombi-client")}}}
    check(any(peer in rule["from"] for rule in rules), f"its namespace may come in: {labels}")
    account = one(objects, "ServiceAccount", spec["serviceAccountName"])
    for each in (account, spec):
        check(each.get("automountServiceAccountToken") is False, f"the API server's token stays away: {each}")
    [container] = spec["containers"]
    image = container["image"]
    check(re.fullmatch(r"docker\.io/curlimages/curl:\d+\.\d+\.\d+", image), f"its image is pinned: {image}")
    shows_a_token(spec["volumes"], container)
    url = next(each["value"] for each in container["env"] if each["name"] == "ZOMBI")
    host = re.fullmatch(r"http://([^:]+):8080", url).group(1)
    hosts = variables(one(production, "StatefulSet", "zombi"))["ZOMBI_HTTP_HOSTS"].split(",")
    check(host in hosts, f"it calls Zombi by a name of its: {host}")
    with open(os.path.join(DEPLOY, "examples", "policy.yaml")) as file:
        bindings = yaml.safe_load(file)["bindings"]
    subject = f"sa:{namespace}/{account['metadata']['name']}"
    mine = [binding["role"] for binding in bindings if subject in binding["subjects"]]
    check(mine == ["producer"], f"the policy lets it append, and nothing else: {mine}")
    say(f"examples   {len(bindings)} clients in a policy; the client shows a token for Zombi alone")


def shows_a_token(volumes, container):
    """The client's token is for Zombi alone, and is read again for each request."""
    [[source]] = [volume["projected"]["sources"] for volume in volumes]
    token = source["serviceAccountToken"]
    is_short = token["expirationSeconds"] <= 3600
    check(token["audience"] == "zombi" and is_short, f"its token is for Zombi, and short: {token}")
    [mount] = container["volumeMounts"]
    script = container["args"][0]
    syntax = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True)
    check(syntax.returncode == 0, f"a shell understands it: {syntax.stderr}")
    path = f"$(cat {mount['mountPath']}/{token['path']})"
    check(path in script.split("while true")[1], f"it reads the token again for each request: {path}")
