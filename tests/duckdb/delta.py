"""Reads an archive through its Delta logs.

  delta.py poll ARCHIVE STOP    until a file appears: no row is ever seen twice, none that was seen is missing later, no version twice
  delta.py count ARCHIVE        rows and different request_ids of `data`, rows of the tables of windows, and rows of dead letters
"""

import os
import sys

from deltalake import DeltaTable, QueryBuilder

SETTINGS = {
    key: os.environ[key]
    for key in ("AWS_ENDPOINT", "AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    if key in os.environ
}


def ask(table, columns):
    answer = QueryBuilder().register("t", table).execute(f"select {columns} from t").read_all()
    return [answer.column(number)[0].as_py() for number in range(len(answer.column_names))]


def open_table(archive, root):
    return DeltaTable(f"{archive}/{root}", storage_options=SETTINGS)


def poll(archive, stop):
    polls, again, seen, version = 0, 0, 0, -1
    while not os.path.exists(stop):
        try:
            table = open_table(archive, "data")
            rows, different = ask(table, "count(*), count(distinct request_id)")
        except Exception as error:
            # Listed, and replaced before it was opened: an error, never a wrong answer.
            text = str(error)
            if not any(known in text for known in ("No such file", "not found", "No files in log segment")):
                raise
            again += 1
            continue
        polls += 1
        if rows != different or rows < seen or table.version() < version:
            sys.exit(f"{rows} rows, {different} different ones, {seen} seen before, version {table.version()}, poll {polls}")
        seen, version = rows, table.version()
    print(f"polls {polls} again {again} rows {seen} version {version}")


def count(archive, windows):
    rows, different = ask(open_table(archive, "data"), "count(*), count(distinct request_id)")
    dead = ask(open_table(archive, "dead"), "count(*)")[0]
    of_windows = sum(ask(open_table(archive, root), "count(*)")[0] for root in windows)
    print(f"rows {rows} different {different} dead {dead} windows {of_windows}")


if sys.argv[1] == "poll":
    poll(*sys.argv[2:])
else:
    count(sys.argv[2], sys.argv[3:])
