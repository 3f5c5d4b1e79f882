#!/usr/bin/env bash
# A MinIO for tests, on loopback.
#
#   tests/servers/minio.sh fetch             builds it once, into target/servers (needs Go; some minutes)
#   tests/servers/minio.sh PORT FOLDER       becomes the server; user `headrig`, password `headrig-secret`. It is stopped by the id of this process.
#   tests/servers/minio.sh PORT FOLDER CERTS the same over TLS, with public.crt and private.key of that folder
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
case "$target" in /*) ;; *) target="$PWD/$target" ;; esac
server="$target/servers/minio"
if [ "$1" = fetch ]; then
  [ -x "$server" ] && exit 0
  PATH="$PATH:/usr/local/go/bin:$HOME/go/bin"
  command -v go >/dev/null || { echo "no Go toolchain, so no MinIO" >&2; exit 1; }
  mkdir -p "$target/servers"
  GOBIN="$target/servers" go install github.com/minio/minio@latest >/dev/null
  exit 0
fi
[ -x "$server" ] || { echo "MinIO is missing: start the tests by tests/run.sh" >&2; exit 1; }
export MINIO_ROOT_USER=headrig MINIO_ROOT_PASSWORD=headrig-secret MINIO_BROWSER=off
exec "$server" server --quiet --address "127.0.0.1:$1" ${3:+--certs-dir "$3"} "$2"
