"""Counts what `delta.py count` counts, by plain globs."""

import sys

import duckdb

archive = sys.argv[1]


def ask(columns, folder):
    glob = f"{archive}/{folder}/**/*.parquet"
    return duckdb.execute(f"select {columns} from read_parquet('{glob}', hive_partitioning=true, union_by_name=true)").fetchone()


rows, different = ask("count(*), count(distinct request_id)", "data")
print(f"rows {rows} different {different} dead {ask('count(*)', 'dead')[0]} windows {ask('count(*)', 'windows')[0]}")
