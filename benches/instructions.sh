#!/usr/bin/env bash
# Counts the instructions that decoding takes a line (valgrind) and compares them with benches/instructions.baseline.
#
#   benches/instructions.sh              fails if it takes over 3 % more
#   UPDATE=1 benches/instructions.sh     records what it takes now, for this kind of processor
#
# There is a baseline for x86-64 with AVX2, which is nearly all of them. Elsewhere the counts are printed with the remark
# that there is nothing to compare with; UPDATE=1 adds that machine's, and leaves the others' as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
  root=(); [ "$(id -u)" -eq 0 ] || root=(sudo)
  "${root[@]}" apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -qy valgrind >/dev/null
fi
# Incremental builds cut the code otherwise, which inlines otherwise: by up to 3 % more or fewer instructions.
CARGO_INCREMENTAL=0 cargo bench --locked --bench instructions
