#!/usr/bin/env bash
# Two daemons in one Kafka group over one archive, killed (SIGKILL) again and again while a reader polls: issue 4's big one. They share
# windows and alerts; in the end these are compared with a single clean run's, and `headrig verify --deep` must find nothing.
#
#   tests/kafka-kills.sh                                2,000,000 records, 20 kills each, one restart of the broker; six minutes
#   EVENTS=200000 KILLS=6 RATE=6000 tests/kafka-kills.sh
#   SEED=7 tests/kafka-kills.sh                         other pauses between the kills
#
# Wants `cargo build --release`, Java, and a Python with DuckDB (tests/run.sh sets one up).
set -euo pipefail
cd "$(dirname "$0")/.."
export HEADRIG="${HEADRIG:-${CARGO_TARGET_DIR:-target}/release/headrig}"
export EVENTS="${EVENTS:-2000000}" KILLS="${KILLS:-20}" RATE="${RATE:-8000}" SEED="${SEED:-1}"
tests/servers/kafka.sh fetch
exec "${HEADRIG_PYTHON:-${CARGO_TARGET_DIR:-target}/python/bin/python}" tests/servers/kafka_group.py kills 2>/dev/null
