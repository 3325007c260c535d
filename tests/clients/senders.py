"""Programs that send: each event is stored once and whole, or refused by name."""

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time

from demo import check

from had import FILES, Skip, adapted, command, fill, free_port, go, maven, node, put, python, recipe, run, running

JSONSCHEMA = "jsonschema==4.26.0"

# What senders of CloudEvents are told to send. Other letters than ASCII only where the SDK encodes them.
EVENTS = [
    {"id": "1", "source": "/shop/eu", "type": "order.made", "subject": "customer 7", "datacontenttype": "application/json",
     "data": {"total": 40, "items": ["a", "b"]}},
    {"id": "2", "source": "https://example.com/shop?a=b#c", "type": "order.paid", "time": "2018-04-05T17:31:00.123Z",
     "datacontenttype": "application/json", "dataschema": "https://example.com/schema", "data": {"paid": True}},
    {"id": "3", "source": "urn:example:shop", "type": "order.made", "myextension": 'a "quoted" 100% value', "partitionkey": "customer-7",
     "datacontenttype": "application/json", "data": {"list": [1, None, {"deep": {}}]}},
    {"id": "4", "source": "/shop/eu", "type": "order.note", "datacontenttype": "text/plain", "data": "plain text, and more"},
]
BEYOND_ASCII = {"id": "5", "source": "/shop/eu", "type": "order.made", "subject": "Gr\u00f6\u00dfe \u20ac \U0001f600",
                "datacontenttype": "application/json", "data": {"name": "Zo\u00eb"}}


def cloudevents_of_pypi(world):
    interpreter = python("cloudevents==2.2.0", JSONSCHEMA)
    return cloudevents(world, [interpreter, os.path.join(FILES, "sender.py")], [*EVENTS, BEYOND_ASCII])


def cloudevents_of_npm(world):
    modules = os.path.join(node("cloudevents@10.0.0"), "node_modules")
    words, environment = [command("node", "nodejs"), os.path.join(FILES, "sender.cjs")], os.environ | {"NODE_PATH": modules}
    said = cloudevents(world, words, EVENTS, env=environment)
    # Its own reader checks by the JSON Schema of the specification.
    read = json.dumps(world.cloud_events())
    run([*words, "read"], input=read, env=environment)
    return f"{said}; the SDK validates what is read"


def cloudevents_of_go(world):
    return cloudevents(world, [go(os.path.join(FILES, "sender.go"), "github.com/cloudevents/sdk-go/v2@v2.16.2")], EVENTS)


def cloudevents_of_java(world):
    return cloudevents(world, ["java", "-cp", maven("cloudevents"), "Main"], EVENTS)


def cloudevents(world, words, events, **options):
    """An SDK sends each event in structured and in binary mode; the second time it is known."""
    path = os.path.join(world.directory, "events.json")
    with open(path, "w") as file:
        # Without spaces, as SDKs write JSON: what they are given as text some send as it is in one mode only.
        json.dump([{"specversion": "1.0"} | event for event in events], file, separators=(",", ":"))
    run([*words, f"{world.url}/tables/{world.table}", path], **options)
    found = world.cloud_events()
    for event in found:
        event.pop("zombipartition"), event.pop("zombioffset")
    valid(found, world.directory)
    by_id = {event["id"]: event for event in found}
    check(len(found) == len(by_id) == len(events), f"{len(events)} events, each once: {found}")
    for event in events:
        # An SDK may add a time of its own, and write one in its own way.
        kept = {name: value for name, value in by_id[event["id"]].items() if name in event}
        check(at(kept) == at(event), f"as it was sent: {kept}\n  {event}")
    return f"{len(events)} events in two modes, each stored once and whole"


def at(event):
    """An event whose time has whole milliseconds and `Z`."""
    time_of = event.get("time")
    return event | ({"time": re.sub(r"(\.\d{3})\d*", r"\1", time_of.replace("+00:00", "Z"))} if time_of else {})


def valid(events, directory):
    """By the rules of the specification's JSON Schema."""
    path = os.path.join(directory, "read.json")
    with open(path, "w") as file:
        json.dump(events, file)
    schema = os.path.join(FILES, "cloudevents.schema.json")
    text = "import json, jsonschema, sys; schema, events = (json.load(open(path)) for path in sys.argv[1:]); " \
           "[jsonschema.validate(event, schema) for event in events]"
    run([python(JSONSCHEMA), "-c", text, schema, path])


