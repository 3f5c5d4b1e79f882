//! The Kafka source against a real broker: exactly once through kills and restarts, gaps, and what is said when
//! something is wrong.
//!
//! The tests share one broker and run one after the other. Where Apache Kafka could not be had (`HEADRIG_KAFKA=mock`,
//! set by `tests/run.sh`), librdkafka's mock brokers stand in for what they can do, and the rest says that it is missing.

use crate::harness::{Running, assert_exit, headrig, pipeline, project, python, temporary, text, until};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::Signal;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Apache Kafka under the care of `tests/servers/kafka.sh`, which ends it when our end of its input is closed, as it is
/// when this process ends.
struct Real {
    _script: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    addresses: HashMap<String, String>,
    _folder: tempfile::TempDir,
}

enum Cluster {
    Real(Real),
    /// The address of mock brokers, which live on a thread of their own as they may not be moved.
    Mock(String),
}

// A mutex and not a `OnceLock`: restarts must not meet another test.
static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

/// The broker, for one test at a time.
struct Broker(MutexGuard<'static, Option<Cluster>>);

impl Real {
    fn start() -> Self {
        let folder = temporary();
        let mut script = Command::new(project().join("tests/servers/kafka.sh"))
            .arg("serve")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()));
        let mut real = Self { _script: script, input, output, addresses: HashMap::new(), _folder: folder };
        real.until_ready();
        real
    }

    fn until_ready(&mut self) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("ready"), "the broker doesn't start; HEADRIG_KAFKA=mock does without: {line}");
        self.addresses = words.filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    }
}

/// Starts librdkafka's mock brokers with the topics of the tests that they can do.
fn mock_brokers() -> String {
    let (told, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("kills", 6, 1).unwrap();
        told.send(cluster.bootstrap_servers()).unwrap();
        loop {
            std::thread::park();
        }
    });
    address.recv().unwrap()
}

impl Broker {
    fn any() -> Self {
        let mut cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
        if cluster.is_none() {
            let mock = std::env::var("HEADRIG_KAFKA").is_ok_and(|kind| kind == "mock");
            *cluster = Some(if mock { Cluster::Mock(mock_brokers()) } else { Cluster::Real(Real::start()) });
        }
        Self(cluster)
    }

    /// For what mock brokers cannot do.
    #[expect(clippy::print_stderr, reason = "what was not tested must be told")]
    fn real() -> Option<Self> {
        let broker = Self::any();
        if matches!(*broker.0, Some(Cluster::Mock(_))) {
            eprintln!("MISSING: Apache Kafka could not be had; this test needs it and did not run");
            return None;
        }
        Some(broker)
    }

    fn restart(&mut self) {
        let Some(Cluster::Real(real)) = &mut *self.0 else { panic!("a mock is not restarted") };
        writeln!(real.input, "restart").unwrap();
        real.until_ready();
    }

    fn address(&self, listener: &str) -> String {
        match self.0.as_ref().unwrap() {
            Cluster::Real(real) => real.addresses[listener].clone(),
            Cluster::Mock(address) => address.clone(),
        }
    }

    fn plain(&self) -> String {
        self.address("plain")
    }

