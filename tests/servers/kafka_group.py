"""Several daemons in one Kafka group over one archive, with a real broker: is every record there exactly once?

    kafka_group.py rebalance       a second daemon comes while records do, and goes again
    kafka_group.py kills           two daemons that share windows, each killed KILLS times at random moments, and one restart of the broker:
                                   are windows and alerts those of a single clean run, too?
    kafka_group.py figures         1, 2 and 4 daemons over one full topic, with windows of their own and with shared ones: CPU, time, bytes
    kafka_group.py zombie          a daemon is held (SIGSTOP) for longer than its session, and goes on

Needs DuckDB, and the program in HEADRIG. EVENTS, RATE, KILLS and SEED change what is done; with one SEED the pauses between kills
are the same. While it runs, a reader polls the archive through DuckDB: it must never meet an error or a row twice. At the end `headrig verify --deep` must find nothing.
Ends with 0 and a line `ok …`, or says what was wrong, shows the logs and ends with 1.
"""

import glob
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import duckdb

HEADRIG = os.environ.get("HEADRIG", "target/release/headrig")
EVENTS = int(os.environ.get("EVENTS", "200000"))
KILLS = int(os.environ.get("KILLS", "6"))
RATE = int(os.environ.get("RATE", "6000"))
SEED = int(os.environ.get("SEED", "1"))
PARTITIONS = 6
FLUSH = os.environ.get("FLUSH", "5s")
# The session of a member, which is how long a group waits for one that was killed and not started again, is 10 s.
SESSION = 10
# What any single step may take on a busy machine.
PATIENCE = 240

CREATE = """
import org.apache.kafka.clients.admin.*;
import java.util.*;
class Create {
  public static void main(String[] a) throws Exception {
    try (var admin = Admin.create(Map.<String, Object>of("bootstrap.servers", a[0]))) {
      admin.createTopics(List.of(new NewTopic(a[1], Integer.parseInt(a[2]), (short) 1))).all().get();
    }
  }
}
"""

PIPELINE = """
pipeline: p
sources:
  k: {{ type: kafka, brokers: "{broker}", topics: [{topic}], group: shared }}
decode: {{ envelope: fly, schema: access }}
archive: {{ url: "{archive}", flush: {{ every: 300ms, rows: 20000 }} }}
server: {{ listen: "127.0.0.1:0" }}
"""

# Windows over all partitions, and alerts on them; with `shared` several daemons merge them.
WINDOWS = """
windows:
  - {{ name: route, kind: tumbling, size: 5s, lateness: 20s, group_by: [path], where: status is not null,
      aggregate: {{ requests: count(*), errors: "count(*) filter (where status >= 500)", p95_ms: "quantile(latency_ms, 0.95)", mean_ms: avg(latency_ms) }},
      derive: {{ error_rate: errors / requests }} }}
  - {{ name: everything, kind: sliding, size: 15s, every: 5s, lateness: 20s, aggregate: {{ lines: count(*), paths: count_distinct(path), ids: count_distinct(request_id) }} }}
alerts:
  - {{ alert: Errors, on: route, when: error_rate > 0.2, for: 5s, annotations: {{ summary: "{{{{ $labels.path }}}}: {{{{ $values.error_rate }}}}" }} }}
  - {{ alert: Seventh, on: route, when: requests % 7 = 0, labels: {{ path_length: "{{{{ len $labels.path }}}}" }} }}
  - {{ alert: Busy, on: everything, when: lines > 20, labels: {{ severity: info }} }}
"""
SHARED = "repartition: {{ partitions: 5 }}\n"

started = time.monotonic()


def say(*words):
    print(f"{time.monotonic() - started:7.1f}", *words, flush=True)


class Failure(Exception):
    pass


