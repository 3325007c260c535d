#!/usr/bin/env python3
"""Holds metrics, alerts and dashboards to the tools that read them.

    tests/observe.py ZOMBI S3

`promtool` checks the metrics of a Zombi under load, and the alerts with their unit tests: each alert fires in one and stays
silent in another, and has a runbook. Prometheus scrapes it, and every expression of a dashboard, an alert or a page for operators is
evaluated: all must parse, those of the dashboards return something, and a healthy Zombi has every metric that an alert or a page
names, and no alert.
ZOMBI and S3 are the two binaries (`make observe` builds and passes them). Needs Prometheus and promtool (Debian: prometheus),
and the packages of tests/requirements.txt in the Python that runs it.
"""

import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from demo import S3, Zombi, check, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OPERATOR = os.path.join(ROOT, "deploy", "components", "prometheus-operator")
DASHBOARDS = os.path.join(ROOT, "deploy", "components", "grafana-dashboards", "*.json")
RUNBOOKS = os.path.join(ROOT, "docs", "runbooks")
PAGES = [os.path.join(RUNBOOKS, "*.md"), os.path.join(ROOT, "docs", "operations", "*.md")]
# Numbers of an issuer's keys. They are there only with an issuer: static tokens need no keys, and 0 would be an alert.
WITH_ISSUER = {"zombi_auth_keys"}
# What only pods of a cluster say.
OF_CLUSTER = {"zombi_shard_owned", "zombi_forwarded_requests_total"}
# What only pods say whose shards have logs; tests/log sees that they do.
OF_LOGS = {"zombi_shard_copies", "zombi_log_applied", "zombi_log_lag_entries", "zombi_log_bytes", "zombi_log_max_bytes",
           "zombi_copy_stopped", "zombi_log_streams_damaged", "zombi_log_servers_unmet"}
# What the pages for operators name beside, with files of identity or with logs.
IN_PAGES = {"zombi_auth_loaded_timestamp_seconds", "zombi_log_append_attempts_total", "zombi_log_append_seconds_count",
            "zombi_log_damage_total"}
# What depends on this machine, and may be an alert here: how fast its disk syncs, and how full it is.
OF_MACHINE = ("duration", "zombi_disk_", "zombi:slo_burn")
# Whoever follows a runbook in production needs a token for this; not for probes and metrics.
ASKS = re.compile(r"curl [^`|]*?localhost:(?:8080|9090)/(?!livez|readyz|startupz|metrics)")
# Whoever is on call should know them all: those of every Zombi, and those of clusters whose shards have logs.
MOST_ALERTS = {"zombi": 30, "zombi-logs": 7}
# The public half of a key whose other half nobody has.
JWKS = {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1",
                  "x": "CBDRN164VwwBzp4aeLa5lZbb2Vy3MPi5hT-lT4knEuI", "y": "fDHnGwpsFnijQtgtc0OtLEg82Bsx-BnSnDLgPkIdglc"}]}


def main():
    check(shutil.which("promtool") and shutil.which("prometheus"), "Prometheus is installed (Debian: prometheus)")
    alerts()
    ready()
    with tempfile.TemporaryDirectory(prefix="zombi-observe-") as directory:
        s3 = S3(sys.argv[2], os.path.join(directory, "bucket"))
        zombi = Zombi(sys.argv[1], os.path.join(directory, "volume"), s3.endpoint, {"flush.interval_secs": "1"})
        try:
            load(zombi)
            metrics(zombi)
            identity(sys.argv[1], s3.endpoint, directory)
            cluster(sys.argv[1], s3.endpoint, directory)
            expressions(zombi, directory)
        finally:
            zombi.kill()
            s3.stop()


def load(zombi):
    """Something of everything that is counted."""
    zombi.post_stream(f'{{"payload": {n}, "partition": {n % 3}, "idempotency_key": "{n}"}}\n'.encode() for n in range(2000))
    zombi.post_stream(f'{{"payload": {n}, "partition": {n % 3}, "idempotency_key": "{n}"}}\n'.encode() for n in range(10))
    zombi.request("POST", "/flush")
    list(zombi.pages())
    zombi.request("GET", "/tables/nope")
    zombi.request("POST", "/consumers/billing/commit", body={"table": "flights", "partition": 0, "offset": 5})


