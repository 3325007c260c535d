"""Programs that read: over HTTP by a bare address, and segments from the bucket, by the recipes of their pages."""

import json
import os
import subprocess

from demo import check

from had import FILES, adapted, command, python, recipe

EVENTS = 20_000


def duckdb(world):
    # The last one whose extension for HTTP and S3 can be had from a registry.
    interpreter = python("duckdb==1.4.4", "duckdb-ext-httpfs==1.4.4.20260205")
    found = "import duckdb_ext, glob; print(*glob.glob(next(iter(duckdb_ext.__path__)) + '/**/httpfs.duckdb_extension', recursive=True))"
    extension = subprocess.run([interpreter, "-c", found], capture_output=True, text=True, check=True).stdout.strip()
    bucket = f"SET s3_endpoint = '{world.s3.endpoint.split('//')[1]}'; SET s3_url_style = 'path'; SET s3_use_ssl = false; " \
             "SET s3_access_key_id = 'zombi'; SET s3_secret_access_key = 'zombi-secret'"
    return read(world, interpreter, "duckdb", [
        adapted("the recipe", recipe("duckdb.md", "sql"), ("INSTALL httpfs", f"INSTALL '{extension}'"), world.in_place_of("orders")),
        adapted("the recipe for S3", recipe("duckdb.md", "sql", 1), ("SET s3_region = 'eu-central-1'", bucket),
                ("s3://events/segments/orders/", f"s3://demo/segments/{world.table}/")),
    ])


def chdb(world):
    return read(world, python("chdb==4.4.0"), "chdb", [
        adapted("the recipe", recipe("clickhouse.md", "sql"), world.in_place_of("orders")),
        adapted("the recipe for S3", recipe("clickhouse.md", "sql", 2), ("'JSONEachRow'", "'zombi', 'zombi-secret', 'JSONEachRow'"),
                ("https://events.s3.eu-central-1.amazonaws.com/segments/orders/", f"{world.s3.endpoint}/demo/segments/{world.table}/")),
    ])


def pyspark(world):
    command("java", "default-jdk-headless")
    # The S3 server of the tests keeps its buckets as directories.
    return read(world, python("pyspark==4.3.0", "setuptools"), "pyspark", [
        adapted("the recipe", recipe("spark.md", "python"), ("s3a://", f"{world.s3.directory}/"), world.in_place_of("orders")),
        adapted("the recipe for HTTP", recipe("spark.md", "python", 1), world.in_place_of("orders")),
    ])


def read(world, interpreter, what, recipes):
    """Number and sum of the events, and those of one key, by HTTP and from the segments."""
    world.write(EVENTS)
    # Payloads of every kind in one table.
    for body in [{"payload": "text"}, {"payload": None}, {"payload": [1, "two"]}, {"payload_base64": "/wA="}]:
        status, _, said = world.ask("POST", f"/tables/{world.table}", body)
        check(status == 201, f"{body} is written: {status} {said}")
    status, _, said = world.ask("POST", "/flush")
    check(status == 200, f"flushed: {status} {said}")
    words = [interpreter, os.path.join(FILES, "reader.py"), what]
    done = subprocess.run(words, input=json.dumps(recipes), capture_output=True, text=True, cwd=world.directory, timeout=600)
    check(done.returncode == 0, f"{what} reads:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    expected = [EVENTS + 4, sum(range(EVENTS)), sum(1 for number in range(EVENTS) if number % 97 == 7)]
    check(found == [expected] * len(recipes), f"{what} finds {expected} by each recipe: {found}")
    return f"{EVENTS + 4:,} events over HTTP and from the segments, by the recipes of its page"
