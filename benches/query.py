"""headrig query against DuckDB on the same files with the same two threads: medians of N rounds, one after the other.

    headrig generate --events 2000000 --rate 10 --incident --start 2026-05-01T00:00:00Z | headrig run --once PIPELINE
    python benches/query.py ARCHIVE target/release/headrig 5

headrig's time is that of a whole query in a new process (seals, footers, planning), without loading the program; DuckDB's
is that of a query in a session that has its views, and so the files' footers, already. Needs duckdb and pyarrow.
"""
import duckdb, subprocess, sys, time, statistics, re
arch, binary, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
con = duckdb.connect()
con.sql("set timezone='UTC'; set threads=2")
con.sql("create macro p50(x) as quantile_cont(x,0.5)"); con.sql("create macro p95(x) as quantile_cont(x,0.95)"); con.sql("create macro p99(x) as quantile_cont(x,0.99)")
con.sql("create macro per(s,t) as time_bucket(s::interval,t)")
con.sql(f"create view logs as from read_parquet('{arch}/data/**/*.parquet', hive_partitioning=true, union_by_name=true)")
con.sql(f"create view windows as from read_parquet('{arch}/windows/**/*.parquet', hive_partitioning=true, union_by_name=true)")
rid = con.sql("select request_id from logs where request_id is not null order by ts limit 1 offset 900000").fetchall()[0][0]
Q = {
 "count": "select count(*) from logs",
 "one request_id": f"select ts, path, status, latency_ms from logs where request_id = '{rid}'",
 "one path, one hour": "select count(*) n, p95(latency_ms) p from logs where path = '/v1/me' and ts >= '2026-05-02 05:00:00' and ts < '2026-05-02 06:00:00'",
 "5xx of an hour": "select ts, path, status, request_id from logs where ts >= '2026-05-02 05:00:00' and ts < '2026-05-02 06:00:00' and status >= 500 order by ts",
 "empty q": "select count(*) from logs where path = '/v1/programs/search' and coalesce(q, '') = ''",
 "db trouble (like x3)": "select count(*) from logs where concat_ws(' ', event, message, exception) like '%OperationalError%' or concat_ws(' ', event, message, exception) like '%database is locked%'",
 "429 by tier": "select tier, count(*) n from logs where status = 429 group by tier order by n desc",
 "last 50 of a key": "select ts, method, path, status, latency_ms from logs where api_key_hash_prefix = '0d7ba900' order by ts desc limit 50",
 "slow > 1 s": "select ts, path, latency_ms from logs where latency_ms > 1000 order by latency_ms desc limit 100",
 "admin": "select path, tier, count(*) n from logs where path like '/v1/admin/%' group by path, tier order by n desc",
 "failures by 5m": "select per('5m', ts) t, path, count(*) n from logs where status >= 500 group by 1, 2 order by 1, 2",
 "newest errors": "select ts, path, status from logs where level = 'error' order by ts desc limit 100",
 "top users": "select api_key_hash_prefix, count(*) n from logs where api_key_hash_prefix is not null group by 1 order by n desc limit 20",
 "tokens by model (json)": "select attributes ->> '$.extra.model' m, count(*) n, sum((attributes ->> '$.extra.tokens')::bigint) t from logs where attributes is not null group by 1 order by 1",
 "top q": "with top as (select q from logs where q is not null group by q order by count(*) desc, q limit 20) select coalesce(top.q,'_other_') w, count(*) n from logs left join top on top.q = logs.q where logs.q is not null group by 1 order by n desc",
 "p50/95/99 by hour": "select date_trunc('hour', ts) h, path, p50(latency_ms) a, p95(latency_ms) b, p99(latency_ms) c from logs group by 1, 2 order by 1, 2",
 "by path": "select path, count(*) n, avg(latency_ms) a from logs group by path order by n desc",
 "before/after": "select ts < '2026-05-02 12:00:00' b, count(*) n, p95(latency_ms) p from logs where ts >= '2026-05-02' and ts < '2026-05-03' group by 1",
}
tot = [0, 0]
for name, q in Q.items():
    mine, theirs, share = [], [], ""
    for _ in range(n):
        r = subprocess.run([binary, "query", arch, q, "--format", "csv", "--stats", "--output", "/dev/null", "--threads", "2"], capture_output=True, text=True)
        m = re.search(r"rows in ([0-9.]+) s", r.stderr)
        if not m: print(name, r.stderr); break
        mine.append(float(m[1])); share = re.search(r"read: (.*)", r.stderr)[1]
        t = time.perf_counter(); con.sql(q).to_arrow_table(); theirs.append(time.perf_counter() - t)
    if mine:
        a, b = statistics.median(mine), statistics.median(theirs)
        tot[0] += a; tot[1] += b
        print(f"{name:24} headrig {a*1000:8.1f} ms  duckdb {b*1000:8.1f} ms  ratio {a/b:5.2f}  best {min(mine)/min(theirs):5.2f}  {share}")
print("sum", tot, tot[0]/tot[1])