def metrics(zombi):
    text = urllib.request.urlopen(f"http://127.0.0.1:{zombi.port}/metrics").read()
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    check(found.returncode == 0, f"promtool finds nothing in the metrics: {found.stdout.decode()}{found.stderr.decode()}")
    # An alert on a series that is not there yet misses what it counts first; on one that is never there it misses everything.
    names = {name for expression in alert_expressions() for name in re.findall(r"\bzombi_\w+", expression)}
    missing = {name for name in names if not has(text, name)}
    elsewhere = (WITH_ISSUER | OF_CLUSTER | OF_LOGS) & names
    check(missing == elsewhere, f"there is every metric that an alert names, but those of issuers and clusters: {sorted(missing)}")
    named = {name for text in pages() for name in re.findall(r"\bzombi_\w*[a-z]\b", text)}
    missing = {name for name in named - elsewhere - IN_PAGES if not re.search(rf"^{name}".encode(), text, re.M)}
    check(not missing, f"there is every metric that a page names, but those of issuers and clusters: {sorted(missing)}")
    say(f"metrics    {len(re.findall(rb'^# TYPE zombi_', text, re.M))} of Zombi's own; promtool finds nothing; {len(names)} are in alerts")


def has(text, name):
    return re.search(rf"^{name}[ {{]".encode(), text, re.M)


def identity(binary, endpoint, directory):
    """A Zombi with an issuer has the metrics that it alone has, and they say that all is well."""
    files = {"policy.yaml": "version: 1\nbindings: []\n", "jwks.json": json.dumps(JWKS)}
    for name, text in files.items():
        with open(os.path.join(directory, name), "w") as file:
            file.write(text)
    settings = {"s3.bucket": "identified", "auth.mode": "required", "auth.policy_file": os.path.join(directory, "policy.yaml"),
                "auth.oidc.issuer": "https://issuer.example.com", "auth.oidc.jwks_file": os.path.join(directory, "jwks.json")}
    zombi = Zombi(binary, os.path.join(directory, "identified"), endpoint, settings)
    try:
        with open(zombi.volume + ".log") as log:
            port = re.search(r"the admin port address=\S+:(\d+)", log.read()).group(1)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
    finally:
        zombi.kill()
    missing = {name for name in WITH_ISSUER if not has(text, name)}
    check(not missing, f"with an issuer there are the numbers of its keys: {sorted(missing)}")
    for name, value in (("zombi_auth_keys", 1), ("zombi_auth_enabled", 1), ("zombi_auth_reload_failures_total", 0)):
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$".encode(), text, re.M)
        check(found and all(float(one) == value for one in found), f"{name} is {value} where all is well: {found}")
    say("identity   with an issuer there are its keys; without one there are none to miss")


def cluster(binary, endpoint, directory):
    """A pod of a cluster has the metrics that pods alone have, from its start, and they say that all is well."""
    settings = {"s3.bucket": "clustered", "cluster.pods": "1", "cluster.copies": "1", "pod": "zombi-0", "cluster.address": "127.0.0.1:8080"}
    zombi = Zombi(binary, os.path.join(directory, "clustered"), endpoint, settings)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{zombi.port}/metrics").read()
    finally:
        zombi.kill()
    missing = {name for name in OF_CLUSTER if not has(text, name)}
    check(not missing, f"a pod of a cluster has its own numbers: {sorted(missing)}")
    owned = re.findall(rb"^zombi_shard_owned{.*} (\S+)$", text, re.M)
    check(len(owned) == 12 and all(float(one) == 1 for one in owned), f"the only pod owns all shards: {owned}")
    say("cluster    a pod says which shards it owns; one Zombi says nothing of shards")


def rules():
    """The groups of the PrometheusRules, as Prometheus itself reads them: alerts, and objectives."""
    groups = []
    for name in ("prometheus-rule.yaml", "slo.yaml"):
        with open(os.path.join(OPERATOR, name)) as file:
            groups += yaml.safe_load(file)["spec"]["groups"]
    return {"groups": groups}


def all_rules(kind):
    """Those with an `alert`, or those that `record`."""
    return [rule for group in rules()["groups"] for rule in group["rules"] if kind in rule]


