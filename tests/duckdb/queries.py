"""Each query of docs/query.md has the same answer in headrig, kept as Parquet, and in DuckDB.

    queries.py ARCHIVE ANSWERS      ANSWERS/1.parquet is the answer to the first, and so on
"""

import pathlib
import re
import sys

import duckdb

archive, answers = sys.argv[1:3]
text = pathlib.Path("docs/query.md").read_text()
setup = re.search(r"```text\n(set timezone.*?)```", text, re.S)[1]
queries = re.findall(r"```sql\n(.*?)```", text, re.S)
for statement in setup.replace("fly-archive", archive).split(";"):
    if statement.strip():
        duckdb.sql(statement)


def rows(query):
    """As texts, in order: types may differ in what no user sees (HUGEINT and BIGINT)."""
    return duckdb.sql(f"select cast(columns(*) as varchar) from ({query.strip().rstrip(';')})").fetchall()


wrong = []
for number, query in enumerate(queries, 1):
    expected = rows(query)
    found = rows(f"from read_parquet('{answers}/{number}.parquet')")
    print(number, len(found), "rows")
    if found != expected:
        differ = [pair for pair in zip(found, expected) if pair[0] != pair[1]][:3]
        wrong.append(f"{number}: {len(found)} rows, DuckDB has {len(expected)}; {differ}")
empty = [number for number in range(1, len(queries) + 1) if not rows(f"from read_parquet('{answers}/{number}.parquet')")]
print("without rows:", empty)
if wrong or len(queries) < 20 or len(empty) > 2:
    sys.exit("\n".join(wrong) or f"{len(queries)} queries, without rows: {empty}")
