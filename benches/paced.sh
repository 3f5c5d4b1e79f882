#!/usr/bin/env bash
# Resident memory of `headrig run pipelines/fly.yaml` (archive, windows, alerts, metrics) that follows a file which grows by
# RATE lines a second: one line each minute, in MB, with what of it is heap and the program's own file.
#
#   benches/paced.sh [RATE] [MINUTES]        default 1000 10
#
# The program is copied and read anew, so that it doesn't matter how its pages came into the page cache.
set -euo pipefail
cd "$(dirname "$0")/.."
rate=${1:-1000} minutes=${2:-10}
folder=$(mktemp -d -p "${TMPDIR:-/tmp}")
daemon=
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cp "${HEADRIG:-target/release/headrig}" "$folder/headrig"
sync "$folder/headrig"
python3 -c 'import os, sys; os.posix_fadvise(os.open(sys.argv[1], os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)' "$folder/headrig"
"$folder/headrig" generate --events $((rate * 60 * minutes)) --rate "$rate" --output "$folder/lines" 2>/dev/null
: >"$folder/fly.ndjson"
FLY_LOG="$folder/fly.ndjson" FLY_FOLLOW=true ARCHIVE="$folder/archive" HEADRIG_LISTEN=127.0.0.1:0 \
    "$folder/headrig" run --data-dir "$folder/data" pipelines/fly.yaml >/dev/null 2>"$folder/log" &
daemon=$!
python3 - "$folder" "$rate" "$daemon" <<'PY'
import sys, time
folder, rate, daemon = sys.argv[1], int(sys.argv[2]), sys.argv[3]
start, written = time.monotonic(), 0
with open(f"{folder}/lines", "rb") as lines, open(f"{folder}/fly.ndjson", "ab", buffering=0) as log:
    while chunk := b"".join(lines.readline() for _ in range(max(1, rate // 10))):
        log.write(chunk)
        written += 1
        time.sleep(max(0, start + written / 10 - time.monotonic()))
        if written % 600 == 0:
            status = dict(line.split(":", 1) for line in open(f"/proc/{daemon}/status") if ":" in line)
            size = {name: int(status[name].split()[0]) / 1000 for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}
            print(f"{written // 600:4d} min  {size['VmRSS']:5.1f} MB resident: {size['RssAnon']:5.1f} heap,"
                  f" {size['RssFile']:5.1f} program; peak {size['VmHWM']:5.1f}", flush=True)
PY
