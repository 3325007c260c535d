"""Counts the events that recipes find: all of them, the sum of their numbers, and those of one key.

    reader.py PROGRAM    with the recipes as a JSON array on the standard input
"""

import json
import sys


def duckdb(text):
    """A recipe that makes a table, `orders`."""
    import duckdb
    duckdb.execute(text)
    number = "CASE WHEN json_type(payload) = 'OBJECT' THEN CAST(payload->>'number' AS BIGINT) END"
    return duckdb.sql(f"SELECT count(*), sum({number}), count_if(key = 'key-7') FROM orders").fetchall()[0]


def chdb(text):
    """A recipe that is a query."""
    import chdb
    counts = "count(*), sum(JSONExtractInt(ifNull(payload, ''), 'number')), countIf(key = 'key-7')"
    return json.loads(str(chdb.query(f"SELECT {counts} FROM ({text.strip().rstrip(';')})", "JSONCompactEachRow")))


def pyspark(text):
    """A recipe that makes a frame, `orders`."""
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import count, expr
    SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate().sparkContext.setLogLevel("ERROR")
    names = {}
    exec(text, names)
    number = expr("sum(cast(get_json_object(payload, '$.number') as bigint))")
    return names["orders"].agg(count("*"), number, expr("count_if(key = 'key-7')")).collect()[0]


print(json.dumps([[int(value) for value in globals()[sys.argv[1]](recipe)] for recipe in json.load(sys.stdin)]))
