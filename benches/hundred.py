"""The questions of docs/query.md, asked of one archive by headrig and by DuckDB; see hundred.sh.

headrig's time is that of a whole process. DuckDB's is that of a new session, which makes the views that the question needs (and so lists the
bucket and reads footers, as headrig does) and asks; and of a session that has asked the same once before, and so has views, footers and what
it keeps of files' blocks in memory.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import duckdb

TABLES = ["logs", "dead", "windows", "alerts"]
MEMORY = "8GB"


def settings():
    secret = (
        "create secret (type s3, key_id '{AWS_ACCESS_KEY_ID}', secret '{AWS_SECRET_ACCESS_KEY}', region '{AWS_REGION}', "
        "url_style path, use_ssl false, endpoint '{endpoint}')"
    )
    return secret.format(**os.environ, endpoint=os.environ["AWS_ENDPOINT"].split("://")[1])


def views(archive):
    """What docs/query.md says to DuckDB first."""
    text = Path("docs/query.md").read_text()
    setup = re.search(r"```text\n(set timezone.*?)```", text, re.S)[1].replace("fly-archive", archive)
    return [statement.strip() for statement in setup.split(";") if statement.strip()]


def session(archive, question, work):
    con = duckdb.connect(config={"threads": 2, "memory_limit": MEMORY, "temp_directory": str(work / "spill")})
    if archive.startswith("s3://"):
        from duckdb_extensions import import_extension

        import_extension("httpfs", con=con)
        con.execute(settings())
    for statement in views(archive):
        view = re.match(r"create view (\w+)", statement)
        if not view or re.search(rf"\b{view[1]}\b", question):
            con.execute(statement)
    return con


def questions():
    text = Path("docs/query.md").read_text().split("## The questions that are asked first")[1]
    found = re.findall(r"^\d+\. (.*?)[:.]?\n+```sql\n(.*?)```", text, re.S | re.M)
    return [(re.sub(r"\s+", " ", re.sub(r" \(.*|, from what.*|, and the rest.*", "", title, flags=re.S)).strip(), sql.strip().rstrip(";")) for title, sql in found]


def as_texts(con, table, what):
    """Types may differ in what no user sees (HUGEINT and BIGINT); rows of equal rank may come in any order."""
    return con.execute(f"select {what} from (select cast(columns(*) as varchar) from {table}) t").fetchall()


def difference(theirs, answer):
    """What two answers differ in; nothing where they don't."""
    con = duckdb.connect()
    con.execute("set timezone = 'UTC'")
    con.register("theirs", theirs)
    con.execute(f"create view mine as from read_parquet('{answer}')")
    found, expected = (as_texts(con, table, "count(*), sum(hash(t)::hugeint)")[0] for table in ("mine", "theirs"))
    if found == expected:
        return None
    found_rows, expected_rows = (sorted(as_texts(con, table, "*"), key=str) for table in ("mine", "theirs"))
    pairs = [pair for pair in zip(found_rows, expected_rows) if not all(map(is_same, *pair))][:2]
    return f"{found[0]} rows, DuckDB has {expected[0]}; {pairs}" if pairs or found[0] != expected[0] else None


def is_same(mine, theirs):
    """Between two values in the middle of a last digit each engine rounds its own sum."""
    try:
        return mine == theirs or abs(float(mine) - float(theirs)) < 0.0015
    except (TypeError, ValueError):
        return False


def ask_headrig(arguments, sql, output):
    command = [arguments.headrig, "query", arguments.archive, sql, "--format", "parquet", "--output", str(output)]
    start = time.perf_counter()
    done = subprocess.run([*command, "--stats", "--threads", "2", "--memory", MEMORY], capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode != 0:
        return took, done.stderr.strip().splitlines()[0], False
    read = re.search(r"read: (.*?) in", done.stderr)
    return took, read[1] if read else "", True


def ask_duckdb(arguments, sql):
    start = time.perf_counter()
    con = session(arguments.archive, sql, arguments.work)
    answer = con.execute(sql).to_arrow_table()
    first = time.perf_counter() - start
    start = time.perf_counter()
    con.execute(sql).to_arrow_table()
    return answer, first, time.perf_counter() - start


def ours(con, sql):
    """The ids in the docs are those of the real input: here they are some that this archive has."""
    if "450f08648e65e4cf" in sql:
        one = con.execute("select request_id from logs where date = '2026-05-03' and request_id is not null order by ts limit 1 offset 20000")
        sql = sql.replace("450f08648e65e4cf", one.fetchone()[0])
    if "0d7ba900" in sql:
        key = con.execute("select min(api_key_hash_prefix) from logs where date = '2026-05-03'").fetchone()[0]
        sql = sql.replace("0d7ba900", key)
    return sql


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--headrig", required=True)
    parser.add_argument("--archive", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=int, nargs="*")
    arguments = parser.parse_args()
    con = session(arguments.archive, "logs", arguments.work)
    rows, low, high = con.execute("select count(*), min(ts), max(ts) from logs").fetchone()
    files, stored = con.execute(
        f"select count(*), sum(bytes) from (select file_name, any_value(file_size_bytes) as bytes from parquet_file_metadata('{arguments.archive}/data/**/*.parquet') group by 1)"
    ).fetchone()
    print(f"\n{rows:,} rows from {low:%Y-%m-%d} to {high:%Y-%m-%d} in {files} files, {stored / 1e9:.2f} GB, {stored / rows:.1f} bytes a row; ", end="")
    print(f"DuckDB {duckdb.__version__}, best of {arguments.rounds}, seconds\n")
    print("| | rows | headrig | DuckDB, new session | its second time | headrig / DuckDB, new | headrig read |\n|" + " --- |" * 7, flush=True)
    differ, slower, sums = [], [], [0.0, 0.0, 0.0]
    for number, (title, sql) in enumerate(questions(), 1):
        if arguments.only and number not in arguments.only:
            continue
        sql = ours(con, sql)
        answer = arguments.work / f"{number}.parquet"
        mine, new, again, read, right = [], [], [], "", True
        for _ in range(arguments.rounds):
            took, read, right = ask_headrig(arguments, sql, answer)
            mine.append(took)
            if not right:
                break
            try:
                theirs, first, second = ask_duckdb(arguments, sql)
            except duckdb.IOException as error:
                # A table that has no row has no file.
                if "No files found" not in str(error):
                    raise
                read, right = f"DuckDB: {str(error).splitlines()[0]}", False
                break
            new.append(first)
            again.append(second)
        if not right:
            differ.append(f"{number}: {read}")
            print(f"| {number}. {title} | | {read} |", flush=True)
            continue
        wrong = difference(theirs, answer)
        if wrong:
            differ.append(f"{number}: {wrong}")
        best = [min(mine), min(new), min(again)]
        sums = [total + part for total, part in zip(sums, best)]
        if best[0] > best[1]:
            slower.append(number)
        times = " | ".join(f"{part:.2f}" for part in best)
        print(f"| {number}. {title} | {theirs.num_rows:,} | {times} | {best[0] / best[1]:.2f} | {read} |", flush=True)
    print(f"| **all** | | {' | '.join(f'{part:.2f}' for part in sums)} | {sums[0] / sums[1]:.2f} | |")
    print(f"\nslower than a new session of DuckDB: {slower or 'none'}")
    if differ:
        sys.exit("answers differ:\n" + "\n".join(differ))
    print("all answers are equal")


main()
