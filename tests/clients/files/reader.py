"""Counts the events of a table: all of them, the sum of their numbers, and those of one key.

    reader.py PROGRAM URL SEGMENT...
"""

import json
import sys
import urllib.request

PROGRAM, URL, SEGMENTS = sys.argv[1], sys.argv[2], sys.argv[3:]
SELECT = "SELECT count(*), sum({number}), count_if(key = 'key-7') FROM {source}"


def duckdb():
    import duckdb
    columns = "columns = {\"offset\": 'UBIGINT', key: 'VARCHAR', payload: 'JSON'}"

    def ask(source, more=""):
        table = f"read_json({source}, format = 'newline_delimited', {columns}{more})"
        number = "CASE WHEN json_type(payload) = 'OBJECT' THEN CAST(payload->>'number' AS BIGINT) END"
        return [int(value) for value in duckdb.sql(SELECT.format(number=number, source=table)).fetchall()[0]]

    # Without the extension it cannot ask by HTTP: then it reads what another has fetched.
    try:
        duckdb.sql("INSTALL httpfs; LOAD httpfs")
        http = ask(f"'{URL}'")
    except duckdb.Error as error:
        print(f"httpfs is not to be had: {error}", file=sys.stderr)
        http = ask(f"'{fetched()}'")
    return {"http": http, "segments": ask(json.dumps(SEGMENTS).replace('"', "'"), ", compression = 'zstd'")}


def chdb():
    import chdb

    def ask(source):
        number = "JSONExtractInt(payload, 'number')"
        settings = " SETTINGS input_format_skip_unknown_fields = 1, input_format_json_read_objects_as_strings = 1, " \
                   "input_format_json_read_arrays_as_strings = 1"
        text = SELECT.format(number=number, source=source).replace("count_if(", "countIf(") + settings
        return json.loads(str(chdb.query(text, "JSONCompactEachRow")).replace('"', ""))

    columns = "'offset UInt64, key Nullable(String), payload Nullable(String)'"
    files = "{" + ",".join(SEGMENTS) + "}" if len(SEGMENTS) > 1 else SEGMENTS[0]
    return {"http": ask(f"url('{URL}', 'JSONEachRow', {columns})"), "segments": ask(f"file('{files}', 'JSONEachRow', {columns}, 'zstd')")}


def pyspark():
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import count, expr
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    schema = "offset BIGINT, key STRING, payload STRING"

    def ask(frame):
        number = expr("cast(get_json_object(payload, '$.number') as bigint)")
        counted = frame.select(number.alias("number"), "key").agg(count("*"), expr("sum(number)"), expr("count_if(key = 'key-7')"))
        return [int(value) for value in counted.collect()[0]]

    try:
        segments = ask(spark.read.schema(schema).option("compression", "zstd").json(SEGMENTS))
    except Exception as error:  # Hadoop without its native library
        if "zStandard" not in str(error) and "native" not in str(error).lower():
            raise
        print(f"Spark cannot read zstd here: {error}", file=sys.stderr)
        segments = ask(spark.read.schema(schema).json(unpacked()))
    return {"http": ask(spark.read.schema(schema).json(fetched())), "segments": segments}


def unpacked():
    import subprocess
    for segment in SEGMENTS:
        with open("unpacked.jsonl", "ab") as file:
            subprocess.run(["zstd", "-dc", segment], stdout=file, check=True)
    return "unpacked.jsonl"


def fetched():
    with urllib.request.urlopen(URL) as answer, open("fetched.jsonl", "wb") as file:
        file.write(answer.read())
    return "fetched.jsonl"


print(json.dumps(globals()[PROGRAM]()))
