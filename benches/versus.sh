#!/usr/bin/env bash
# headrig against DuckDB, chDB and Polars: the same file, the same cores, in turn.
#
#   benches/versus.sh                     2,000,000 lines (1.2 GB), three rounds; about ten minutes after the first build
#   benches/versus.sh --lines 100000 --rounds 1        to see that it works
#   benches/versus.sh --min-archive 2 --min-aggregate 3        other thresholds (ratios to DuckDB) than 2.5 and 4
#   HEADRIG=/path/to/headrig benches/versus.sh         another binary than that of this tree
#
# Two tasks, each on one core and on two: (1) an enveloped file to Parquet with zstd(1) and all columns of
# schemas/access.yaml; (2) requests, 5xx and p95 by path and minute. Prints MB/s of input, peak memory and ratios; ends with
# 1 if headrig is below a threshold or results differ. The tools are the newest from PyPI, in target/versus-python; the input
# is kept in target/versus, results are removed. Needs python3 with venv, and about 3 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
lines=2000000
rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    --lines) lines=$2; shift 2 ;;
    *) rest+=("$1"); shift ;;
  esac
done
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/versus"

python="$target/versus-python"
if ! "$python/bin/python" -c 'import duckdb, chdb, polars' 2>/dev/null; then
  python3 -m venv --clear "$python"
  "$python/bin/pip" install -q --disable-pip-version-check --upgrade duckdb chdb polars
fi
if [ -z "${HEADRIG:-}" ]; then
  cargo build --release --locked
  HEADRIG="$target/release/headrig"
fi
"$HEADRIG" --version
"$python/bin/python" -c 'import duckdb, chdb, polars
print("DuckDB", duckdb.__version__, "· chDB", chdb.__version__, "· Polars", polars.__version__)'
printf '%s, %s cores\n' "$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)" "$(nproc)"

input="$target/versus/$lines.ndjson"
if [ ! -e "$input" ]; then
  "$HEADRIG" generate --events "$lines" --output "$input.part"
  mv "$input.part" "$input"
fi
work="$(mktemp -d "$target/versus/run.XXXXXX")"
trap 'rm -rf "$work"' EXIT
# Not read from a disk by whoever is first.
cat "$input" >/dev/null
"$python/bin/python" benches/versus.py --headrig "$HEADRIG" --input "$input" --work "$work" --lines "$lines" "${rest[@]}"
