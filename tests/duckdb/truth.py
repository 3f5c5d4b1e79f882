"""Compares an archive of the real input with its truth, as an analyst with DuckDB would."""

import json
import sys

import duckdb

archive, truth_file, times = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1
truth = json.load(open(truth_file))
db = duckdb.connect()
db.execute("set timezone = 'UTC'")
db.execute(f"create view logs as select * from read_parquet('{archive}/data/**/*.parquet', hive_partitioning = true)")
db.execute(f"create view dead as select * from read_parquet('{archive}/dead/**/*.parquet', hive_partitioning = true)")
db.execute(f"create view windows as select * from read_parquet('{archive}/windows/name=path_1m/**/*.parquet', hive_partitioning = true)")
db.execute(f"create view all_windows as select * from read_parquet('{archive}/windows/name=all_1m/**/*.parquet', hive_partitioning = true)")
failures = 0


def one(sql):
    return db.execute(sql).fetchone()


def same(what, found, expected, tolerance=0):
    global failures
    ok = found is not None and abs(found - expected) <= tolerance if isinstance(expected, (int, float)) else found == expected
    shown = "" if isinstance(expected, dict) else f": {found}"
    print(f"{'ok  ' if ok else 'FAIL'} {what}{shown}" + ("" if ok else f", expected {expected}, found {found}"))
    failures += not ok


same("rows", one("select count(*) from logs")[0], truth["rows"] * times)
same("dead letters", one("select count(*) from dead")[0], truth["dead"] * times)
same("rows and dead letters", one("select (select count(*) from logs) + (select count(*) from dead)")[0], truth["lines"] * times)
same("sum of status", one("select sum(status) from logs")[0], truth["status_sum"] * times)
same("sum of latency", one("select sum(latency_ms) from logs")[0], truth["latency_sum"] * times, 1e-3 * times)
same("rows with latency", one("select count(latency_ms) from logs")[0], truth["latency_n"] * times)
for column, key in (("path", "by_path"), ("status", "by_status"), ("event", "events")):
    condition = "status is not null" if key != "events" else "event is not null"
    rows = db.execute(f"select {column}::varchar, count(*) from logs where {condition} group by 1").fetchall()
    same(f"counts by {column}", dict(rows), {k: v * times for k, v in truth[key].items()})
clashes = "(attributes->>'$.status') = 'teapot' and (attributes->>'$.latency_ms') = 'slow' and status is null and latency_ms is null"
same("type clashes kept in attributes", one(f"select count(*) from logs where {clashes}")[0], truth["type_clash"] * times)
same("text rows", one("select count(*) from logs where message is not null and event is null")[0], (truth["text_rows"] + truth["cut_inner"]) * times)
future = "event = 'clock_gone' and ts_source = 'envelope' and (attributes->>'$.timestamp') like '2099%' and date = '2026-05-06'"
same("future stamps replaced by the envelope's and kept", one(f"select count(*) from logs where {future}")[0], truth["future"] * times)
same("rows without a time of their own", one("select count(*) from logs where event = 'no_time' and ts_source = 'envelope'")[0], truth["events"]["no_time"] * times)
same("partitions", one("select list(distinct date::varchar) from logs")[0], ["2026-05-06"])
same("duplicates", one("select count(*) - count(distinct request_id) from logs where request_id is not null")[0], truth["latency_n"] * (times - 1))

if times == 1:
    found = {(p, m): (r, e, q) for p, m, r, e, q in db.execute(
        "select path, epoch(window_start)::bigint, requests, errors, p95_ms from windows").fetchall()}
    expected = {(w["path"], w["minute"]): w for w in truth["minutes"]}
    same("windows", len(found), len(expected))
    same("windows of the same path and minute", set(found) == set(expected), True)
    wrong = [k for k, w in expected.items() if found[k][:2] != (w["requests"], w["errors"])]
    same("windows with other requests or errors", len(wrong), 0)
    worst = max(abs(found[k][2] - w["p95_ms"]) / w["p95_ms"] for k, w in expected.items())
    print(f"     largest error of p95: {worst:.3%}")
    same("windows whose p95 is off by more than 1 %", sum(abs(found[k][2] - w["p95_ms"]) > 0.01 * w["p95_ms"] for k, w in expected.items()), 0)
    same("late records in the windows of paths", one("select sum(late) from windows")[0], 0)
    same("late records in the windows of everything", one("select sum(late) from all_windows")[0], truth["late"])
    same("records in the windows of everything", one("select sum(records) + sum(late) from all_windows")[0], truth["rows"])

print(f"{failures} differences")
sys.exit(1 if failures else 0)
