#!/usr/bin/env bash
# Sets up what the tests need on a Debian machine with Rust, and runs all of them.
#
#   tests/run.sh              everything
#   tests/run.sh FILTER       only tests whose name contains FILTER, without formatting and lints
#
# What is installed: Debian's zstd, time, curl, valgrind, perl, nats-server, prometheus-alertmanager, maven with a Java and python3-venv where they are missing
# (needs root or sudo), DuckDB and delta-rs from PyPI into target/python, and Apache Kafka from Maven Central into target/servers. Nothing is left
# running. Compiled once: one profile serves the binary and its tests.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
say() { printf '\n== %s (%s s)\n' "$1" "$((SECONDS - started))"; }

say "tools"
packages=()
command -v zstd >/dev/null || packages+=(zstd)
command -v curl >/dev/null || packages+=(curl)
command -v cc >/dev/null || packages+=(build-essential)
command -v cmake >/dev/null || packages+=(cmake)
[ -x /usr/bin/time ] || packages+=(time)
command -v perl >/dev/null || packages+=(perl)
command -v java >/dev/null && command -v keytool >/dev/null || packages+=(default-jdk-headless)
command -v mvn >/dev/null || packages+=(maven)
command -v valgrind >/dev/null || packages+=(valgrind)
PATH="$PATH:/usr/sbin" command -v prometheus-alertmanager >/dev/null || packages+=(prometheus-alertmanager)
PATH="$PATH:/usr/sbin" command -v nats-server >/dev/null || packages+=(nats-server)
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
if [ "${#packages[@]}" -gt 0 ]; then
  root=(); [ "$(id -u)" -eq 0 ] || root=(sudo)
  "${root[@]}" apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -qy "${packages[@]}" >/dev/null
fi
export CARGO_TERM_COLOR=never
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"
python="$target/python"
if ! "$python/bin/python" -c 'import duckdb, deltalake' 2>/dev/null; then
  python3 -m venv --clear "$python"
  "$python/bin/pip" install -q --disable-pip-version-check duckdb==1.4.1 deltalake==1.6.6
fi
HEADRIG_PYTHON="$(cd "$python/bin" && pwd)/python"
export HEADRIG_PYTHON
"$HEADRIG_PYTHON" -c 'import duckdb, deltalake; print("DuckDB", duckdb.__version__, "delta-rs", deltalake.__version__)'
# The tests run one Kafka of their own, which ends with them. Without it, mock brokers stand in for what they can do.
if ! tests/servers/kafka.sh fetch; then export HEADRIG_KAFKA=mock; fi
# The same of MinIO, for archives in buckets.
if ! tests/servers/minio.sh fetch; then export HEADRIG_MINIO=none; fi
cargo --version

if [ $# -eq 0 ]; then
  say "format"
  cargo fmt --check
fi

say "build and unit tests, then the integration tests"
cargo test --release --locked --lib --bins --tests -- "$@"

if [ $# -eq 0 ]; then
  say "benchmarks build and run once"
  cargo bench --locked --bench stages -- --test

  say "instructions of decoding, against benches/instructions.baseline"
  benches/instructions.sh

  say "the fuzz target builds and takes its corpus"
  fuzz/run.sh

  say "lints"
  # Clippy's artefacts are not rustc's: its first run checks the dependencies once more, without compiling them.
  cargo clippy --release --locked --all-targets -- -D warnings
fi
say "done"
[ "${HEADRIG_MINIO:-}" != none ] || echo "MISSING: MinIO could not be built (it takes Go); archives in buckets were tested in memory only"
[ -e ../shared/data/fly-2h.ndjson.zst ] || echo "MISSING: ../shared/data was not there; the tests on real input did not run"
[ "${HEADRIG_KAFKA:-}" != mock ] || echo "MISSING: Apache Kafka could not be had from Maven Central; librdkafka's mock brokers stood in, and most Kafka tests did not run"