    fn settings(&self) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", self.plain());
        settings
    }

    fn admin<T>(&self, work: impl AsyncFnOnce(AdminClient<DefaultClientContext>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(AdminClient::from_config(&self.settings()).unwrap()))
    }

    fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, &[]);
    }

    fn create_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        if matches!(*self.0, Some(Cluster::Mock(_))) {
            return;
        }
        self.admin(async |admin| {
            let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
            for result in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
                result.unwrap();
            }
        });
        let consumer: BaseConsumer = self.settings().create().unwrap();
        until(PATIENCE, || consumer.fetch_watermarks(topic, 0, PATIENCE).is_ok());
    }

    fn delete(&self, topic: &str) {
        self.admin(async |admin| {
            for result in admin.delete_topics(&[topic], &AdminOptions::new()).await.unwrap() {
                result.unwrap();
            }
        });
        let consumer: BaseConsumer = self.settings().create().unwrap();
        until(PATIENCE, || {
            let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
            metadata.topics()[0].error().is_some()
        });
    }

    fn producer(&self) -> ThreadedProducer<DefaultProducerContext> {
        let mut settings = self.settings();
        // Nothing may hide behind a partitioner that sticks to one partition for a while.
        settings.set("sticky.partitioning.linger.ms", "0").set("enable.idempotence", "true");
        settings.create().unwrap()
    }

    fn send(&self, topic: &str, values: &[&str]) {
        let producer = self.producer();
        for value in values {
            producer.send(BaseRecord::<(), str>::to(topic).payload(value)).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    fn generate(&self, topic: &str, events: u32) -> Command {
        let mut command = headrig();
        let url = format!("kafka://{}/{topic}", self.plain());
        command.args(["generate", "--events", &events.to_string(), "--output", &url]);
        command
    }

    /// What the partitions of a topic hold: the sum of their ends.
    fn ends(&self, topic: &str, partitions: i32) -> i64 {
        let consumer: BaseConsumer = self.settings().create().unwrap();
        (0..partitions).map(|number| consumer.fetch_watermarks(topic, number, PATIENCE).unwrap().1).sum()
    }

    /// What the group has committed: the sum over the partitions.
    fn committed(&self, group: &str, topic: &str, partitions: i32) -> i64 {
        let consumer: BaseConsumer = self.settings().set("group.id", group).create().unwrap();
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, partitions - 1);
        // The coordinator of a new group is known after a moment.
        let Ok(known) = consumer.committed_offsets(wanted, PATIENCE) else { return 0 };
        let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
        known.elements().iter().map(|element| offset(element.offset())).sum()
    }
}

fn source(brokers: &str, topic: &str, more: &str) -> String {
    format!("{{ type: kafka, brokers: \"{brokers}\", topics: [{topic}], group: g-{topic}{more} }}")
}

fn yaml(archive: &Path, source: &str) -> String {
    format!(
        "pipeline: p\nsources:\n  k: {source}\ndecode: {{ envelope: fly, schema: access }}\n\
         archive: {{ url: \"{}\", flush: {{ every: 200ms, rows: 20000 }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
        archive.display()
    )
}

fn run_once(file: &Path) -> Output {
    headrig().args(["run", "--once"]).arg(file).output().unwrap()
}

