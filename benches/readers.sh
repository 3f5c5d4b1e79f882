#!/usr/bin/env bash
# One archive with Delta logs, of the real input, and what each reader counts in it. The table of docs/archive.md.
#
#   benches/readers.sh                         ../shared/data/fly-2h.ndjson.zst
#   benches/readers.sh --input FILE            these lines (Fly's envelope) instead
#   HEADRIG=/path/to/headrig benches/readers.sh
#
# Ends with 1 if two readers differ. Readers are the newest from PyPI, in target/readers-python, and for Spark jars from Maven Central. Needs
# python3 with venv, a Java (17 or newer) with Maven, zstd, and 2 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
input=../shared/data/fly-2h.ndjson.zst
while [ $# -gt 0 ]; do
  case "$1" in
    --input) input=$2; shift 2 ;;
    *) echo "what is $1?" >&2; exit 2 ;;
  esac
done
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/versus"
python="${READERS_PYTHON:-$target/readers-python/bin/python}"
if ! "$python" -c 'import duckdb, duckdb_extension_delta, polars, pyarrow, deltalake, pyspark' 2>/dev/null; then
  [ -x "$python" ] || python3 -m venv --clear "$target/readers-python"
  "$python" -m pip install -q --disable-pip-version-check polars pyarrow deltalake 'pyspark==4.1.*' \
    duckdb==1.5.5 duckdb-extensions==1.5.5 duckdb-extension-delta==1.5.5 duckdb-extension-httpfs==1.5.5
fi
# Delta's jars go with one version of Spark each.
jars="$target/readers-jars"
if [ ! -e "$jars/complete" ]; then
  mkdir -p "$jars"
  cat > "$jars/pom.xml" <<'POM'
<project>
  <modelVersion>4.0.0</modelVersion><groupId>headrig</groupId><artifactId>readers</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>io.delta</groupId><artifactId>delta-spark_4.1_2.13</artifactId><version>4.4.0</version>
      <exclusions><exclusion><groupId>org.apache.spark</groupId><artifactId>*</artifactId></exclusion></exclusions>
    </dependency>
  </dependencies>
</project>
POM
  mvn -q -B -f "$jars/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=.
  touch "$jars/complete"
fi
jars="$(cd "$jars" && pwd)"
if [ -z "${HEADRIG:-}" ]; then
  cargo build --release --locked
  HEADRIG="$target/release/headrig"
fi
"$HEADRIG" --version
work="$(cd "$(mktemp -d "$target/versus/readers.XXXXXX")" && pwd)"
trap 'rm -rf "$work"' EXIT
case "$input" in
  *.zst) zstd -dq "$input" -o "$work/in.ndjson" ;;
  *) ln -s "$(realpath "$input")" "$work/in.ndjson" ;;
esac
# Some seals, and then a compaction, so that the logs have both: what is added, and what stands for others.
cat > "$work/pipeline.yaml" <<YAML
pipeline: shop
sources: { in: { type: file, paths: ["$work/in.ndjson"] } }
decode: { envelope: fly, schema: access }
windows:
  - { name: route_5m, kind: tumbling, size: 5m, lateness: 60s, where: status is not null, group_by: [path], aggregate: { requests: count(*) } }
archive: { url: "$work/archive", table: delta, compact: { enabled: false }, flush: { rows: 8000 } }
server: { listen: 127.0.0.1:0 }
YAML
HEADRIG_LOG=warn "$HEADRIG" run --once --data-dir "$work/data" "$work/pipeline.yaml"
export HEADRIG JARS="$jars"
"$python" benches/readers.py "$work" sealed
"$HEADRIG" compact "$work/archive" --after 0s --grace 0s --data-dir "$work/data" >/dev/null
"$python" benches/readers.py "$work" compacted
"$HEADRIG" verify --deep "$work/archive" >/dev/null
