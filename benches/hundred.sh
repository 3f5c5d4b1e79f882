#!/usr/bin/env bash
# A month of logs in MinIO, and the questions of docs/query.md asked of it by headrig and by DuckDB, side by side: the same files, the
# same two threads. The table of docs/performance.md.
#
#   benches/hundred.sh                            100,000,000 rows over 30 days; 40 minutes on two cores after the first build
#   benches/hundred.sh --rows 3000000             to see that it works
#   benches/hundred.sh --keep DIR                 keeps the bucket in DIR, and asks the one that is there already
#   HEADRIG=/path/to/headrig benches/hundred.sh   another binary than that of this tree
#
# Lines are generated (a pipe, nothing of them on disk), archived and compacted. Ends with 1 if answers differ. Needs what
# tests/servers/minio.sh needs (Go), python3 with venv, curl, and 9 GB of disk for 100,000,000 rows. DuckDB is the newest one whose
# httpfs is on PyPI, in target/hundred-python.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=100000000
rounds=2
keep=
while [ $# -gt 0 ]; do
  case "$1" in
    --rows) rows=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --keep) keep=$2; shift 2 ;;
    *) echo "what is $1?" >&2; exit 2 ;;
  esac
done
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/versus"
python="${HUNDRED_PYTHON:-$target/hundred-python/bin/python}"
if ! "$python" -c 'import duckdb, duckdb_extension_httpfs' 2>/dev/null; then
  [ -x "$python" ] || python3 -m venv --clear "$target/hundred-python"
  "$python" -m pip install -q --disable-pip-version-check duckdb==1.5.5 duckdb-extensions==1.5.5 duckdb-extension-httpfs==1.5.5 pyarrow pytz
fi
if [ -z "${HEADRIG:-}" ]; then
  cargo build --release --locked
  HEADRIG="$target/release/headrig"
fi
"$HEADRIG" --version
tests/servers/minio.sh fetch

work="${keep:-$(mktemp -d "$target/versus/hundred.XXXXXX")}"
mkdir -p "$work"
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  wait 2>/dev/null || true
  [ -n "$keep" ] || rm -rf "$work"
}
trap cleanup EXIT
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tests/servers/minio.sh "$port" "$work/minio" >"$work/minio.log" 2>&1 &
server=$!
export AWS_ENDPOINT="http://127.0.0.1:$port" AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=headrig AWS_SECRET_ACCESS_KEY=headrig-secret
for _ in $(seq 100); do
  curl -s -o /dev/null "$AWS_ENDPOINT/minio/health/live" && break
  sleep 0.1
done

if [ ! -e "$work/archived" ]; then
  curl -sf -X PUT --aws-sigv4 aws:amz:us-east-1:s3 --user headrig:headrig-secret "$AWS_ENDPOINT/logs" >/dev/null
  rate=$((rows / (30 * 86400)))
  [ "$rate" -gt 0 ] || rate=1
  cat > "$work/pipeline.yaml" <<YAML
pipeline: shop
sources: { in: { type: stdin } }
decode: { envelope: fly, schema: access }
windows:
  - name: route_5m
    kind: tumbling
    size: 5m
    lateness: 60s
    where: status is not null
    group_by: [path]
    aggregate: { requests: count(*), errors: count(*) filter (where status >= 500) }
    derive: { error_rate: errors / requests }
alerts:
  - { alert: Errors, on: route_5m, when: error_rate > 0.01 }
archive:
  url: s3://logs/shop
  patience: 10m
  flush: { every: 1h, rows: 2000000, bytes: 1GB }
notify: { none: { type: file, path: /dev/null } }
limits: { memory: 1GB }
server: { listen: 127.0.0.1:0 }
YAML
  started=$SECONDS
  # One line is none, so that there is a dead letter to ask for.
  { echo "no envelope"; "$HEADRIG" generate --events "$rows" --rate "$rate" --incident --start 2026-04-20T00:00:00Z; } \
    | HEADRIG_LOG=warn "$HEADRIG" run --once --data-dir "$work/data" "$work/pipeline.yaml"
  echo "archived $rows lines in $((SECONDS - started)) s"
  started=$SECONDS
  "$HEADRIG" compact s3://logs/shop --after 0s --grace 0s --memory 1GB --data-dir "$work/data" > "$work/compacted"
  echo "compacted in $((SECONDS - started)) s: $(tail -1 "$work/compacted")"
  touch "$work/archived"
fi
"$python" benches/hundred.py --headrig "$HEADRIG" --archive s3://logs/shop --rounds "$rounds" --work "$work"
