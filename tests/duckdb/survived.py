"""Windows and alerts of two archives are the same, and the receiver of the first was told each alert event."""

import json
import sys

import duckdb

archive, truth, told = sys.argv[1:4]
for kind in ("windows", "alerts"):
    tables = [f"read_parquet('{root}/{kind}/**/*.parquet', hive_partitioning=true, union_by_name=true)" for root in (archive, truth)]
    counts = [duckdb.sql(f"select count(*) from {table}").fetchone()[0] for table in tables]
    print(kind, counts)
    if counts[0] != counts[1] or counts[0] == 0:
        sys.exit(f"{kind}: {counts[0]} rows, {counts[1]} without kills")
    for one, other in ((0, 1), (1, 0)):
        more = duckdb.sql(f"select * from {tables[one]} except all select * from {tables[other]} limit 3").fetchall()
        if more:
            sys.exit(f"{kind}: only {'with' if one == 0 else 'without'} kills: {more}")
    if kind == "windows" and duckdb.sql(f"select count(*) from {tables[0]} where provisional").fetchone()[0]:
        sys.exit("windows are provisional")

ids = [json.loads(line)["id"] for line in open(told)]
expected = {row[0] for row in duckdb.sql(f"select id from read_parquet('{truth}/alerts/**/*.parquet')").fetchall()}
print("told", len(ids), "events", len(expected))
if set(ids) != expected:
    sys.exit(f"the receiver was told {len(set(ids))} alert events, there are {len(expected)}")
"""What was told twice was killed between the delivery and the seal that notes it."""
if len(ids) - len(expected) > int(sys.argv[4]):
    sys.exit(f"{len(ids) - len(expected)} alert events were told twice, with {sys.argv[4]} kills")
