"""Polls an archive with a plain glob until a file appears: no row is ever seen twice, and none that was seen is missing later."""

import os
import sys

import duckdb

archive, stop = sys.argv[1:3]
query = f"select count(*), count(distinct request_id) from read_parquet('{archive}/data/**/*.parquet', union_by_name=true)"
polls, again, seen = 0, 0, 0
while not os.path.exists(stop):
    try:
        # A query that failed would leave its connection in an aborted transaction.
        with duckdb.connect() as connection:
            rows, different = connection.execute(query).fetchone()
    except duckdb.IOException as error:
        # Listed, and replaced before it was opened: an error, never a wrong answer.
        text = str(error)
        if "No such file" not in text and "No files found" not in text and "Cannot open file" not in text:
            raise
        again += 1
        continue
    polls += 1
    if rows != different:
        sys.exit(f"{rows} rows, {different} different ones, at poll {polls}")
    if rows < seen:
        sys.exit(f"{rows} rows, {seen} were seen before, at poll {polls}")
    seen = rows
print(f"polls {polls} again {again} rows {seen}")
