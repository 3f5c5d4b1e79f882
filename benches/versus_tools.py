"""One tool, one task, one process: what benches/versus.py measures headrig against.

    versus_tools.py TOOL TASK INPUT OUTPUT THREADS

TOOL is duckdb, chdb or polars; TASK is archive or aggregate; OUTPUT is the Parquet file to write. The last line on standard
output is a JSON object: `wall` and `cpu` seconds of the task, without the start of Python and the import of the tool.

Each tool does what somebody who knows it well would let it do. Where the tools could be given less to do than headrig
does, they are: each column is looked for under its first key only (headrig tries up to four), and what has no column is left
out (headrig keeps it in `attributes`). Lines whose message is no JSON keep it as text, in the column `message`.
"""

import json
import os
import resource
import sys
import time

TEXTS = """timestamp level region message event logger service version environment request_id trace_id span_id user_id
organization_id api_key_hash_prefix client_ip tier method path q event_type tool model exception""".split()
INTS = "status tokens db_bytes wal_bytes".split()
FLOATS = "latency_ms cost data_used_pct memory_mb".split()
COLUMNS = TEXTS + INTS + FLOATS
# Columns that the envelope has a value for, too, and the time, are written out in each tool's own words.
OWN = [name for name in COLUMNS if name not in ("timestamp", "level", "region", "message")]
WINDOW = ["timestamp", "path", "status", "latency_ms"]


def duckdb_tool(task, source, target, threads):
    import duckdb

    def run():
        database = duckdb.connect()
        database.execute(f"set threads={threads}")
        database.execute("set preserve_insertion_order=false")
        database.execute("set timezone='UTC'")
        database.execute(sql)

    def inner(names):
        # One pass into a typed struct: 1.1 to 1.3 times as fast as casting strings afterwards, 4 times as fast as a list
        # of paths. A value of another type becomes null. json_transform fails on what is no JSON, and try() around it
        # works row by row: 10 times as slow.
        kinds = {name: "BIGINT" if name in INTS else "DOUBLE" if name in FLOATS else "VARCHAR" for name in names}
        return f"json_transform(case when json_valid(message) then message else '{{}}' end, '{json.dumps(kinds)}')"

    lines = f"read_json('{source}', format='newline_delimited', auto_detect=false, columns={{"
    if task == "archive":
        lines += """event: 'STRUCT(provider VARCHAR)', host: 'VARCHAR', log: 'STRUCT("level" VARCHAR)', message: 'VARCHAR',
            timestamp: 'TIMESTAMPTZ', fly: 'STRUCT(app STRUCT(instance VARCHAR, "name" VARCHAR), region VARCHAR)'})"""
        # A second json_valid would cost: a message without time and event is text.
        sql = f"""select coalesce(try_cast(r.timestamp as timestamptz), timestamp) as ts,
            case when r.timestamp is null then 'envelope' else 'record' end as ts_source, now() as ingest_ts,
            fly.app."name" as app, fly.app.instance as instance, coalesce(r.region, fly.region) as region, host,
            event.provider as provider, coalesce(r."level", log."level") as "level",
            coalesce(r.message, case when r.timestamp is null and r.event is null then message end) as message,
            {', '.join(f'r."{name}" as "{name}"' for name in OWN)}
            from (select *, {inner(COLUMNS)} as r from {lines})"""
    else:
        lines += "message: 'VARCHAR', timestamp: 'TIMESTAMPTZ'})"
        sql = f"""select r.path as path, date_trunc('minute', coalesce(try_cast(r.timestamp as timestamptz), timestamp)) as minute,
            count(*) as requests, count(*) filter (where r.status >= 500) as errors,
            approx_quantile(r.latency_ms, 0.95) as p95_ms
            from (select timestamp, {inner(WINDOW)} as r from {lines}) where r.status is not null group by all"""
    sql = f"copy ({sql}) to '{target}' (format parquet, compression zstd, compression_level 1)"
    return run


