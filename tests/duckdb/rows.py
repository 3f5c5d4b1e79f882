"""Every line of the real input is in the archive exactly once."""

import json
import sys

import duckdb

archive, truth_file = sys.argv[1:3]
truth = json.load(open(truth_file))
rows, status, ids = duckdb.sql(
    f"select count(*), sum(status), count(distinct request_id) from read_parquet('{archive}/data/**/*.parquet')").fetchone()
dead = duckdb.sql(f"select count(*) from read_parquet('{archive}/dead/**/*.parquet')").fetchone()[0]
print(rows, dead, status, ids)
if (rows, dead, status, ids) != (truth["rows"], truth["dead"], truth["status_sum"], truth["latency_n"]):
    sys.exit(f"expected {truth['rows']} {truth['dead']} {truth['status_sum']} {truth['latency_n']}")
