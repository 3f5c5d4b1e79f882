#!/usr/bin/env bash
# What each choice of the archive's files costs and saves: size, time to write, time to ask. The tables of docs/archive.md.
#
#   benches/choices.sh                       1,000,000 generated lines (609 MB); a quarter of an hour after the first build
#   benches/choices.sh --input FILE          these lines (Fly's envelope), as often as wanted, instead
#   benches/choices.sh --lines 100000 --rounds 1         to see that it works
#   HEADRIG=/path/to/headrig benches/choices.sh          another binary than that of this tree
#
# Ends with 1 if headrig's files are not smaller than DuckDB's of the same rows and columns. The tools are the newest from
# PyPI, in target/versus-python. Needs python3 with venv, and about 3 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
lines=1000000
inputs=()
rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    --lines) lines=$2; shift 2 ;;
    --input) inputs+=("$2"); shift 2 ;;
    *) rest+=("$1"); shift ;;
  esac
done
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/versus"
python="${CHOICES_PYTHON:-$target/versus-python/bin/python}"
if ! "$python" -c 'import duckdb, chdb, pyarrow' 2>/dev/null; then
  [ -x "$python" ] || python3 -m venv --clear "$target/versus-python"
  "$python" -m pip install -q --disable-pip-version-check --upgrade duckdb chdb polars pyarrow
fi
if [ -z "${HEADRIG:-}" ]; then
  cargo build --release --locked
  HEADRIG="$target/release/headrig"
fi
if [ ${#inputs[@]} = 0 ]; then
  inputs=("$target/versus/$lines.ndjson")
  if [ ! -e "${inputs[0]}" ]; then
    "$HEADRIG" generate --events "$lines" --output "${inputs[0]}.part"
    mv "${inputs[0]}.part" "${inputs[0]}"
  fi
fi
"$HEADRIG" --version
work="$(mktemp -d "$target/versus/choices.XXXXXX")"
trap 'rm -rf "$work"' EXIT
for input in "${inputs[@]}"; do
  "$python" benches/choices.py --headrig "$HEADRIG" --input "$input" --work "$work/$(basename "$input")" "${rest[@]}"
done
