"""A hex column is bytes that `lower(hex(…))` reads back, and bloom filters find; what is no hex is in `attributes`."""

import sys

import duckdb

archive = sys.argv[1]
files = f"read_parquet('{archive}/data/**/*.parquet')"
types = duckdb.sql(f"select distinct typeof(trace_id), typeof(span_id) from {files}").fetchall()
rows = duckdb.sql(
    f"select lower(hex(trace_id)), lower(hex(span_id)), attributes->>'trace_id', attributes->>'kept' "
    f"from {files} order by n").fetchall()
print(types, rows)
expected = [
    ("00112233445566778899aabbccddeeff", "0123456789abcdef", None, "yes"),
    (None, None, "00112233445566778899AABBCCDDEEFF", None),
    (None, "ffffffffffffffff", "not hex", "too"),
    (None, None, None, None),
]
if types != [("BLOB", "BLOB")] or rows != expected:
    sys.exit(f"expected {expected}")
found = duckdb.sql(f"select n from {files} where trace_id = unhex('00112233445566778899aabbccddeeff')").fetchall()
if found != [(0,)]:
    sys.exit(f"expected row 0, found {found}")
