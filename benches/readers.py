"""What each reader counts in an archive; see readers.sh. One row a reader: rows of `data`, of dead letters and of a window, and of `data`
the different ids, the sum of statuses, the sum of latencies in whole ms, rows with attributes, and the least and the largest time in µs.
"""

import os
import subprocess
import sys
from pathlib import Path

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyspark

ROOTS = ["data", "dead", "windows/name=route_5m"]
COLUMNS = ["request_id", "status", "latency_ms", "attributes", "ts"]
work = Path(sys.argv[1])
archive = work / "archive"


def sql(micros):
    return (
        "select count(*), count(distinct request_id), sum(status), round(sum(latency_ms)), count(attributes), "
        f"{micros.format('min(ts)')}, {micros.format('max(ts)')} from logs"
    )


def of_arrow(table):
    ts = table["ts"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    latency = pc.sum(table["latency_ms"]).as_py()
    attributes = table["attributes"].length() - table["attributes"].null_count
    return [
        table.num_rows, pc.count_distinct(table["request_id"]).as_py(), pc.sum(table["status"]).as_py(), round(latency),
        attributes, pc.min(ts).as_py(), pc.max(ts).as_py(),
    ]


def headrig():
    def ask(query):
        done = subprocess.run([os.environ["HEADRIG"], "query", str(archive), query, "--format", "csv"], capture_output=True, text=True, check=True)
        return [float(part) for part in done.stdout.splitlines()[1].split(",")]

    # Since 1970, to the second and then below it: times are texts in CSV.
    found = ask(sql("extract(epoch from {}) * 1000000"))
    dead = ask("select count(*) from dead")
    return found + dead + ask("select count(*) from windows where name = 'route_5m'")


def duckdb_files():
    read = lambda root: f"read_parquet('{archive}/{root}/**/*.parquet', hive_partitioning = true, union_by_name = true)"
    con = duckdb.connect()
    con.execute(f"create view logs as from {read('data')}")
    found = list(con.execute(sql("epoch_us({})")).fetchone())
    return found + [con.execute(f"select count(*) from {read(root)}").fetchone()[0] for root in ROOTS[1:]]


def duckdb_delta():
    from duckdb_extensions import import_extension

    con = duckdb.connect()
    import_extension("delta", con=con)
    con.execute(f"create view logs as from delta_scan('file://{archive}/data')")
    found = list(con.execute(sql("epoch_us({})")).fetchone())
    return found + [con.execute(f"select count(*) from delta_scan('file://{archive}/{root}')").fetchone()[0] for root in ROOTS[1:]]


def polars(scan):
    frame = scan("data").select(COLUMNS)
    ts = pl.col("ts").dt.epoch("us")
    found = frame.select(
        pl.len().alias("n"), pl.col("request_id").drop_nulls().n_unique(), pl.col("status").sum(), pl.col("latency_ms").sum().round(),
        pl.col("attributes").count(), ts.min().alias("min"), ts.max().alias("max"),
    ).collect().row(0)
    return list(found) + [scan(root).select(pl.len()).collect().item() for root in ROOTS[1:]]


def pyarrow_files():
    read = lambda root: ds.dataset(archive / root, format="parquet", partitioning="hive", exclude_invalid_files=False, ignore_prefixes=["_", "."])
    return of_arrow(read("data").to_table(columns=COLUMNS)) + [read(root).count_rows() for root in ROOTS[1:]]


def delta_rs():
    read = lambda root: deltalake.DeltaTable(str(archive / root))
    return of_arrow(read("data").to_pyarrow_table(columns=COLUMNS)) + [read(root).to_pyarrow_table().num_rows for root in ROOTS[1:]]


def spark_session():
    from pyspark.sql import SparkSession

    jars = ",".join(str(jar) for jar in Path(os.environ["JARS"]).glob("*.jar"))
    builder = (
        SparkSession.builder.master("local[2]").appName("readers")
        .config("spark.jars", jars)
        .config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false").config("spark.sql.shuffle.partitions", "2").config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    )
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def spark(session, form):
    read = lambda root: session.read.format(form).load(str(archive / root))
    read("data").createOrReplaceTempView("logs")
    found = list(session.sql(sql("unix_micros({})")).first())
    return found + [read(root).count() for root in ROOTS[1:]]


def main():
    session = spark_session()
    readers = {
        "headrig query": headrig,
        f"DuckDB {duckdb.__version__}, read_parquet": duckdb_files,
        f"DuckDB {duckdb.__version__}, delta_scan": duckdb_delta,
        f"Polars {pl.__version__}, scan_parquet": lambda: polars(lambda root: pl.scan_parquet(f"{archive}/{root}/**/*.parquet", hive_partitioning=True)),
        f"Polars {pl.__version__}, scan_delta": lambda: polars(lambda root: pl.scan_delta(str(archive / root))),
        f"PyArrow {pa.__version__}, dataset": pyarrow_files,
        f"delta-rs {deltalake.__version__}": delta_rs,
        f"Spark {session.version}, parquet": lambda: spark(session, "parquet"),
        f"Spark {session.version}, delta": lambda: spark(session, "delta"),
    }
    files = len(list((archive / "data").rglob("*.parquet")))
    print(f"\n{sys.argv[2]}: {files} files in data\n\n| | rows | ids | sum of status | sum of ms | with attributes | first, µs | last, µs | dead | route_5m |\n|" + " --- |" * 10)
    found = {}
    for name, reader in readers.items():
        found[name] = [int(value) for value in reader()]
        print(f"| {name} | " + " | ".join(str(value) for value in found[name]) + " |", flush=True)
    session.stop()
    different = {tuple(values) for values in found.values()}
    if len(different) != 1:
        sys.exit("readers differ")


main()