def alertmanager(world):
    port, program = free_port(), command("prometheus-alertmanager")
    token = os.path.join(world.directory, "token")
    with open(token, "w") as file:
        file.write("none")
    config = put(world.directory, "alertmanager.yml", recipe("webhooks.md", "yaml"), ("group_wait: 30s", "group_wait: 1s"),
                 world.in_place_of("alerts", "zombi.zombi.svc.cluster.local:8080"),
                 ("/var/run/secrets/zombi/token", token))
    words = [program, f"--config.file={config}", f"--storage.path={world.directory}", f"--web.listen-address=127.0.0.1:{port}",
             "--cluster.listen-address="]
    with running(words, world.directory, port):
        alerts = [{"labels": {"alertname": "Down", "instance": str(number)}} for number in range(3)]
        status, _, body = world.ask("POST", "/api/v2/alerts", alerts, port=port)
        check(status == 200, f"Alertmanager takes alerts: {status} {body}")
        world.until("a notification is stored", world.records)
    notices = [record["payload"] for record in world.records()]
    found = {alert["labels"]["instance"] for notice in notices for alert in notice["alerts"]}
    check(found == {"0", "1", "2"}, f"all alerts are in notifications: {notices}")
    return f"{len(notices)} notifications with all alerts"


def syslog_ng(world):
    program, port, count = command("syslog-ng", "syslog-ng-core and syslog-ng-mod-http"), free_port(), 2000
    config = put(world.directory, "syslog-ng.conf", recipe("syslog-ng.md", "text"), ("0.0.0.0", "127.0.0.1"), ("port(514)", f"port({port})"),
                 world.in_place_of("syslog"), ("/var/lib/syslog-ng", world.directory))
    files = {"-f": config, "-R": "persist", "-c": "ctl", "-p": "pid"}
    words = [program, "-F", *(word for flag, name in files.items() for word in (flag, os.path.join(world.directory, name)))]
    with running(words, world.directory, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"".join(b"<13>Nov 27 04:00:00 host shop[7]: line %d\n" % number for number in range(count)))
        world.until("all lines are stored", lambda: len(world.records()) >= count)
    found = sorted(int(record["payload"]["MESSAGE"].split()[1]) for record in world.records())
    check(found == list(range(count)), f"each line is stored once: {len(found)}")
    return f"{count:,} lines, each stored once"


def export(resources=1):
    """An export of OTLP in JSON."""
    log = {"timeUnixNano": "1700000000000000000", "severityNumber": 9, "body": {"stringValue": "a log"}}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [log]}]}] * resources}


