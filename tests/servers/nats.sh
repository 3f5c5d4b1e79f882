#!/usr/bin/env bash
# Becomes a nats-server on loopback: tests/servers/nats.sh PORT FOLDER [OPTION…]. JetStream keeps its streams in FOLDER.
# Debian's package; tests/run.sh installs it. It is stopped by the id of this process.
set -euo pipefail
port=$1 folder=$2
shift 2
server=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v nats-server) || {
  echo "nats-server is missing: start the tests by tests/run.sh, or install the package nats-server" >&2
  exit 1
}
exec "$server" --addr 127.0.0.1 --port "$port" --jetstream --store_dir "$folder" "$@"
