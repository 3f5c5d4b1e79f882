#!/usr/bin/env bash
# From a NATS server to sealed Parquet: seconds, lines a second and CPU seconds for a million lines, from a JetStream stream
# that is there (read to its end) and from core NATS through the spool, while it is published. The server is this machine's
# own (Debian's nats-server) and shares its cores.
#
#   benches/nats.sh [LINES]        default 1,000,000
set -euo pipefail
cd "$(dirname "$0")/.."
lines=${1:-1000000}
headrig=${HEADRIG:-target/release/headrig}
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tests/servers/nats.sh "$port" "$folder/server" >"$folder/server.log" 2>&1 &
pids+=($!)

ask() { # PORT SUBJECT BODY: asks a NATS server
    python3 - "$@" <<'PY'
import socket, sys, time
port, subject, body = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
for _ in range(100):
    try:
        wire = socket.create_connection(("127.0.0.1", port), 5)
        break
    except OSError:
        time.sleep(0.1)
wire.sendall(b'CONNECT {"verbose":false}\r\nSUB _INBOX.a 1\r\nPUB %s _INBOX.a %d\r\n%s\r\n' % (subject.encode(), len(body), body))
told = b""
while b"MSG _INBOX.a" not in told or not told.endswith(b"}\r\n"):
    told += wire.recv(65536)
sys.exit(told.decode() if b'"error"' in told else 0)
PY
}

pipeline() { # NAME SOURCE
    mkdir -p "$folder/$1"
    cat >"$folder/$1/pipeline.yaml" <<YAML
pipeline: $1
sources: { s: $2 }
decode: { envelope: fly, schema: access }
archive: { url: "$folder/$1/archive" }
server: { listen: "127.0.0.1:0" }
YAML
}

told() { # NAME SECONDS CPU
    rows=$("$headrig" verify "$folder/$1/archive" --format json | python3 -c 'import json, sys
print(sum(pipeline["records"] for pipeline in json.load(sys.stdin)["pipelines"]))')
    awk -v n="$1" -v s="$2" -v c="$3" -v r="$rows" -v l="$lines" \
        'BEGIN { printf "%-10s %9d of %d lines in %6.2f s  %8.0f lines/s  %5.2f CPU s a million\n", n, r, l, s, r / s, c / r * 1e6 }'
}

ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
hz=$(getconf CLK_TCK)

ask "$port" '$JS.API.STREAM.CREATE.LOGS' '{"name":"LOGS","subjects":["js.>"],"storage":"file"}'
"$headrig" generate --events "$lines" --output "jetstream://127.0.0.1:$port/js.app.fra.1" 2>/dev/null
pipeline jetstream "{ type: jetstream, url: \"nats://127.0.0.1:$port\", stream: LOGS, durable: headrig }"
TIMEFORMAT='%R %U %S'
read -r seconds user system < <({ time "$headrig" run --once --data-dir "$folder/jetstream" "$folder/jetstream/pipeline.yaml" \
    >/dev/null 2>&1; } 2>&1)
told jetstream "$seconds" "$(awk -v a="$user" -v b="$system" 'BEGIN { print a + b }')"

pipeline core "{ type: nats, url: \"nats://127.0.0.1:$port\", subject: \"core.>\" }"
"$headrig" run --data-dir "$folder/core" "$folder/core/pipeline.yaml" >/dev/null 2>"$folder/core/log" &
daemon=$!
pids+=("$daemon")
until grep -q 'connected to NATS' "$folder/core/log"; do sleep 0.1; done
start=$(date +%s.%N)
"$headrig" generate --events "$lines" --output "nats://127.0.0.1:$port/core.app.fra.1" 2>/dev/null
# At work as long as it uses a processor; then all that came is read.
used=0 end=$start
while sleep 0.5 && now=$(ticks "$daemon") && ((now - used > 2)); do used=$now end=$(date +%s.%N); done
kill -TERM "$daemon"
wait "$daemon"
told core "$(awk -v a="$start" -v b="$end" 'BEGIN { print b - a }')" "$(awk -v t="$used" -v hz="$hz" 'BEGIN { print t / hz }')"
grep -h 'gap' "$folder/core/log" | tail -1 || true