/// Rows of an archive, and request ids that stand twice; nothing where there is no file yet.
fn rows(archive: &Path) -> (u64, u64) {
    let script = "import duckdb, glob, sys\nfiles = glob.glob(sys.argv[1] + '/data/**/*.parquet', recursive=True)\n\
                  print(*(duckdb.sql(f\"select count(*), count(request_id) - count(distinct request_id) from read_parquet({files}, union_by_name=true)\").fetchone() if files else (0, 0)))";
    let output = python().args(["-c", script]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let (rows, twice) = printed.trim().split_once(' ').unwrap();
    (rows.parse().unwrap(), twice.parse().unwrap())
}

/// The messages of all rows, in order.
fn messages(archive: &Path) -> Vec<String> {
    let script = "import duckdb, sys\nfor row in duckdb.sql(f\"select message from read_parquet('{sys.argv[1]}/data/**/*.parquet') order by message\").fetchall(): print(row[0])";
    let output = python().args(["-c", script]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn six_partitions_are_in_the_archive_exactly_once_whatever_kills_headrig() {
    const EVENTS: u32 = 200_000;
    let broker = Broker::any();
    broker.create("kills", 6);
    assert!(broker.generate("kills", EVENTS).status().unwrap().success());
    let folder = temporary();
    let archive = folder.path().join("a");
    let file = pipeline(folder.path(), &yaml(&archive, &source(&broker.plain(), "kills", "")));
    // A kill may hit anything from the connection to the last seal; the pauses only have to differ.
    for pause_ms in [350, 500, 650, 800, 1_000] {
        let running = Running::start(headrig().args(["run", "--once"]).arg(&file));
        std::thread::sleep(Duration::from_millis(pause_ms));
        drop(running);
    }
    // The same as members of the group: the next one gets its partitions when the group has missed the dead one.
    for pause_ms in [100, 300] {
        let running = Running::start(headrig().args(["run"]).arg(&file));
        running.stderr_line(PATIENCE, |line| line.contains("reading Kafka partitions"));
        std::thread::sleep(Duration::from_millis(pause_ms));
        drop(running);
    }
    assert_exit(&run_once(&file), 0);
    assert_eq!(rows(&archive), (u64::from(EVENTS), 0));
    assert_exit(&run_once(&file), 0);
    assert_eq!(rows(&archive), (u64::from(EVENTS), 0), "nothing was left to do");
}

#[test]
fn a_broker_that_restarts_is_waited_for_and_the_group_learns_what_is_sealed() {
    const EVENTS: u32 = 60_000;
    let Some(mut broker) = Broker::real() else { return };
    broker.create("restart", 6);
    let folder = temporary();
    let archive = folder.path().join("a");
    let file = pipeline(folder.path(), &yaml(&archive, &source(&broker.plain(), "restart", "")));
    assert!(broker.generate("restart", EVENTS).status().unwrap().success());
    let mut running = Running::start(headrig().args(["run"]).arg(&file));
    running.stderr_line(PATIENCE, |line| line.contains("reading Kafka partitions"));
    broker.restart();
    assert!(broker.generate("restart", EVENTS).args(["--seed", "8"]).status().unwrap().success());
    // Seals without the broker are told later.
    until(PATIENCE, || broker.committed("g-restart", "restart", 6) == i64::from(2 * EVENTS));
    assert_eq!(broker.ends("restart", 6), i64::from(2 * EVENTS));
    assert_eq!(rows(&archive), (u64::from(2 * EVENTS), 0), "what is committed is sealed");
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    assert_eq!(rows(&archive), (u64::from(2 * EVENTS), 0));
}

/// Several daemons in a group, by a script with a broker of its own; it needs a process that restarts what it has killed.
fn group(scenario: &str, settings: &[(&str, &str)]) {
    // Kept, so that two brokers aren't busy at once.
    let Some(_broker) = Broker::real() else { return };
    let script = project().join("tests/servers/kafka_group.py");
    let mut command = python();
    command.arg(script).arg(scenario).env("HEADRIG", env!("CARGO_BIN_EXE_headrig")).envs(settings.iter().copied());
    let output = command.output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("\nok "), "{said}\n{}", text(&output.stderr));
}

#[test]
fn a_second_daemon_comes_and_goes_and_every_record_is_there_once() {
    group("rebalance", &[("EVENTS", "60000")]);
}

#[test]
fn two_daemons_that_are_killed_again_and_again_lose_and_double_nothing() {
    group("kills", &[("EVENTS", "200000"), ("KILLS", "6"), ("RATE", "4000")]);
}

#[test]
fn a_daemon_that_was_held_while_another_took_over_doubles_nothing() {
    group("zombie", &[("EVENTS", "60000")]);
}

/// A member is known to its group by a name, so the group gives it what it had when it starts again, and does nothing else: partitions that
/// it was giving away when it was killed would be nobody's.
#[test]
fn a_daemon_that_is_killed_while_it_gives_partitions_away_leaves_none_unread() {
    const EVENTS: u32 = 60_000;
    let Some(broker) = Broker::real() else { return };
    broker.create("giving", 6);
    let folder = temporary();
    let archive = folder.path().join("a");
    // What is given away has to be sealed first, which takes its time.
    let settings = yaml(&archive, &source(&broker.plain(), "giving", ""))
        .replace("every: 200ms, rows: 20000", "every: 30s, rows: 200000");
    let file = pipeline(folder.path(), &settings);
    let start = |name: &str| {
        let data = format!("--data-dir={}", folder.path().join(name).display());
        Running::start(headrig().args(["run", &data]).arg(&file))
    };
    let reads = |running: &Running| running.stderr_line(PATIENCE, |line| line.contains("reading Kafka partitions"));
    assert!(broker.generate("giving", EVENTS).status().unwrap().success());
    let first = start("first");
    reads(&first);
    std::thread::sleep(Duration::from_secs(1));
    let second = start("second");
    first.stderr_line(PATIENCE, |line| line.contains("partition goes to another reader"));
    drop(first);
    let first = start("first");
    let lines = [reads(&first), reads(&second)];
    for number in 0..6 {
        let partition = format!("giving/{number}");
        assert_eq!(lines.iter().filter(|line| line.contains(&partition)).count(), 1, "{partition}: {lines:?}");
    }
    assert!(broker.generate("giving", EVENTS).args(["--seed", "8"]).status().unwrap().success());
    for mut running in [first, second] {
        running.signal(Signal::TERM);
        assert_eq!(running.wait(), Some(0));
    }
    assert_exit(&run_once(&file), 0);
    assert_eq!(rows(&archive), (u64::from(2 * EVENTS), 0));
}

/// Claims everything, also what a daemon holds that has ended.
#[test]
fn a_run_to_the_end_takes_over_what_a_daemon_has_left() {
    const EVENTS: u32 = 20_000;
    let Some(broker) = Broker::real() else { return };
    broker.create("once", 6);
    assert!(broker.generate("once", EVENTS).status().unwrap().success());
    let folder = temporary();
    let archive = folder.path().join("a");
    let file = pipeline(folder.path(), &yaml(&archive, &source(&broker.plain(), "once", "")));
    let data = |name: &str| format!("--data-dir={}", folder.path().join(name).display());
    let mut running = Running::start(headrig().args(["run", &data("one")]).arg(&file));
    until(PATIENCE, || broker.committed("g-once", "once", 6) == i64::from(EVENTS));
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    assert!(broker.generate("once", EVENTS).args(["--seed", "8"]).status().unwrap().success());
    let output = headrig().args(["run", "--once", &data("two")]).arg(&file).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(rows(&archive), (u64::from(2 * EVENTS), 0));
}

/// To the end: gathered, merged and closed. The topic between is made when it isn't there, and has the partitions that are said.
#[test]
fn windows_are_shared_through_a_topic_that_is_made_and_looked_at() {
    let Some(broker) = Broker::real() else { return };
    broker.create("apart", 2);
    assert!(broker.generate("apart", 5_000).status().unwrap().success());
    let folder = temporary();
    let archive = folder.path().join("a");
    let with = |partitions: u32| {
        let windows = "windows: [{ name: w, kind: tumbling, size: 1s, aggregate: { n: count(*) } }]";
        let more = format!("{windows}\nrepartition: {{ topic: apart.windows, partitions: {partitions} }}\n");
        pipeline(folder.path(), &(yaml(&archive, &source(&broker.plain(), "apart", "")) + &more))
    };
    let check = |file: &Path| headrig().args(["check", "--connect"]).arg(file).output().unwrap();
    let is_there = || {
        let consumer: BaseConsumer = broker.settings().create().unwrap();
        let metadata = consumer.fetch_metadata(Some("apart.windows"), PATIENCE).unwrap();
        metadata.topics()[0].partitions().len()
    };
    let file = with(3);
    assert_exit(&check(&file), 0);
    assert_eq!(is_there(), 0, "a check makes nothing");
    for _ in 0..2 {
        assert_exit(&run_once(&file), 0);
        assert_eq!((is_there(), rows(&archive)), (3, (5_000, 0)));
        let script = "import duckdb, sys\nprint(*duckdb.sql(f\"select sum(n), count(*) = count(distinct window_start) from read_parquet('{sys.argv[1]}/windows/**/*.parquet')\").fetchone())";
        let output = python().args(["-c", script]).arg(&archive).output().unwrap();
        assert_eq!(text(&output.stdout).trim(), "5000 True", "{}", text(&output.stderr));
    }
    let verified = headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap();
    assert_exit(&verified, 0);
    let file = with(4);
    let said =
        ["cannot use the Kafka topic \"apart.windows\" for windows, it has 3 partitions", "says 4", "another topic"];
    let output = run_once(&file);
    assert_exit(&output, 1);
    assert_says(&output, &said);
    let output = check(&file);
    assert_exit(&output, 78);
    assert_says(&output, &[&said[..], &["pipeline.yaml:8:"]].concat());
}

#[test]
fn gaps_aborted_transactions_and_tombstones() {
    let Some(broker) = Broker::real() else { return };
    broker.create("gaps", 1);
    let mut settings = broker.settings();
    settings.set("transactional.id", "gaps");
    let producer: ThreadedProducer<DefaultProducerContext> = settings.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let transaction = |values: &[Option<&str>], commit: bool| {
        producer.begin_transaction().unwrap();
        for value in values {
            let record = BaseRecord::<str, str>::to("gaps").key("k");
            let record = match value {
                Some(value) => record.payload(value),
                None => record,
            };
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    };
    let folder = temporary();
    let archive = folder.path().join("a");
    // Partitions of one number in three topics: one ends in a gap, one in a record, one is empty.
    broker.create("gaps2", 1);
    broker.create("gaps3", 1);
    broker.send("gaps2", &["z"]);
    let plain = yaml(&archive, &source(&broker.plain(), "gaps", ""))
        .replace("[gaps]", "[gaps, gaps2, gaps3]")
        .replace("envelope: fly", "format: text");
    let file = pipeline(folder.path(), &plain);
    transaction(&[Some("a"), None, Some("b"), Some("")], true);
    transaction(&[Some("never")], false);
    assert_exit(&run_once(&file), 0);
    assert_eq!(messages(&archive), ["a", "b", "z"], "it ends although the last offsets are no records");
    transaction(&[Some("never either")], false);
    transaction(&[Some("c"), None], true);
    for _ in 0..2 {
        assert_exit(&run_once(&file), 0);
        assert_eq!(messages(&archive), ["a", "b", "c", "z"]);
    }
}

/// The broker compresses what comes as the topic says.
#[test]
fn compressed_topics_are_read() {
    let Some(broker) = Broker::real() else { return };
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        broker.create_with(compression, 1, &[("compression.type", compression)]);
        broker.send(compression, &["one", "two"]);
        let folder = temporary();
        let archive = folder.path().join("a");
        let lines = yaml(&archive, &source(&broker.plain(), compression, "")).replace("envelope: fly", "format: text");
        assert_exit(&run_once(&pipeline(folder.path(), &lines)), 0);
        assert_eq!(messages(&archive), ["one", "two"], "{compression}");
    }
}

#[test]
fn a_topic_that_was_made_anew_is_refused() {
    let Some(broker) = Broker::real() else { return };
    broker.create("anew", 1);
    broker.send("anew", &["one", "two", "three"]);
    let folder = temporary();
    let archive = folder.path().join("a");
    let text_lines = yaml(&archive, &source(&broker.plain(), "anew", "")).replace("envelope: fly", "format: text");
    let file = pipeline(folder.path(), &text_lines);
    assert_exit(&run_once(&file), 0);
    broker.delete("anew");
    broker.create("anew", 1);
    broker.send("anew", &["four"]);
    let output = run_once(&file);
    assert_exit(&output, 1);
    assert_says(
        &output,
        &["cannot go on reading anew/0 at offset 3, it ends at offset 1", "made anew", "another name"],
    );
    assert_eq!(messages(&archive), ["one", "three", "two"]);
    // What the hint says helps.
    let file = pipeline(folder.path(), &text_lines.replace("  k:", "  k2:"));
    assert_exit(&run_once(&file), 0);
    assert_eq!(messages(&archive), ["four", "one", "three", "two"]);
}

#[track_caller]
fn assert_says(output: &Output, parts: &[&str]) {
    let said = text(&output.stderr);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked") && !said.contains("secret"), "{said}");
}

#[test]
fn a_wrong_setting_is_named() {
    let Some(broker) = Broker::real() else { return };
    broker.create("settings", 1);
    broker.send("settings", &["one"]);
    let (plain, sasl, tls) = (broker.plain(), broker.address("sasl"), broker.address("tls"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let login = |mechanism: &str, password: &str| {
        format!(", sasl: {{ mechanism: {mechanism}, username: headrig, password: {password} }}")
    };
    let ca = |path: &str| format!(", tls: {{ ca: \"{path}\" }}");
    let good_ca = ca(&broker.address("ca"));
    let good = login("SCRAM-SHA-512", "secret");
    let other_ca = temporary();
    let other_path = other_ca.path().join("other.pem");
    make_certificate(&other_path);
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        ("nosuchhost.invalid:9092", String::new(), vec!["cannot reach", "nosuchhost.invalid:9092", "resolve"]),
        ("PORT", String::new(), vec!["cannot reach", "refused"]),
        (&sasl, String::new(), vec!["cannot reach", "hint: see that host and port", "`sasl`"]),
        (&sasl, login("SCRAM-SHA-512", "wrong"), vec!["cannot log in", "SCRAM-SHA-512", "hint: see `sasl`"]),
        (&sasl, login("PLAIN", "wrong"), vec!["cannot log in", "hint: see `sasl`"]),
        (&plain, good.clone(), vec!["cannot", "hint:"]),
        // Whether librdkafka says "PLAINTEXT" or "closed by peer" is a matter of which end is faster.
        (&plain, good_ca.clone(), vec!["cannot reach", "ssl://", "hint: see that host and port"]),
        (
            &tls,
            format!("{good}{}", ca(other_path.to_str().unwrap())),
            vec!["cannot make a TLS connection", "certificate"],
        ),
        (&tls, format!("{good}{}", ca("/nosuch.pem")), vec!["cannot make a Kafka client", "ssl.ca.location", "hint:"]),
        ("NAME", format!("{good}{good_ca}"), vec!["cannot make a TLS connection", "hint: see `tls.ca`"]),
    ];
    let folder = temporary();
    let run = |brokers: &str, topic: &str, more: &str| {
        let archive = folder.path().join("a");
        let lines = yaml(&archive, &source(brokers, topic, more)).replace("envelope: fly", "format: text");
        run_once(&pipeline(folder.path(), &lines))
    };
    for (brokers, more, parts) in cases {
        // The certificate is for `localhost`.
        let brokers = brokers
            .replace("PORT", &format!("127.0.0.1:{port}"))
            .replace("NAME", &tls.replace("localhost", "127.0.0.1"));
        let output = run(&brokers, "settings", &more);
        assert_exit(&output, 1);
        assert_says(&output, &parts);
        // The check says the same, with the place of `brokers`.
        let checked = headrig().args(["check", "--connect"]).arg(folder.path().join("pipeline.yaml")).output().unwrap();
        assert_exit(&checked, 78);
        assert_says(&checked, &[parts, vec!["pipeline.yaml:3:"]].concat());
    }
    let output = run(&plain, "setting", "");
    assert_exit(&output, 1);
    assert_says(&output, &["cannot find the Kafka topic \"setting\"", "did you mean `settings`?"]);
    // And all the right ones work.
    for (brokers, more) in [
        (&sasl, login("PLAIN", "secret")),
        (&sasl, login("SCRAM-SHA-256", "secret")),
        (&sasl, good.clone()),
        (&tls, format!("{good}{good_ca}")),
    ] {
        assert_exit(&run(brokers, "settings", &more), 0);
        assert_eq!(messages(&folder.path().join("a")), ["one"]);
    }
}

/// A certificate that has signed nothing.
fn make_certificate(path: &Path) {
    let store = path.with_extension("p12");
    let run = |arguments: &[&str]| {
        let output = Command::new("keytool").args(arguments).arg("-keystore").arg(&store).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    let common = ["-alias", "other", "-storepass", "changeit"];
    run(&[&["-genkeypair", "-keyalg", "RSA", "-dname", "CN=other", "-storetype", "PKCS12"][..], &common[..]].concat());
    std::fs::write(path, run(&[&["-exportcert", "-rfc"][..], &common[..]].concat())).unwrap();
}
