"""JSON Lines have the rows of Parquet: the same input in two archives. Types are those that DuckDB finds by itself."""

import sys

import duckdb

lines, parquet = sys.argv[1:3]
duckdb.sql("set timezone = 'UTC'")
glob = f"'{lines}/data/**/*.jsonl*'"
# DuckDB 2 needs no word about times, 1.4 does.
times = "timestampformat = '%Y-%m-%dT%H:%M:%S.%fZ'"
found = duckdb.sql(f"describe select * from read_json({glob}, hive_partitioning = true, union_by_name = true, {times})").fetchall()
types = {row[0]: row[1] for row in found}
print(types)
for column, kind in {"ts": "TIMESTAMP", "date": "DATE", "status": "BIGINT", "latency_ms": "DOUBLE", "path": "VARCHAR"}.items():
    if types.get(column) != kind:
        sys.exit(f"{column} is {types.get(column)}, expected {kind}")
if not types["attributes"].startswith(("STRUCT", "MAP", "JSON")):
    sys.exit(f"attributes are {types['attributes']}, expected an object")

columns = "ts, ts_source, app, instance, region, level, event, message, path, method, status, latency_ms, request_id"
kinds = "TIMESTAMPTZ VARCHAR VARCHAR VARCHAR VARCHAR VARCHAR VARCHAR VARCHAR VARCHAR VARCHAR BIGINT DOUBLE VARCHAR".split()
given = ", ".join(f"{name}: '{kind}'" for name, kind in zip(columns.split(", "), kinds, strict=True))
one = f"select {columns}, json(attributes) as attributes from read_json({glob}, columns = {{{given}, attributes: 'JSON'}})"
other = f"select {columns}, json(attributes) as attributes from read_parquet('{parquet}/data/**/*.parquet')"
counts = [duckdb.sql(f"select count(*) from ({table})").fetchone()[0] for table in (one, other)]
print(counts)
if counts[0] != counts[1] or counts[0] == 0:
    sys.exit(f"{counts[0]} lines, {counts[1]} rows")
for left, right in ((one, other), (other, one)):
    more = duckdb.sql(f"select * from ({left}) except all select * from ({right}) limit 3").fetchall()
    if more:
        sys.exit(f"only in {'lines' if left is one else 'parquet'}: {more}")
