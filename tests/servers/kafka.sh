#!/usr/bin/env bash
# A real Kafka for the tests: one node in KRaft mode, on free loopback ports, on the Java that is there.
#
#   tests/servers/kafka.sh fetch            gets Apache Kafka from Maven Central into target/servers/kafka (once)
#   tests/servers/kafka.sh serve FOLDER     starts a broker whose data is in FOLDER, and minds it
#
# `serve` prints one line when the broker takes requests:
#
#   ready plain=127.0.0.1:P sasl=127.0.0.1:P tls=localhost:P ca=FOLDER/ca.pem
#
# Users are headrig/secret, by SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN. It reads words from standard input, a line each:
# `restart` stops the broker and starts it again on the same ports (and prints `ready` again). When standard input
# ends, the broker is ended by its process id and so is this script: nothing outlives a test that dies.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=3.9.1
libraries="${CARGO_TARGET_DIR:-target}/servers/kafka/$version"

fetch() {
  [ -e "$libraries/complete" ] && return
  mkdir -p "$libraries"
  cat > "$libraries/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>headrig</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version>
  </dependency></dependencies>
</project>
POM
  mvn -q -B -f "$libraries/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=.  >&2
  ls "$libraries"/kafka_2.13-*.jar >/dev/null
  touch "$libraries/complete"
}

configure() {
  # Three ports that are free now; the broker keeps them over a restart.
  read -r plain sasl tls controller < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(4)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets])')
  keytool -genkeypair -alias broker -keyalg RSA -keysize 2048 -validity 30 -dname CN=localhost -ext san=dns:localhost \
    -storetype PKCS12 -keystore "$folder/broker.p12" -storepass changeit 2>/dev/null
  keytool -exportcert -rfc -alias broker -keystore "$folder/broker.p12" -storepass changeit > "$folder/ca.pem" 2>/dev/null
  local plain_login='org.apache.kafka.common.security.plain.PlainLoginModule required user_headrig="secret";'
  local scram_login='org.apache.kafka.common.security.scram.ScramLoginModule required;'
  {
    cat <<CONFIG
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAIN://127.0.0.1:$plain,SASL://127.0.0.1:$sasl,TLS://127.0.0.1:$tls,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAIN://127.0.0.1:$plain,SASL://127.0.0.1:$sasl,TLS://localhost:$tls
listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
ssl.keystore.location=$folder/broker.p12
ssl.keystore.password=changeit
ssl.keystore.type=PKCS12
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
log.dirs=$folder/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.backoff.ms=200
file.delete.delay.ms=100
num.io.threads=2
num.network.threads=2
CONFIG
    for listener in sasl tls; do
      echo "listener.name.$listener.plain.sasl.jaas.config=$plain_login"
      for mechanism in scram-sha-256 scram-sha-512; do
        echo "listener.name.$listener.$mechanism.sasl.jaas.config=$scram_login"
      done
    done
  } > "$folder/server.properties"
  java_kafka kafka.tools.StorageTool format -t "$(java_kafka kafka.tools.StorageTool random-uuid)" \
    -c "$folder/server.properties" \
    --add-scram 'SCRAM-SHA-256=[name=headrig,password=secret]' \
    --add-scram 'SCRAM-SHA-512=[name=headrig,password=secret]' >&2
}

java_kafka() {
  java -Xmx256m -Xms64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$libraries/*" "$@"
}

# Starts the broker and waits until it listens where clients come.
start() {
  java -Xmx256m -Xms128m -XX:+UseSerialGC -cp "$libraries/*" kafka.Kafka "$folder/server.properties" \
    >> "$folder/broker.log" 2>&1 < /dev/null &
  broker=$!
  for _ in $(seq 300); do
    kill -0 "$broker" 2>/dev/null || { echo "the broker has ended, see $folder/broker.log" >&2; exit 1; }
    if (: < "/dev/tcp/127.0.0.1/$tls" && : < "/dev/tcp/127.0.0.1/$plain") 2>/dev/null; then
      echo "ready plain=127.0.0.1:$plain sasl=127.0.0.1:$sasl tls=localhost:$tls ca=$folder/ca.pem"
      return
    fi
    sleep 0.1
  done
  echo "the broker does not listen after 30 s, see $folder/broker.log" >&2
  exit 1
}

stop() {
  kill "$broker" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 "$broker" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$broker" 2>/dev/null || true
}

case "${1:-}" in
  fetch) fetch ;;
  serve)
    fetch
    mkdir -p "$2"
    folder="$(cd "$2" && pwd)"
    configure
    broker=
    trap '[ -z "$broker" ] || kill -9 "$broker" 2>/dev/null' EXIT
    start
    while read -r word; do
      case "$word" in
        restart) stop; start ;;
        *) echo "unknown word: $word" >&2 ;;
      esac
    done
    ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
