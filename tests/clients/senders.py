"""Programs that send: each event is stored once and whole, or refused by name."""

import contextlib
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

from demo import check

from had import FILES, Skip, command, fill, free_port, go, maven, node, put, python, recipe, run, running

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
    return cloudevents(world, [go(os.path.join(FILES, "sender.go"), "github.com/cloudevents/sdk-go/v2")], EVENTS)


def cloudevents_of_java(world):
    return cloudevents(world, ["java", "-cp", maven("cloudevents"), "Main"], EVENTS)


def cloudevents(world, words, events, **options):
    """An SDK sends each event in structured and in binary mode; the second time it is known."""
    path = os.path.join(world.directory, "events.json")
    with open(path, "w") as file:
        json.dump([{"specversion": "1.0"} | event for event in events], file)
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
    port = free_port()
    program = command("prometheus-alertmanager")
    config = fill("alertmanager.yml", world.directory, url=f"{world.url}/tables/{world.table}/raw")
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
    port, count = free_port(), 2000
    config = fill("syslog-ng.conf", world.directory, port=port, url=f"{world.url}/tables/{world.table}/raw")
    program = command("syslog-ng", "syslog-ng-core and syslog-ng-mod-http")
    files = {"-f": config, "-R": "persist", "-c": "ctl", "-p": "pid"}
    words = [program, "-F", *(word for flag, name in files.items() for word in (flag, os.path.join(world.directory, name)))]
    with running(words, world.directory, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"".join(b"line %d\n" % number for number in range(count)))
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
    modules = [f"go.opentelemetry.io/collector/{name}" for name in (
        "otelcol@v0.165.0", "receiver/otlpreceiver@v0.165.0", "processor/batchprocessor@v0.165.0", "exporter/otlphttpexporter@v0.165.0",
        "confmap/provider/envprovider@v1.71.0", "confmap/provider/fileprovider@v1.71.0",
    )]
    contrib = "github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage@v0.165.0"
    program = go(os.path.join(FILES, "collector.go"), *modules, contrib)
    port, refused = free_port(), f"{world.table}-refused"
    config = fill("collector.yaml", world.directory, port=port, url=f"{world.url}/tables/{refused}")
    with running([program, "--config", config], world.directory, port):
        for resources in (1, 2):
            status, _, body = world.ask("POST", "/v1/logs", export(resources), port=port)
            check(status >= 400, f"what Zombi refuses the Collector passes on: {status} {body}")
    with open(os.path.join(world.directory, "client.log"), errors="replace") as log:
        text = log.read()
        check("this is an export of OTLP" in text and "docs/clients/opentelemetry.md" in text, f"the Collector says why:\n{text[-2000:]}")
    check(world.records(refused) == [], "nothing of what was refused is stored")
    port = free_port()
    config = put(world.directory, "kept.yaml", recipe("opentelemetry.md", "yaml"), ("0.0.0.0:4318", f"127.0.0.1:{port}"),
                 ("http://zombi.zombi:8080/tables/otel", f"{world.url}/tables/{world.table}"), ("/var/lib/otelcol", world.directory))
    with running([program, "--config", config], world.directory, port, env=os.environ | {"ZOMBI_TOKEN": "none"}):
        for what, exported in (("traces", span()), ("logs", export())):
            status, _, body = world.ask("POST", f"/v1/{what}", exported, port=port)
            check(status == 200, f"the Collector takes {what}: {status} {body}")
            world.until(f"{what} are stored", lambda: world.records(f"{world.table}-{what}"))
    kept = [record["payload"] for record in world.records(f"{world.table}-traces")]
    check([one["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] for one in kept] == ["a span"], f"the export is one event: {kept}")
    return "protobuf is refused by name, JSON to /raw is kept"


def rotel(world):
    interpreter, port = python("rotel==0.0.1a15"), free_port()
    environment = os.environ | {
        "ROTEL_ENABLED": "true", "ROTEL_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{port}", "ROTEL_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{free_port()}",
        "ROTEL_OTLP_EXPORTER_PROTOCOL": "http", "ROTEL_OTLP_EXPORTER_ENDPOINT": world.url,
        "ROTEL_OTLP_EXPORTER_LOGS_ENDPOINT": f"{world.url}/tables/{world.table}", "ROTEL_OTLP_EXPORTER_BATCH_TIMEOUT": "200ms",
        "ROTEL_PID_FILE": f"{world.directory}/rotel.pid", "ROTEL_LOG_FILE": f"{world.directory}/rotel.log",
    }
    text = "import time; from rotel import Rotel; rotel = Rotel(enabled=True); rotel.start(); time.sleep(600)"
    with running([interpreter, "-c", text], world.directory, port, env=environment):
        before = refusals(world)
        status, _, body = world.ask("POST", "/v1/logs", export(), port=port)
        check(status == 200, f"rotel takes an export: {status} {body}")
        world.until("Zombi refuses it", lambda: refusals(world) > before)
    check(world.records() == [], f"nothing is stored: {world.records()}")
    with contextlib.suppress(OSError, ValueError):
        with open(f"{world.directory}/rotel.pid") as pid:
            os.kill(int(pid.read()), 15)
    return "is refused, and nothing is stored"


def refusals(world):
    """Writes that were answered 4xx so far."""
    _, _, body = world.ask("GET", "/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith("zombi_http_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'method="POST"' in line and 'status="4' in line)


def benthos(world):
    """The page's recipe, but that another input makes messages that look like Kafka's."""
    program = go(os.path.join(FILES, "benthos.go"), "github.com/redpanda-data/benthos/v4/public/service@v4.60.0")
    count, poison = 2500, 1700
    text = recipe("redpanda-connect.md", "yaml")
    with open(os.path.join(FILES, "benthos.yaml")) as file:
        text = file.read() + text[text.index("pipeline:"):]
    config = put(world.directory, "benthos.yaml", text, ("@COUNT@", count), ("@POISON@", poison),
                 ("http://zombi.zombi:8080/tables/orders", f"{world.url}/tables/{world.table}"))
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
                       ("http://zombi.zombi:8080/tables/changes", f"{world.url}/tables/{world.table}"),
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
