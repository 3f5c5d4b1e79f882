"""Compares what the tools have written, so that nobody is fast by being wrong: versus_results.py TASK LINES FOLDER.

Prints what differs, a line each, and exits with 1 if anything does.
"""

import sys
from pathlib import Path

import duckdb

TOOLS = ["duckdb", "chdb", "polars"]
# p95 is estimated by three of them; with fewer requests the estimates are rough.
ENOUGH, TOLERANCE = 1000, 0.05


def main():
    task, lines, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    database = duckdb.connect()
    database.execute("set timezone='UTC'")
    compare = archives if task == "archive" else aggregates
    wrong = compare(database, lines, folder)
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


def archives(database, lines, folder):
    # An empty text is a missing one for chDB's envelopes.
    counted = ", ".join(f"count(nullif({name}, ''))" for name in
                        ["app", "region", "level", "event", "message", "logger", "request_id", "path", "q", "exception"])
    select = f"""select count(*), {counted}, count(distinct trace_id), count(status), sum(status), count(latency_ms),
        round(sum(latency_ms)), sum(db_bytes), count(distinct date_trunc('second', ts)), max(date_trunc('second', ts))::text"""
    of = lambda files: database.execute(f"{select} from read_parquet('{files}')").fetchone()
    own, wrong = of(folder / "headrig-archive/data/**/*.parquet"), []
    if own[0] != lines:
        wrong.append(f"headrig archived {own[0]} rows of {lines} lines")
    for tool in TOOLS:
        other = of(folder / f"{tool}-archive.parquet")
        if [str(value) for value in other] != [str(value) for value in own]:
            wrong.append(f"rows of headrig and {tool} differ: {own} and {other}")
    return wrong


def aggregates(database, lines, folder):
    own = f"""select path, window_start as minute, requests, errors, p95_ms
        from read_parquet('{folder / "headrig/windows/**/*.parquet"}')"""
    wrong = []
    groups = database.execute(f"select count(*), sum(requests) from ({own})").fetchone()
    if not groups[0] or not 0.5 * lines < groups[1] <= lines:
        wrong.append(f"headrig counted {groups[1]} requests in {groups[0]} groups of {lines} lines")
    for tool in TOOLS:
        sql = f"""select count(*) filter (where a.requests is distinct from b.requests or a.errors is distinct from b.errors),
            count(*) filter (where a.requests >= {ENOUGH} and not abs(a.p95_ms - b.p95_ms) <= {TOLERANCE} * b.p95_ms)
            from ({own}) a full join '{folder / f"{tool}-aggregate.parquet"}' b
            on a.path is not distinct from b.path and a.minute = b.minute"""
        counts, quantiles = database.execute(sql).fetchone()
        if counts or quantiles:
            wrong.append(f"of {groups[0]} groups, headrig's and {tool}'s differ in counts at {counts}, in p95 at {quantiles}")
    return wrong


if __name__ == "__main__":
    main()
