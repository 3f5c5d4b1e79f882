"""Two archives hold the same rows, each as often: all columns but when headrig read them."""

import glob
import sys

import duckdb

archives, least = sys.argv[1:3], int(sys.argv[3])


def table(archive, kind):
    return f"read_parquet('{archive}/{kind}/**/*.parquet', hive_partitioning=true, union_by_name=true)"


def dead(archive):
    if not glob.glob(f"{archive}/dead/**/*.parquet", recursive=True):
        return 0
    return duckdb.sql(f"select count(*) from {table(archive, 'dead')}").fetchone()[0]


columns = [row[0] for row in duckdb.sql(f"describe select * from {table(archives[0], 'data')}").fetchall()]
same = ", ".join(f'"{column}"' for column in columns if column != "ingest_ts")
sides = [f"select {same} from {table(archive, 'data')}" for archive in archives]
rows = [duckdb.sql(f"select count(*) from ({side})").fetchone()[0] for side in sides]
letters = [dead(archive) for archive in archives]
print("rows", rows, "dead", letters)
for one, other in ((0, 1), (1, 0)):
    more = duckdb.sql(f"select * from ({sides[one]} except all {sides[other]}) limit 3").fetchall()
    if more:
        sys.exit(f"only in {archives[one]}: rows {rows} dead {letters} {more}")
if letters[0] != letters[1] or rows[0] + letters[0] != least:
    sys.exit(f"expected {least} records: rows {rows} dead {letters}")