class Broker:
    """Apache Kafka under the care of kafka.sh, which ends it with its standard input."""

    def __init__(self, folder):
        self.script = subprocess.Popen(
            ["tests/servers/kafka.sh", "serve", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.wait()

    def wait(self):
        words = self.script.stdout.readline().split()
        if words[:1] != ["ready"]:
            raise Failure(f"the broker doesn't start: {words}")
        self.address = dict(word.split("=", 1) for word in words[1:])["plain"]

    def restart(self):
        self.script.stdin.write("restart\n")
        self.script.stdin.flush()
        self.wait()

    def create(self, folder, topic, partitions):
        source = os.path.join(folder, "Create.java")
        with open(source, "w") as file:
            file.write(CREATE)
        libraries = glob.glob("target/servers/kafka/*/") or glob.glob(os.environ.get("CARGO_TARGET_DIR", "") + "/servers/kafka/*/")
        command = ["java", "-Xmx128m", "-cp", libraries[0] + "*", source, self.address, topic, str(partitions)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def end(self):
        self.script.stdin.close()
        self.script.wait(60)


class Daemon:
    """One headrig with a data folder of its own, started again when it ends."""

    def __init__(self, folder, name, pipeline):
        self.name, self.pipeline = name, pipeline
        self.data, self.log = os.path.join(folder, name), os.path.join(folder, name + ".log")
        self.kills = self.taken = 0
        # Alerts that it tells on its standard output.
        self.told = os.path.join(folder, name + ".alerts")
        self.process = None
        # Whether the broker is being restarted; where its log was when it was started.
        self.may_be_unreachable, self.from_here = False, 0

    def start(self):
        with open(self.log, "a") as log, open(self.told, "a") as told:
            self.from_here = log.tell()
            self.process = subprocess.Popen(
                [HEADRIG, "run", "--data-dir", self.data, self.pipeline],
                stdout=told,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"HEADRIG_LOG": os.environ.get("HEADRIG_LOG", "info")},
            )

    def says(self):
        with open(self.log) as log:
            return log.read()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def mind(self):
        """Starts it again when it has ended by itself, for which there must be a good reason."""
        code = self.process.poll()
        if code is None:
            return
        last = self.says()[self.from_here :]
        if code == 1 and "has claimed" in last:
            self.taken += 1
            say(self.name, "stopped, as another has claimed its partitions; started again")
        elif not (code == 1 and self.may_be_unreachable and "cannot reach a Kafka broker" in last):
            raise Failure(f"{self.name} ended with {code}: {last}")
        self.start()

    def stop(self):
        # Before it has said something it may not know signals yet.
        deadline = time.monotonic() + PATIENCE
        while len(self.says()) == self.from_here and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        if code != 0:
            raise Failure(f"{self.name} ended with {code}: {self.says()[-3000:]}")


class Reader(threading.Thread):
    """Polls the archive as a user would."""

    def __init__(self, archive):
        super().__init__(daemon=True)
        self.archive, self.ended, self.polls, self.wrong = archive, threading.Event(), 0, None

    def count(self):
        files = f"{self.archive}/data/**/*.parquet"
        if not glob.glob(files, recursive=True):
            return 0, 0
        connection = duckdb.connect(config={"threads": 1})
        sql = f"select count(*), count(distinct request_id), count(request_id) from read_parquet('{files}', union_by_name=true)"
        rows, distinct, ids = connection.sql(sql).fetchall()[0]
        return rows, ids - distinct

    def run(self):
        while not self.ended.wait(1):
            try:
                rows, twice = self.count()
                if twice:
                    self.wrong = f"a reader saw {twice} of {rows} rows twice"
            except Exception as error:
                self.wrong = f"a reader met an error: {error}"
            if self.wrong:
                return
            self.polls += 1


class Stage:
    """All that a scenario needs."""

    def __init__(self, folder, more=""):
        self.folder = folder
        self.archive = os.path.join(folder, "archive")
        self.broker = Broker(os.path.join(folder, "kafka"))
        self.broker.create(folder, "shared", PARTITIONS)
        pipeline = os.path.join(folder, "pipeline.yaml")
        with open(pipeline, "w") as file:
            file.write((PIPELINE + more).format(broker=self.broker.address, topic="shared", archive=self.archive))
        self.pipeline = pipeline
        self.a, self.b = Daemon(folder, "a", pipeline), Daemon(folder, "b", pipeline)
        self.reader = Reader(self.archive)
        self.reader.start()
        self.produced = 0
        self.seed = 0
        self.producers = []

    def produce(self, events, rate=None):
        """Begins to write records that were not there before; at `rate` a second where it is given."""
        self.seed += 1
        self.produced += events
        command = [HEADRIG, "generate", "--events", str(events), "--seed", str(self.seed)]
        command += ["--output", f"kafka://{self.broker.address}/shared"]
        command += ["--rate", str(rate), "--pace", "--incident"] if rate else []
        self.producers.append(subprocess.Popen(command))

    def until(self, what, condition, daemons=()):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.reader.wrong:
                raise Failure(self.reader.wrong)
            for daemon in daemons:
                daemon.mind()
            if time.monotonic() > deadline:
                raise Failure(f"it was waited too long until {what}; {self.reader.count()[0]} rows of {self.produced}")
            time.sleep(0.1)

    def until_all(self, *daemons):
        for producer in self.producers:
            if producer.wait(PATIENCE + 2 * EVENTS / RATE) != 0:
                raise Failure("a producer failed")
        self.until("all rows are there", lambda: self.reader.count()[0] >= self.produced, daemons)

    def compare_windows(self):
        """Closes what is open, reads all once more alone, and compares windows and alerts row by row. Returns how many there are."""
        clean, file = os.path.join(self.folder, "clean"), os.path.join(self.folder, "clean.yaml")
        with open(file, "w") as text:
            text.write((PIPELINE + WINDOWS).format(broker=self.broker.address, topic="shared", archive=clean))
        told = {}
        for name, pipeline in ("last", self.pipeline), ("clean", file):
            command = [HEADRIG, "run", "--once", "--data-dir", os.path.join(self.folder, name), pipeline]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode != 0:
                raise Failure(f"the {name} run ended with {ran.returncode}: {ran.stderr[-3000:]}")
            told[name] = {json.loads(line)["id"] for line in ran.stdout.splitlines()}
        counts = []
        for table in "windows/name=route", "windows/name=everything", "alerts":
            rows = [self.table(archive, table) for archive in (self.archive, clean)]
            if rows[0] != rows[1]:
                only = [sorted(set(rows[at]) - set(rows[1 - at]))[:5] for at in (0, 1)]
                raise Failure(f"{table}: {len(rows[0])} rows, {len(rows[1])} of a clean run\nonly here: {only[0]}\nonly there: {only[1]}")
            counts.append(len(rows[0]))
        here = told["last"]
        for daemon in self.a, self.b:
            with open(daemon.told) as lines:
                # One that was killed may have been cut off within a line.
                here |= {json.loads(line)["id"] for line in lines if line.endswith("}\n") and line.startswith("{")}
        if here != told["clean"]:
            raise Failure(f"{len(here)} alert events were told, {len(told['clean'])} by a clean run; {len(here ^ told['clean'])} differ")
        return counts

    def table(self, archive, table):
        files = glob.glob(f"{archive}/{table}/**/*.parquet", recursive=True)
        connection = duckdb.connect(config={"threads": 1})
        columns = "* replace (" + ", ".join(f"{c}::varchar as {c}" for c in ("window_start", "window_end")) + ")"
        if table == "alerts":
            columns = "* replace (" + ", ".join(f"{c}::varchar as {c}" for c in ("window_start", "window_end", "starts_at", "ends_at")) + ")"
        return sorted(map(repr, connection.sql(f"select {columns} from read_parquet({files}, union_by_name=true)").fetchall()))

    def verdict(self, *words):
        self.reader.ended.set()
        self.reader.join(PATIENCE)
        rows, twice = self.reader.count()
        if self.reader.wrong or (rows, twice) != (self.produced, 0):
            raise Failure(self.reader.wrong or f"{rows} rows, {twice} of them twice; {self.produced} were produced")
        verified = subprocess.run([HEADRIG, "verify", "--deep", self.archive], capture_output=True, text=True)
        if verified.returncode != 0:
            raise Failure(f"verify finds: {verified.stdout}{verified.stderr}")
        print("ok", f"{rows} rows, each once, of {self.produced};", f"{self.reader.polls} polls;", *words, flush=True)


def reads(daemon, times=1):
    return lambda: daemon.says().count("reading Kafka partitions") >= times


def rebalance(stage):
    a, b = stage.a, stage.b
    a.start()
    stage.until("a reads", reads(a))
    stage.produce(EVENTS, EVENTS // 15)
    # b comes while a reads, and a gives some of its partitions away.
    b.start()
    stage.until("b reads", reads(b))
    if "partition goes to another reader" not in a.says():
        raise Failure("a gave nothing away")
    say("b reads, too")
    time.sleep(2)
    b.stop()
    say("b was stopped")
    stage.until("a has all again", reads(a, 2))
    stage.until_all(a)
    a.stop()
    if a.taken or b.taken:
        raise Failure("nobody was to be cut off")
    stage.verdict("a second daemon came and went")


def kills(stage):
    daemons = stage.a, stage.b
    stage.produce(EVENTS, RATE)
    for daemon in daemons:
        daemon.start()
    due = {}
    for index, daemon in enumerate(daemons):
        # So that the kills are over when all is produced, about.
        chance, at = random.Random(SEED * 2 + index), time.monotonic()
        mean = max(EVENTS / RATE / (KILLS + 1), 1.5)
        due[daemon] = []
        for _ in range(KILLS):
            at += chance.uniform(0.1, 2 * mean - 0.1)
            due[daemon].append(at)
    broker_due = time.monotonic() + EVENTS / RATE / 2
    while any(due.values()) or broker_due:
        if stage.reader.wrong:
            raise Failure(stage.reader.wrong)
        for daemon in daemons:
            daemon.mind()
            if due[daemon] and time.monotonic() >= due[daemon][0]:
                due[daemon].pop(0)
                daemon.kill()
                say(daemon.name, "killed", daemon.kills)
                daemon.start()
        if broker_due and time.monotonic() >= broker_due:
            broker_due = None
            say("restarting the broker")
            for daemon in daemons:
                daemon.may_be_unreachable = True
            # Beside: kills go on meanwhile.
            threading.Thread(target=stage.broker.restart, daemon=True).start()
        time.sleep(0.02)
    say("no more kills;", stage.reader.count()[0], "rows are there")
    stage.until_all(*daemons)
    for daemon in daemons:
        daemon.mind()
        daemon.stop()
    told = [f"{d.name} killed {d.kills} times, stopped {d.taken} times as its partitions were claimed;" for d in daemons]
    say("reading all once more, alone")
    routes, everything, alerts = stage.compare_windows()
    if not alerts:
        raise Failure("no alert fired: that shows nothing of them")
    told.append(f"{routes + everything} rows of windows and {alerts} alert events as in a clean run;")
    stage.verdict(*told, "broker restarted once")


def figures(stage):
    """Not a test: prints a line a run."""
    stage.produce(EVENTS)
    for producer in stage.producers:
        producer.wait()
    stage.reader.ended.set()
    print("daemons windows    rows/s  CPU s/million  bytes in the topic")
    for count in 1, 2, 4:
        for way, more in ("own", WINDOWS), ("shared", WINDOWS + SHARED):
            name = f"{way}{count}"
            archive, file = os.path.join(stage.folder, name), os.path.join(stage.folder, name + ".yaml")
            text = (PIPELINE + more).replace("group: shared", f"group: {name}").replace("pipeline: p", f"pipeline: {name}")
            with open(file, "w") as pipeline:
                pipeline.write(text.replace("every: 300ms, rows: 20000", f"every: {FLUSH}").format(broker=stage.broker.address, topic="shared", archive=archive))
            reader, daemons = Reader(archive), [Daemon(stage.folder, f"{name}-{number}", file) for number in range(count)]
            began = time.monotonic()
            for daemon in daemons:
                daemon.start()
            stage.until("all rows are there", lambda: reader.count()[0] >= EVENTS)
            took, cpu = time.monotonic() - began, 0
            for daemon in daemons:
                daemon.process.send_signal(signal.SIGTERM)
                _, status, usage = os.wait4(daemon.process.pid, 0)
                daemon.process.returncode = os.waitstatus_to_exitcode(status)
                cpu += usage.ru_utime + usage.ru_stime
            logs = glob.glob(os.path.join(stage.folder, "kafka", "data", f"headrig.{name}.windows-*", "*.log"))
            bytes_ = sum(map(os.path.getsize, logs))
            print(f"{count:7} {way:8} {EVENTS / took:8.0f} {cpu * 1e6 / EVENTS:14.2f} {bytes_:15}", flush=True)


def zombie(stage):
    a, b = stage.a, stage.b
    for daemon in (a, b):
        daemon.start()
        stage.until("both read", reads(daemon))
    stage.produce(EVENTS, EVENTS // 30)
    time.sleep(2)
    a.process.send_signal(signal.SIGSTOP)
    had = b.says().count("reading Kafka partitions")
    say("a is held")
    stage.until("b has taken over", reads(b, had + 1))
    say("b has taken over")
    time.sleep(2)
    a.process.send_signal(signal.SIGCONT)
    say("a goes on")
    stage.until_all(a, b)
    for daemon in (a, b):
        daemon.mind()
        daemon.stop()
    stage.verdict("the zombie", "stopped and was started again" if a.taken else "went on cleanly")


def main():
    scenario = {"rebalance": rebalance, "kills": kills, "zombie": zombie, "figures": figures}[sys.argv[1]]
    with tempfile.TemporaryDirectory(dir=os.environ.get("KAFKA_GROUP_DIR")) as folder:
        stage = Stage(folder, WINDOWS + SHARED if scenario is kills else "")
        try:
            scenario(stage)
        except (Failure, subprocess.TimeoutExpired) as failure:
            say("FAIL", failure)
            for daemon in (stage.a, stage.b):
                print(f"--- {daemon.name}\n{daemon.says()[-6000:] if daemon.process else ''}")
            sys.exit(1)
        finally:
            for process in [stage.a.process, stage.b.process, *stage.producers]:
                if process and process.poll() is None:
                    process.kill()
                    process.wait()
            stage.broker.end()


main()
