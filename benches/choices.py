"""What each choice of the archive's files costs and saves; see choices.sh.

1. What headrig itself writes: at the seal and compacted, with several zstd levels.
2. One choice at a time. headrig has no switches for these, so PyArrow writes the rows of the compacted file again as headrig does
   (`as headrig`), and then with one thing changed.
3. Bytes a row, against the raw lines, ClickHouse (through chDB) and DuckDB.
"""

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import chdb
import duckdb
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

FLOATS = ["latency_ms"]


def size(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*.parquet") if "_headrig" not in str(path))


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu(command, **environment):
    """CPU seconds of a command."""
    before = children()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return children() - before


def write_archive(arguments, name):
    """Some eight seals, so that there is something to compact."""
    with open(arguments.input, "rb") as lines:
        rows = max(1_000, sum(1 for _ in lines) // 8)
    folder = arguments.work / name
    pipeline = arguments.work / f"{name}.yaml"
    pipeline.write_text(
        f"pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{arguments.input}\"] }} }}\n"
        f"decode: {{ envelope: fly, schema: access }}\n"
        f"archive: {{ url: \"{folder}\", compact: {{ enabled: false }}, flush: {{ rows: {rows} }} }}\n"
        f"server: {{ listen: 127.0.0.1:0 }}\nlimits: {{ threads: 1 }}\n"
    )
    command = ["taskset", "-c", "0", arguments.headrig, "run", "--once", "--data-dir", str(arguments.work / "data"), str(pipeline)]
    return folder, cpu(command)


def queries(glob):
    low, high = duckdb.sql(f"select epoch_us(min(ts)), epoch_us(max(ts)) from read_parquet('{glob}')").fetchall()[0]
    at = lambda part: duckdb.sql(f"select strftime(make_timestamp({low + int((high - low) * part)}), '%Y-%m-%d %H:%M:%S')").fetchall()[0][0]
    one = duckdb.sql(f"select request_id from read_parquet('{glob}') where request_id is not null order by ts limit 1 offset 9000").fetchall()[0][0]
    span = f"ts >= '{at(0.48)}' and ts < '{at(0.52)}'"
    return {
        "one id": f"select ts, path, status from logs where request_id = '{one}'",
        "a path, 4 % of the time": f"select count(*), quantile(latency_ms, 0.95) from logs where path = '/v1/me' and {span}",
        "errors by minute": "select date_trunc('minute', ts) as m, count(*) from logs where status >= 500 group by m order by m",
        "all by path": "select path, count(*), quantile(latency_ms, 0.95) from logs group by path order by path",
    }


def ask_duckdb(glob, sql, rounds):
    session = duckdb.connect()
    session.sql("set timezone = 'UTC'; set threads = 2")
    session.sql("create macro quantile(x, q) as quantile_cont(x, q)")
    session.sql(f"create view logs as from read_parquet('{glob}', hive_partitioning = true)")
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        session.sql(sql).to_arrow_table()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def ask_headrig(arguments, folder, sql):
    times = []
    for _ in range(arguments.rounds):
        done = subprocess.run(
            [arguments.headrig, "query", str(folder), sql, "--format", "csv", "--stats", "--output", "/dev/null", "--threads", "2"],
            capture_output=True, text=True,
        )
        found = re.search(r"rows in ([0-9.]+) s", done.stderr)
        if not found:
            sys.exit(done.stderr)
        times.append(float(found[1]))
    return min(times)


class Table:
    def __init__(self, arguments, title, columns):
        self.arguments = arguments
        self.names = None
        print(f"\n### {title}\n")
        self.columns = columns

    def row(self, name, folder, *figures):
        glob = f"{folder}/data/**/*.parquet"
        asked = queries(glob)
        if self.names is None:
            self.names = list(asked)
            head = ["", "MB", *self.columns, *[f"{query} (DuckDB / headrig, ms)" for query in self.names]]
            print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
        times = [
            f"{ask_duckdb(glob, sql, self.arguments.rounds) * 1e3:.1f} / {ask_headrig(self.arguments, folder, sql) * 1e3:.1f}"
            for sql in asked.values()
        ]
        print("| " + " | ".join([name, f"{size(folder) / 1e6:.2f}", *figures, *times]) + " |", flush=True)


def written_by_headrig(arguments):
    table = Table(arguments, f"Written by headrig: {arguments.input.name}", ["CPU s"])
    base, seconds = write_archive(arguments, "sealed")
    table.row("sealed", base, f"{seconds:.2f}")
    compacted = None
    for level in (1, 3, 6, 9, 12, 19):
        folder = arguments.work / f"compact-{level}"
        subprocess.run(["cp", "-r", str(base), str(folder)], check=True)
        command = [arguments.headrig, "compact", str(folder), "--after", "0s", "--grace", "0s", "--level", str(level), "--memory", "512MB"]
        seconds = cpu([*command, "--data-dir", str(arguments.work / "data")])
        table.row(f"compacted, zstd {level}", folder, f"{seconds:.2f}")
        compacted = folder if level == 9 else compacted
    return base, compacted


def as_headrig():
    """What PyArrow is told to write as headrig does: the encodings are those that headrig's own file has."""
    pages = dict(data_page_size=1 << 20, max_rows_per_page=20_000, write_page_index=True)
    return dict(row_group_size=131_072, compression="zstd", compression_level=1, version="2.6", store_schema=False) | pages


def one_by_one(arguments, compacted, sealed):
    files = sorted(path for path in (compacted / "data").rglob("*.parquet"))
    rows = pa.concat_tables([pq.ParquetFile(path).read() for path in files])
    came = pa.concat_tables([pq.ParquetFile(path).read() for path in sorted((sealed / "data").rglob("*.parquet"))])
    chunks = pq.ParquetFile(files[0]).metadata.row_group(0)
    dictionary, encodings = [], {}
    for index, field in enumerate(rows.schema):
        column = chunks.column(index)
        if "RLE_DICTIONARY" in column.encodings:
            dictionary.append(field.name)
        else:
            found = [encoding for encoding in column.encodings if encoding.startswith("DELTA")]
            encodings[field.name] = found[0] if found else "PLAIN"
    common = as_headrig() | dict(use_dictionary=dictionary, column_encoding=encodings)
    texts = [name for name, encoding in encodings.items() if encoding == "DELTA_LENGTH_BYTE_ARRAY"]
    numbers = [name for name, encoding in encodings.items() if encoding == "DELTA_BINARY_PACKED"]
    floats = [name for name in FLOATS if name in encodings]
    shuffled = came.take(pa.array(random.Random(1).sample(range(came.num_rows), came.num_rows)))
    dated = rows.append_column("day", pa.compute.strftime(rows["ts"], "%Y-%m-%d"))
    variants = {
        "**as headrig**": (rows, {}),
        "in the order of arrival": (came, {}),
        "in no order": (shuffled, {}),
        "zstd 3": (rows, dict(compression_level=3)),
        "zstd 9": (rows, dict(compression_level=9)),
        "snappy": (rows, dict(compression="snappy", compression_level=None)),
        "row groups of 16,384": (rows, dict(row_group_size=16_384)),
        "row groups of 524,288": (rows, dict(row_group_size=524_288)),
        "no page index": (rows, dict(write_page_index=False)),
        "no dictionaries": (rows, dict(use_dictionary=False, column_encoding=encodings | dict.fromkeys(dictionary, "PLAIN"))),
        "all through dictionaries": (rows, dict(use_dictionary=True, column_encoding=None)),
        "texts plain": (rows, dict(column_encoding=encodings | dict.fromkeys(texts, "PLAIN"))),
        "numbers and times plain": (rows, dict(column_encoding=encodings | dict.fromkeys(numbers, "PLAIN"))),
        "floats byte stream split": (rows, dict(column_encoding=encodings | dict.fromkeys(floats, "BYTE_STREAM_SPLIT"))),
        "the day in the file, too": (dated, dict(use_dictionary=[*dictionary, "day"])),
    }
    table = Table(arguments, f"One choice at a time: {arguments.input.name}", ["s to write"])
    for number, (name, (data, changed)) in enumerate(variants.items()):
        folder = arguments.work / f"choice-{number}" / "data" / "date=2026-01-01"
        folder.mkdir(parents=True)
        options = {key: value for key, value in (common | changed).items() if value is not None}
        start = time.perf_counter()
        pq.write_table(data, folder / "0.parquet", **options)
        table.row(name, folder.parent.parent, f"{time.perf_counter() - start:.2f}")


def bytes_a_row(arguments, sealed, compacted):
    count = duckdb.sql(f"select count(*) from read_parquet('{compacted}/data/**/*.parquet')").fetchall()[0][0]
    glob = f"{compacted}/data/**/*.parquet"
    ours = size(compacted / "data")
    raw = arguments.input.stat().st_size
    packed = arguments.work / "raw.zst"
    subprocess.run(["zstd", "-q", "-19", "-T0", str(arguments.input), "-o", str(packed)], check=True)
    found = {"raw lines": raw, "raw lines, zstd -19": packed.stat().st_size}
    for name, options in {
        "DuckDB, zstd": "compression zstd",
        "DuckDB, zstd, version 2": "compression zstd, parquet_version v2",
        "DuckDB, zstd 1, version 2": "compression zstd, compression_level 1, parquet_version v2",
        "DuckDB, zstd 19, version 2": "compression zstd, compression_level 19, parquet_version v2",
        "DuckDB, as it is set (snappy)": "compression snappy",
    }.items():
        path = arguments.work / "duckdb.parquet"
        duckdb.sql(f"copy (from read_parquet('{glob}', hive_partitioning = false)) to '{path}' (format parquet, {options})")
        found[name] = path.stat().st_size
    for name, method in {"ClickHouse, zstd": "zstd", "ClickHouse, as it is set": None}.items():
        path = arguments.work / f"clickhouse-{method}.parquet"
        settings = f" settings output_format_parquet_compression_method = '{method}'" if method else ""
        chdb.query(f"select * from file('{glob}', Parquet) into outfile '{path}' format Parquet{settings}")
        found[name] = path.stat().st_size
    blooms = duckdb.sql(f"select sum(bloom_filter_length) from parquet_metadata('{glob}')").fetchall()[0][0] or 0
    found["headrig, sealed"] = size(sealed / "data")
    found["headrig, compacted, less its bloom filters"] = ours - blooms
    found["**headrig, compacted**"] = ours
    print(f"\n### Bytes a row: {arguments.input.name}, {count:,} rows\n\n| | bytes a row | times headrig's |\n| --- | --- | --- |")
    for name, total in found.items():
        print(f"| {name} | {total / count:.1f} | {total / ours:.2f} |")
    # What DuckDB writes when it is told nothing but zstd; it has no bloom filters of ids.
    theirs = found["DuckDB, zstd"]
    if not ours < theirs:
        sys.exit(f"headrig's files have {ours} bytes, DuckDB's {theirs}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--headrig", required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    sealed, compacted = written_by_headrig(arguments)
    bytes_a_row(arguments, sealed, compacted)
    one_by_one(arguments, compacted, sealed)


main()
