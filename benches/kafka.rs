//! headrig from a local Kafka to sealed Parquet, beside a bare librdkafka loop that throws the records away.
//!
//!   cargo bench --bench kafka             starts a broker by `tests/servers/kafka.sh`; `EVENTS`, `ROUNDS` change the size
//!
//! Both read the same topic of six partitions, turn by turn in one run, each as a process of its own: what is
//! compared is the whole of it, start and connection included.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops and says so")]

use headrig::limits::{KAFKA_FETCH_BYTES, KAFKA_PREFETCH_BYTES};
use parquet::file::reader::{FileReader, SerializedFileReader};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PARTITIONS: i32 = 6;
const TOPIC: &str = "bench";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("bare") => bare(&arguments[2], arguments[3].parse().unwrap()),
        // `cargo test --benches` only wants to know that it starts.
        Some("--test") => {}
        _ => compare(),
    }
}

/// Reads `events` records and forgets them.
fn bare(brokers: &str, events: u64) {
    // As headrig fetches. With librdkafka's own settings the loop sleeps up to a second whenever its queue was full, and
    // headrig would look fast beside it.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", (KAFKA_PREFETCH_BYTES >> 10).to_string())
        .set("fetch.max.bytes", KAFKA_FETCH_BYTES.to_string())
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for number in 0..PARTITIONS {
        all.add_partition_offset(TOPIC, number, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut seen = 0;
    while seen < events {
        match consumer.poll(Duration::from_secs(30)) {
            Some(message) => drop(message.unwrap()),
            None => panic!("only {seen} records came"),
        }
        seen += 1;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn compare() {
    let (events, rounds) = (setting("EVENTS", 500_000), setting("ROUNDS", 5));
    let folder = tempfile::tempdir().unwrap();
    let mut script = Command::new("tests/servers/kafka.sh")
        .arg("serve")
        .arg(folder.path().join("kafka"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let brokers = line.split_whitespace().find_map(|word| word.strip_prefix("plain=")).unwrap().to_owned();
    create(&brokers);
    let headrig = env!("CARGO_BIN_EXE_headrig");
    let made = Command::new(headrig)
        .args(["generate", "--events", &events.to_string(), "--output", &format!("kafka://{brokers}/{TOPIC}")])
        .status();
    assert!(made.unwrap().success());
    let archive = folder.path().join("archive");
    let pipeline = folder.path().join("pipeline.yaml");
    let yaml = format!(
        "pipeline: bench\nsources:\n  k: {{ type: kafka, brokers: \"{brokers}\", topics: [{TOPIC}], group: bench }}\n\
         decode: {{ envelope: fly, schema: access }}\narchive: {{ url: \"{}\" }}\nserver: {{ listen: 127.0.0.1:0 }}\n",
        archive.display()
    );
    std::fs::write(&pipeline, yaml).unwrap();
    let own = std::env::current_exe().unwrap();
    println!("{events} records, {PARTITIONS} partitions; seconds, CPU seconds, peak MB");
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let loop_alone = timed(Command::new("/usr/bin/time").args(["-f", "%e %U %S %M"]).arg(&own).args([
            "bare",
            &brokers,
            &events.to_string(),
        ]));
        let sealed =
            timed(Command::new("/usr/bin/time").args(["-f", "%e %U %S %M", headrig, "run", "--once"]).arg(&pipeline));
        assert_eq!(sealed_rows(&archive), events as i64, "what is timed is all of it");
        std::fs::remove_dir_all(&archive).unwrap();
        println!(
            "bare {loop_alone:?}   headrig {sealed:?}   rate of headrig / rate of bare {:.2}",
            loop_alone.0 / sealed.0
        );
        ratios.push(loop_alone.0 / sealed.0);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ratios.len() / 2]);
    drop(script.stdin.take());
    script.wait().unwrap();
}

fn sealed_rows(archive: &Path) -> i64 {
    let files = glob::glob(&format!("{}/data/**/*.parquet", archive.display())).unwrap();
    let rows =
        |path| SerializedFileReader::new(File::open(path).unwrap()).unwrap().metadata().file_metadata().num_rows();
    files.map(|path| rows(path.unwrap())).sum()
}

fn create(brokers: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
}

/// Elapsed seconds, CPU seconds, peak megabytes.
fn timed(command: &mut Command) -> (f64, f64, f64) {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let numbers: Vec<f64> = said.lines().last().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[1] + numbers[2], numbers[3] / 1_000.0)
}