def alerts():
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "rules.yaml"), "w") as file:
            json.dump(rules(), file)
        tests = shutil.copy(os.path.join(OPERATOR, "rules_test.yaml"), directory)
        for command in (["check", "rules", file.name], ["test", "rules", tests]):
            found = subprocess.run(["promtool", *command], capture_output=True, text=True)
            check(found.returncode == 0, f"promtool {' '.join(command[:2])}: {found.stdout}{found.stderr}")
        with open(tests) as file:
            tests = [test for each in yaml.safe_load(file)["tests"] for test in each["alert_rule_test"]]
    found = all_rules("alert")
    count = {group["name"]: sum("alert" in rule for rule in group["rules"]) for group in rules()["groups"]}
    too_many = {name: many for name, many in count.items() if many > MOST_ALERTS.get(name, 0)}
    check(found and not too_many, f"there are no more alerts than {MOST_ALERTS}: {too_many}")
    for rule in found:
        mine = [bool(test["exp_alerts"]) for test in tests if test["alertname"] == rule["alert"]]
        check(True in mine, f"{rule['alert']} has a unit test in which it fires")
        check(False in mine, f"{rule['alert']} has a unit test in which it stays silent")
    unknown = {test["alertname"] for test in tests} - {rule["alert"] for rule in found}
    check(not unknown, f"the unit tests name alerts that there are: {unknown}")
    runbooks(found)
    objectives()
    say(f"alerts     {len(found)}, each with a runbook; promtool passes {len(tests)} tests, in which each fires and is silent")


def ready():
    """The dashboard's first number is 1 only while everything that the numbers beside it count is there to be counted."""
    pod, shard = '{job="zombi",pod="zombi-0"}', '{job="zombi",shard="003",pod="zombi-0"}'
    other, others = '{job="zombi",namespace="other"}', '{job="zombi",namespace="other",shard="003"}'
    cases = {"a Zombi that is ready": ({"zombi_ready" + pod: 1, "up" + pod: 1}, 1), "nothing": ({}, 0),
             "one that is not ready": ({"zombi_ready" + pod: 0, "up" + pod: 1}, 0), "one that is away": ({"up" + pod: 0}, 0),
             "a pod that owns its shard": ({"zombi_ready" + pod: 1, "up" + pod: 1, "zombi_shard_owned" + shard: 1}, 1),
             "a shard that nobody owns": ({"zombi_ready" + pod: 1, "up" + pod: 1, "zombi_shard_owned" + shard: 0}, 0),
             "one that is gone, and another's": ({"zombi_ready" + other: 1, "up" + other: 1, "zombi_shard_owned" + others: 1}, 0),
             "one that is ready, and another's": ({"zombi_ready" + pod: 1, "up" + pod: 1, "zombi_ready" + other: 0, "up" + other: 0}, 1)}
    expression = dict(dashboard_expressions())["Ready"]
    tests = [{"name": name, "interval": "1m", "input_series": [{"series": key, "values": str(value)} for key, value in series.items()],
              "promql_expr_test": [{"expr": expression, "eval_time": "0s", "exp_samples": [{"labels": "{}", "value": expected}]}]}
             for name, (series, expected) in cases.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"rule_files": [], "tests": tests}, file)
        file.flush()
        found = subprocess.run(["promtool", "test", "rules", file.name], capture_output=True, text=True)
    check(found.returncode == 0, f"the dashboard says whether everything is there: {found.stdout}{found.stderr}")
    say(f"dashboard  {len(cases)} states, of which three are shown as ready")


def objectives():
    """Each has its part missed and its burn, over the same windows; and the page of alerts names them all."""
    recorded = {(rule["record"], rule.get("labels", {}).get("slo")) for rule in all_rules("record")}
    windows = {name.rsplit(":rate", 1)[1] for name, _ in recorded if name.startswith("zombi:slo_burn:rate")}
    check({"5m", "30m", "1h", "6h", "3d"} == windows, f"burn rates have five windows: {windows}")
    for window in windows:
        for slo in ("writes", "latency", "freshness"):
            check((f"zombi:slo_errors:ratio_rate{window}", slo) in recorded, f"{slo} is measured over {window}")
    with open(os.path.join(ROOT, "docs", "operations", "alerts.md")) as file:
        page = file.read()
    missing = [rule["alert"] for rule in all_rules("alert") if f"| {rule['alert']} | {rule['labels']['severity']} |" not in page]
    check(not missing, f"docs/operations/alerts.md has every alert with its severity: {missing}")


