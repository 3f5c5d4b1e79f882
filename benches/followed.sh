#!/usr/bin/env bash
# What following many silent files costs: processor seconds in a minute and resident memory of a daemon that follows FILES
# files (default 10,000), of which ten get ten lines a second, beside one that follows these ten alone. Both run side
# by side, so that the machine is the same for both.
#
#   benches/followed.sh [FILES] [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
files=${1:-10000} seconds=${2:-60}
headrig=${HEADRIG:-target/release/headrig}
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

start() { # NAME PATTERN
    cat >"$folder/$1.yaml" <<YAML
pipeline: $1
sources: { logs: { type: file, paths: ["$folder/logs/$2"], follow: true } }
decode: { envelope: none, format: json, schema: minimal }
archive: { url: "$folder/$1", flush: { every: 10s } }
server: { listen: "127.0.0.1:0" }
YAML
    "$headrig" run "$folder/$1.yaml" 2>"$folder/$1.log" &
    pids+=($!)
}

ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

mkdir "$folder/logs"
for ((n = 0; n < files; n++)); do
    printf '{"message":"file %d","filler":"%0150d"}\n' "$n" "$n" >"$folder/logs/$(printf %06d "$n").log"
done
start many '*.log'
start ten '00000[0-9].log'
sleep 70 # until silent files are silent
before=("$(ticks "${pids[0]}")" "$(ticks "${pids[1]}")")
for ((round = 0; round < seconds; round++)); do
    for n in 0 1 2 3 4 5 6 7 8 9; do
        printf '{"message":"%d"}\n%.0s' "$round" {1..10} >>"$folder/logs/00000$n.log"
    done
    sleep 1
done
for which in 0 1; do
    name=$([ "$which" = 0 ] && echo "$files files" || echo "10 files")
    used=$(($(ticks "${pids[$which]}") - before[which]))
    memory=$(awk '/^VmRSS/ { print $2 / 1000 }' "/proc/${pids[$which]}/status")
    open=$(find "/proc/${pids[$which]}/fd" -lname "$folder/logs/*" | wc -l)
    awk -v n="$name" -v t="$used" -v s="$seconds" -v hz="$(getconf CLK_TCK)" -v m="$memory" -v o="$open" \
        'BEGIN { printf "%-14s %6.2f CPU s/min  %7.1f MB resident  %d of the files open\n", n, t / hz * 60 / s, m, o }'
done
