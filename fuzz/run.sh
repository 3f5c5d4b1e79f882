#!/usr/bin/env bash
# Builds the fuzz target of the decoder and runs it.
#
#   fuzz/run.sh                          replays the corpus
#   fuzz/run.sh -max_total_time=600      looks for more, for ten minutes; libFuzzer's options
#
# A stable compiler will do: fuzz/rustc stands before it for headrig's own crates and asks for coverage, so that what they
# depend on is taken as it was compiled for headrig. New inputs go to target/fuzz, not to the corpus; so does what was found.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/rustc"
cargo build --release --locked -p headrig-fuzz
found="${CARGO_TARGET_DIR:-target}/fuzz"
mkdir -p "$found/inputs"
[ $# -gt 0 ] || set -- -runs=0
exec "${CARGO_TARGET_DIR:-target}/release/decode" -max_len=8192 -timeout=20 -artifact_prefix="$found/found-" "$@" \
  "$found/inputs" fuzz/corpus/decode
