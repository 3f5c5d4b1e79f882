"""Polls an archive of JSON Lines that is being written, until stdin ends: counts never fall, and no request is there twice."""

import glob
import select
import sys

import duckdb

pattern = f"{sys.argv[1]}/data/**/*.jsonl*"
last = 0
while True:
    ended = bool(select.select([sys.stdin], [], [], 0.05)[0])
    if glob.glob(pattern, recursive=True):
        rows, twice = duckdb.sql(
            f"select count(*), count(request_id) - count(distinct request_id) from read_json('{pattern}', columns = {{request_id: 'VARCHAR'}})"
        ).fetchone()
        if rows < last or twice:
            sys.exit(f"{rows} rows behind {last}, {twice} twice")
        last = rows
        print(last, flush=True)
    if ended:
        break
