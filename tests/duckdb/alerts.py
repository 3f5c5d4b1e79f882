"""Checks the alert events of the real input against its two incidents: files of JSON lines, and the archive's table."""

import json
import sys
from datetime import datetime, timedelta

import duckdb

lines_file, archive, truth_file = sys.argv[1:4]
truth = json.load(open(truth_file))
events = [json.loads(line) for line in open(lines_file)]


def time(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def fail(why):
    print("FAIL", why)
    sys.exit(1)


for event in events:
    print(event["status"], event["labels"], event["values"], event["starts_at"], event["ends_at"])
for key, needle in (("incident_5xx", "Error"), ("incident_slow", "Slow")):
    start, end = map(time, truth[key])
    mine = [e for e in events if needle in e["labels"]["alertname"]]
    firing = [e for e in mine if e["status"] == "firing"]
    resolved = [e for e in mine if e["status"] == "resolved"]
    if not firing or len(firing) != len(resolved):
        fail(f"{key}: {len(firing)} firing, {len(resolved)} resolved")
    for event in firing:
        if not start <= time(event["starts_at"]) <= end:
            fail(f"{key}: fires at {event['starts_at']}, outside {truth[key]}")
    for event in resolved:
        if not end <= time(event["ends_at"]) <= end + timedelta(minutes=30):
            fail(f"{key}: resolved at {event['ends_at']}, the incident ended at {end}")
others = [e["labels"]["alertname"] for e in events if not any(n in e["labels"]["alertname"] for n in ("Error", "Slow"))]
if others:
    fail(f"others fired: {others}")
if len({e["id"] for e in events}) != len(events):
    fail("ids are not distinct")
stored = duckdb.sql(f"select id from read_parquet('{archive}/alerts/**/*.parquet')").fetchall()
if sorted(row[0] for row in stored) != sorted(e["id"] for e in events):
    fail(f"the archive holds {len(stored)} alert events, {len(events)} were written")
print("ok", len(events), "alert events")