def runbooks(found):
    books = {rule["annotations"]["runbook_url"].rsplit("/", 1)[1]: rule["alert"] for rule in found}
    there = set(os.listdir(RUNBOOKS))
    check(set(books) == there and len(books) == len(found), f"each alert has a runbook, and each runbook an alert: {set(books) ^ there}")
    for book, alert in books.items():
        with open(os.path.join(RUNBOOKS, book)) as file:
            text = file.read()
        check(text.startswith(f"# {alert}\n\n"), f"{book} is about {alert}, and begins with what it means")
        check(re.findall(r"^## (.*)", text, re.M) == ["Look", "Do", "Stop"], f"{book} says where to look, what to do and when to stop")
        if ASKS.search(" ".join(text.split())):
            check("(../operations/README.md#who-asks)" in text, f"{book} has commands that need a token, and says where it is from")
        check("```" in text.split("## Look")[1].split("## Do")[0], f"{book} has the commands to look with")


def expressions(zombi, directory):
    with Prometheus(zombi.port, directory) as prometheus:
        prometheus.wait_until("up == 1")
        # Rates need two scrapes of something that moves.
        until = time.monotonic() + 8
        while time.monotonic() < until:
            load(zombi)
            time.sleep(0.2)
        for title, expression in dashboard_expressions():
            prometheus.wait_until(expression, f"the dashboard's {title!r} shows something: {expression}")
        for expression in alert_expressions():
            found = prometheus.query(expression)
            of_machine = any(part in expression for part in OF_MACHINE)
            check(not found or of_machine, f"nothing is wrong, so no alert begins: {expression} gives {found}")
        for expression in page_expressions():
            prometheus.query(expression)
        zombi.kill()
        expression = dict(dashboard_expressions())["Ready"]
        prometheus.wait_until(f"({expression}) == 0", "a Zombi that is away is not shown as ready")
        say(f"prometheus {len(dashboard_expressions())} dashboard and {len(alert_expressions())} alert expressions evaluated, and "
            f"{len(page_expressions())} of pages")


def dashboard_expressions():
    found = []
    for path in glob.glob(DASHBOARDS):
        with open(path) as file:
            for panel in json.load(file)["panels"]:
                found += [(panel["title"], target["expr"]) for target in panel.get("targets", [])]
                if panel["type"] == "stat":
                    is_now = all(target.get("instant") for target in panel["targets"])
                    check(is_now, f"{panel['title']!r} shows what is now, not the last that was there within the hour")
    check(found, "there are dashboards")
    fill = {"$__rate_interval": "30s", "$__range": "30s", "$namespace": "", "$pod": ".*", "$job": ".*"}
    for name, value in fill.items():
        found = [(title, expression.replace(name, value)) for title, expression in found]
    return found


def pages():
    """The pages for operators."""
    for path in sorted(path for place in PAGES for path in glob.glob(place)):
        with open(path) as file:
            yield file.read()


def page_expressions():
    """What the pages ask Prometheus, with a group where they mean one of the reader's."""
    blocks = [block for text in pages() for block in re.findall(r"^```promql\n(.*?)^```", text, re.M | re.S)]
    lines = [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]
    check(lines, "the pages have expressions")
    return [line.replace("GROUP", "billing") for line in lines]


def alert_expressions():
    return [rule["expr"] for rule in all_rules("alert")]


class Prometheus:
    """A Prometheus that scrapes one Zombi every second."""

    def __init__(self, target, directory):
        self.target, self.directory = target, directory

    def __enter__(self):
        config, recorded = (os.path.join(self.directory, name) for name in ("prometheus.yml", "recorded.yml"))
        # As the dashboard needs them, and every second.
        groups = [{**group, "interval": "1s"} for group in rules()["groups"] if any("record" in rule for rule in group["rules"])]
        with open(recorded, "w") as file:
            json.dump({"groups": groups}, file)
        with open(config, "w") as file:
            json.dump({"global": {"scrape_interval": "1s"}, "rule_files": [recorded],
                       "scrape_configs": [{"job_name": "zombi", "static_configs": [{"targets": [f"127.0.0.1:{self.target}"]}]}]}, file)
        for _ in range(10):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.directory}/tsdb",
                       f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self.is_ready():
                return self
            self.__exit__()
        check(False, "Prometheus starts")

    def is_ready(self):
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10).status == 200
            except OSError:
                time.sleep(0.2)
        return False

    def query(self, expression):
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            return json.load(urllib.request.urlopen(url, timeout=60))["data"]["result"]
        except urllib.error.HTTPError as error:
            return check(False, f"{expression} can be evaluated: {error.read().decode()}")

    def wait_until(self, expression, what=None):
        until = time.monotonic() + 120
        while not self.query(expression):
            check(time.monotonic() < until, what or f"{expression} holds")
            time.sleep(0.5)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main()