def span():
    """An export of OTLP in JSON that has a span."""
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "a span", "kind": 1,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000000001",
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def collector(world):
    program, port, refused = otelcol(), free_port(), f"{world.table}-refused"
    config = fill("collector.yaml", world.directory, port=port, url=f"{world.url}/tables/{refused}")
    with running([program, "--config", config], world.directory, port):
        for resources in (1, 2):
            status, _, body = world.ask("POST", "/v1/logs", export(resources), port=port)
            check(status == 400 and b"responded with HTTP Status Code 400" in body, f"the Collector says who refuses: {status} {body}")
    check(world.records(refused) == [], "nothing of what was refused is stored")
    with collecting(world) as port:
        for what, exported in (("traces", span()), ("logs", export())):
            status, _, body = world.ask("POST", f"/v1/{what}", exported, port=port)
            check(status == 200, f"the Collector takes {what}: {status} {body}")
            world.until(f"{what} are stored", lambda: world.records(f"{world.table}-{what}"))
    kept = [record["payload"] for record in world.records(f"{world.table}-traces")]
    check([one["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] for one in kept] == ["a span"], f"the export is one event: {kept}")
    return "protobuf is refused, JSON to /raw is kept"


def otelcol():
    modules = [f"go.opentelemetry.io/collector/{name}" for name in (
        "otelcol@v0.165.0", "receiver/otlpreceiver@v0.165.0", "processor/batchprocessor@v0.165.0", "exporter/otlphttpexporter@v0.165.0",
        "confmap/provider/envprovider@v1.71.0", "confmap/provider/fileprovider@v1.71.0",
    )]
    contrib = "github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage@v0.165.0"
    return go(os.path.join(FILES, "collector.go"), *modules, contrib)


@contextlib.contextmanager
def collecting(world):
    """A Collector by the recipe of its page, which sends to tables whose names end in what they hold; its port."""
    program, port = otelcol(), free_port()
    config = put(world.directory, "recipe.yaml", recipe("opentelemetry.md", "yaml"), ("0.0.0.0:4318", f"127.0.0.1:{port}"),
                 world.in_place_of("otel"), ("/var/lib/otelcol", world.directory))
    with running([program, "--config", config], world.directory, port, env=os.environ | {"ZOMBI_TOKEN": "none"}):
        yield port


def rotel(world):
    interpreter, port = python("rotel==0.0.1a15"), free_port()
    # Its package for Python only starts this program, and does so wrongly when it is given an address for logs.
    [program] = glob.glob(os.path.join(os.path.dirname(interpreter), "..", "lib", "*", "site-packages", "rotel", "rotel-agent"))
    more = ["--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}", "--batch-timeout", "200ms"]
    words = ["start", "--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", world.url,
             "--otlp-exporter-logs-endpoint", f"{world.url}/tables/{world.table}"]

    def said():
        with open(os.path.join(world.directory, "rotel-agent.log"), errors="replace") as log:
            return log.read()

    with running([program, *words, *more], world.directory, port):
        status, _, body = world.ask("POST", "/v1/logs", export(), port=port)
        check(status == 200, f"rotel takes an export: {status} {body}")
        world.until("rotel logs why Zombi refuses it", lambda: "docs/clients/opentelemetry.md" in said())
    check(world.records() == [], f"nothing is stored: {world.records()}")
    with collecting(world) as between:
        words = shlex.split(adapted("rotel.md", recipe("rotel.md", "sh"), ("http://otelcol:4318", f"http://127.0.0.1:{between}")))
        with running([program, *words[1:], *more], world.directory, port):
            status, _, body = world.ask("POST", "/v1/logs", export(), port=port)
            check(status == 200, f"rotel takes an export: {status} {body}")
            world.until("it is stored", lambda: world.records(f"{world.table}-logs"))
    return "is refused by name, and through a Collector kept"


def benthos(world):
    """The page's recipe, but that another input makes messages that look like Kafka's."""
    program = go(os.path.join(FILES, "benthos.go"), "github.com/redpanda-data/benthos/v4/public/service@v4.60.0")
    count, poison = 2500, 1700
    text = recipe("redpanda-connect.md", "yaml")
    with open(os.path.join(FILES, "benthos.yaml")) as file:
        text = file.read() + text[text.index("pipeline:"):]
    config = put(world.directory, "benthos.yaml", text, ("@COUNT@", count), ("@POISON@", poison),
                 world.in_place_of("orders"))
    world.ask("PUT", f"/tables/{world.table}/config", {"partitions": 4})
    for _ in range(2):
        run([program, "run", config], cwd=world.directory, timeout=300, env=os.environ | {"ZOMBI_TOKEN": "none"})
    by_key = {}
    for record in world.records():
        by_key.setdefault(record.get("key"), []).append(json.loads(record["payload"])["number"])
    found = sorted(number for numbers in by_key.values() for number in numbers)
    check(found == [number for number in range(1, count + 1) if number != poison], f"each message but the bad one is stored once: {len(found)}")
    check(len(by_key) == 8 and all(numbers == sorted(numbers) for numbers in by_key.values()), f"in order by key: {by_key.keys()}")
    return f"{count} messages sent twice, each stored once and in order, but the one that Zombi refuses"


def debezium(world):
    classes, count = maven("debezium"), 200
    with postgres() as (port, home):
        sql(home, port, "CREATE TABLE orders (id int PRIMARY KEY, total int)")
        settings = put(world.directory, "application.properties", recipe("debezium.md", "properties"),
                       world.in_place_of("changes"),
                       ("hostname=postgres", "hostname=127.0.0.1"), ("port=5432", f"port={port}"), ("data/", f"{world.directory}/"))
        words = [command("java", "default-jdk-headless"), "-cp", classes, "Main", settings]
        for part in (0, 1):
            with running(words, world.directory):
                slot = "SELECT count(*) FROM pg_replication_slots WHERE active"
                world.until("Debezium follows", lambda: sql(home, port, slot) == "1")
                rows = f"generate_series({part * count + 1}, {(part + 1) * count})"
                sql(home, port, f"INSERT INTO orders SELECT number, number FROM {rows} AS number")
                world.until("all changes are stored", lambda: len(world.records()) >= (part + 1) * count)
    events = world.cloud_events()
    for event in events:
        event.pop("zombipartition"), event.pop("zombioffset")
    valid(events, world.directory)
    found = [event["data"] for event in events]
    check(sorted(change["after"]["id"] for change in found) == list(range(1, 2 * count + 1)), f"each change is stored once: {len(found)}")
    check({(change["op"], change["source"]["table"]) for change in found} == {("c", "orders")}, f"with what it is about: {found[0]}")
    return f"{2 * count} changes over a restart, each stored once"


@contextlib.contextmanager
def postgres():
    """A PostgreSQL of its own, which never runs as root."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise Skip("there is no PostgreSQL server here (Debian's package: postgresql)")
    as_nobody = [command("runuser"), "-u", "nobody", "--"] if os.geteuid() == 0 else []
    home, port = tempfile.mkdtemp(prefix="zombi-postgres-"), free_port()
    if as_nobody:
        shutil.chown(home, "nobody")
    binaries, data = os.path.dirname(found[-1]), os.path.join(home, "data")
    try:
        run([*as_nobody, found[-1], "-D", data, "-U", "postgres", "-A", "trust"], cwd="/")
        words = [os.path.join(binaries, "postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", home, "-c", "wal_level=logical"]
        with running([*as_nobody, *words], home, port):
            until = time.monotonic() + 60
            ask = [command("psql", "postgresql-client"), *address(home, port), "-c", "SELECT 1"]
            while subprocess.run(ask, capture_output=True).returncode:
                check(time.monotonic() < until, "PostgreSQL answers")
                time.sleep(0.2)
            yield port, home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def address(home, port):
    return ["-h", home, "-p", str(port), "-U", "postgres", "-d", "postgres", "-qtA"]


def sql(home, port, text):
    return run([command("psql"), *address(home, port), "-c", text]).strip()