def chdb_tool(task, source, target, threads):
    from chdb import session

    opened = session.Session()

    def inner(names):
        kinds = {name: "Int64" if name in INTS else "Float64" if name in FLOATS else "String" for name in names}
        members = ", ".join(f"{name} Nullable({kind})" for name, kind in kinds.items())
        return f"JSONExtract(message, 'Tuple({members})')"

    time_of = "coalesce(parseDateTime64BestEffortOrNull(r.timestamp, 6, 'UTC'), timestamp)"
    if task == "archive":
        # Non-nullable outside: a quarter less time, and a missing value is an empty text there.
        structure = """event Tuple(provider String), fly Tuple(app Tuple(instance String, name String), region String),
            host String, log Tuple(level String), message String, timestamp DateTime64(6, \\'UTC\\')"""
        select = f"""select {time_of} as ts, if(r.timestamp is null, 'envelope', 'record') as ts_source, now64(6) as ingest_ts,
            fly.app.name as app, fly.app.instance as instance, coalesce(r.region, fly.region) as region, host as host,
            event.provider as provider, coalesce(r.level, log.level) as level,
            coalesce(r.message, if(r.timestamp is null and r.event is null, lines.message, null)) as text,
            {', '.join(f'r.{name} as {name}' for name in OWN)}"""
        source_sql = f"select *, {inner(COLUMNS)} as r from file('{source}', JSONEachRow, '{structure}')"
        sql = f"select * except (text), text as message from ({select} from ({source_sql}) as lines)"
    else:
        structure = "message String, timestamp DateTime64(6, \\'UTC\\')"
        sql = f"""select r.path as path, toStartOfMinute({time_of}) as minute, count() as requests,
            countIf(r.status >= 500) as errors, quantileTDigest(0.95)(r.latency_ms) as p95_ms
            from (select timestamp, {inner(WINDOW)} as r from file('{source}', JSONEachRow, '{structure}'))
            where r.status is not null group by path, minute"""
    settings = f"""max_threads={threads}, max_parsing_threads={threads}, date_time_input_format='best_effort',
        output_format_parquet_compression_method='zstd', output_format_compression_level=1, session_timezone='UTC'"""
    return lambda: opened.query(f"{sql} into outfile '{target}' truncate format Parquet settings {settings}")


def polars_tool(task, source, target, threads):
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    import polars as pl

    def inner(names):
        # There is no way to let one line fail: json_decode is given only what looks like an object, and every value as text,
        # for a number's place may hold something else. (json_path_match per column parses once per column.)
        message = pl.col("message")
        looks = message.str.starts_with("{") & message.str.ends_with("}")
        return pl.when(looks).then(message).str.json_decode(pl.Struct({name: pl.String for name in names})).alias("r")

    def field(name):
        kind = pl.Int64 if name in INTS else pl.Float64 if name in FLOATS else None
        value = pl.col("r").struct.field(name)
        return (value.cast(kind, strict=False) if kind else value).alias(name)

    def moment(value):
        return value.str.to_datetime(time_unit="us", time_zone="UTC", strict=False, format="%+")

    own_time, time_of = field("timestamp"), moment(pl.coalesce(field("timestamp"), pl.col("timestamp")))
    if task == "archive":
        app = pl.Struct({"instance": pl.String, "name": pl.String})
        schema = {"event": pl.Struct({"provider": pl.String}), "fly": pl.Struct({"app": app, "region": pl.String}),
                  "host": pl.String, "log": pl.Struct({"level": pl.String}), "message": pl.String, "timestamp": pl.String}
        fly = pl.col("fly").struct
        no_record = own_time.is_null() & field("event").is_null()
        rows = pl.scan_ndjson(source, schema=schema).with_columns(inner(COLUMNS)).select(
            time_of.alias("ts"),
            pl.when(own_time.is_null()).then(pl.lit("envelope")).otherwise(pl.lit("record")).alias("ts_source"),
            pl.lit(int(time.time() * 1e6)).cast(pl.Datetime("us", "UTC")).alias("ingest_ts"),
            fly.field("app").struct.field("name").alias("app"),
            fly.field("app").struct.field("instance").alias("instance"),
            pl.coalesce(field("region"), fly.field("region")).alias("region"),
            "host",
            pl.col("event").struct.field("provider").alias("provider"),
            pl.coalesce(field("level"), pl.col("log").struct.field("level")).alias("level"),
            pl.coalesce(field("message"), pl.when(no_record).then(pl.col("message"))).alias("message"),
            *[field(name) for name in OWN],
        )
    else:
        rows = pl.scan_ndjson(source, schema={"message": pl.String, "timestamp": pl.String}).with_columns(inner(WINDOW))
        rows = rows.select(field("path"), time_of.dt.truncate("1m").alias("minute"), field("status"), field("latency_ms"))
        rows = rows.filter(pl.col("status").is_not_null()).group_by("path", "minute").agg(
            pl.len().alias("requests"),
            (pl.col("status") >= 500).sum().alias("errors"),
            pl.col("latency_ms").quantile(0.95).alias("p95_ms"),
        )
    return lambda: rows.sink_parquet(target, compression="zstd", compression_level=1, engine="streaming")


def main():
    tool, task, source, target, threads = sys.argv[1:]
    run = {"duckdb": duckdb_tool, "chdb": chdb_tool, "polars": polars_tool}[tool](task, source, target, int(threads))
    wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
    # What the tools tear down at the end of a process is not the task.
    os._exit(0)


if __name__ == "__main__":
    main()
