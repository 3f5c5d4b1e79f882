//! A real nats-server, and pipelines that read from it.

use crate::harness::{Running, assert_exit, duckdb, headrig, pipeline, project, python, text, until};
use headrig::source::nats::{Login, Server, Taken};
use rustix::process::Signal;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A nats-server that is killed with the test, by its process id.
pub struct Nats {
    child: Child,
    pub port: u16,
    folder: PathBuf,
    options: Vec<String>,
}

impl Nats {
    pub fn start(folder: &Path, options: &[String]) -> Self {
        Self::start_at(free_port(), folder, options)
    }

    pub fn start_at(port: u16, folder: &Path, options: &[String]) -> Self {
        let folder = folder.join("jetstream");
        let child = spawn(port, &folder, options);
        Self { child, port, folder, options: options.to_vec() }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.options);
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Asks for `subject` and returns the answer.
    pub fn ask(&self, subject: &str, body: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let login = Login { user: None, password: None, token: None, creds: None, tls: None };
        runtime.block_on(async {
            let mut connection = Server::new(&self.url(), login).unwrap().connect("test").await.unwrap();
            connection.subscribe("_INBOX.test", None, 1);
            connection.publish(subject, Some("_INBOX.test"), &[], body.as_bytes());
            connection.flush().await.unwrap();
            loop {
                match connection.take().unwrap() {
                    Taken::Message(message) => return String::from_utf8(message.payload.to_vec()).unwrap(),
                    Taken::Nothing => connection.fill().await.unwrap(),
                    _ => {}
                }
            }
        })
    }

    /// As [`Self::ask`], for what must not be refused.
    #[track_caller]
    pub fn ask_well(&self, subject: &str, body: &str) -> String {
        let answer = self.ask(subject, body);
        assert!(!answer.contains("\"error\""), "{subject}: {answer}");
        answer
    }

    pub fn make_stream(&self) {
        self.make_stream_of("limits");
    }

    pub fn make_stream_of(&self, retention: &str) {
        let stream = format!(
            "{{\"name\":\"LOGS\",\"subjects\":[\"logs.>\"],\"storage\":\"file\",\"retention\":\"{retention}\"}}"
        );
        self.ask_well("$JS.API.STREAM.CREATE.LOGS", &stream);
    }

    /// How many messages the stream holds.
    pub fn messages(&self) -> u64 {
        let info: serde_json::Value = serde_json::from_str(&self.ask_well("$JS.API.STREAM.INFO.LOGS", "")).unwrap();
        info["state"]["messages"].as_u64().unwrap()
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, folder: &Path, options: &[String]) -> Child {
    let mut command = Command::new(project().join("tests/servers/nats.sh"));
    command.arg(port.to_string()).arg(folder).args(options).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(child.try_wait().unwrap().is_none(), "nats-server is missing or doesn't start");
    child
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a pipeline for `source`, whose archive and data lie there, too.
pub fn prepare(folder: &Path, name: &str, source: &str, flush: &str) -> PathBuf {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    let archive = folder.join("archive");
    pipeline(
        &folder,
        &format!(
            "pipeline: p\nsources:\n  s: {source}\ndecode: {{ envelope: fly, schema: access }}\narchive: {{ url: \"{}\", \
             flush: {{ every: {flush} }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            archive.display()
        ),
    )
}

pub fn run(file: &Path) -> Command {
    let mut command = headrig();
    command.arg("run").arg(file).env("HEADRIG_DATA_DIR", file.parent().unwrap().join("data"));
    command
}

/// Starts headrig and waits until it listens.
pub fn listening(file: &Path) -> Running {
    let running = Running::start(&mut run(file));
    running.stderr_line(PATIENCE, |line| line.contains("connected to NATS"));
    running
}

pub fn generate(events: u32, seed: u32, output: &str) {
    let (events, seed) = (events.to_string(), seed.to_string());
    let arguments = ["generate", "--events", &events, "--seed", &seed, "--output", output];
    assert_exit(&headrig().args(arguments).output().unwrap(), 0);
}

/// The archive that the same lines give when they are read from files.
pub fn truth(folder: &Path, parts: &[(u32, u32)]) -> PathBuf {
    for (events, seed) in parts {
        generate(*events, *seed, &folder.join(format!("{seed}.ndjson")).display().to_string());
    }
    let source = format!("{{ type: file, paths: [\"{}/*.ndjson\"] }}", folder.display());
    let file = prepare(folder, "truth", &source, "1h");
    assert_exit(&run(&file).arg("--once").output().unwrap(), 0);
    file.with_file_name("archive")
}

#[track_caller]
pub fn assert_same(archive: &Path, truth: &Path, records: u32) {
    let told = duckdb("same.py", &[archive, truth, Path::new(&records.to_string())]);
    assert!(!told.is_empty(), "the comparison says what it compared");
}

/// Records in an archive, rows and dead letters; whatever a reader sees while headrig is at work.
pub fn records(archive: &Path) -> u32 {
    let count = "import duckdb, glob, sys\ntotal = 0\nfor kind in ('data', 'dead'):\n    \
                 files = glob.glob(f'{sys.argv[1]}/{kind}/**/*.parquet', recursive=True)\n    \
                 total += duckdb.sql(f'select count(*) from read_parquet({files})').fetchone()[0] if files else 0\nprint(total)";
    let output = python().args(["-c", count]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().parse().unwrap()
}

pub fn end(mut running: Running) {
    running.signal(Signal::TERM);
    let code = running.wait();
    assert_eq!(code, Some(0), "{}", running.all_stderr().join("\n"));
}

/// Pauses of 200 to 999 ms, the same each time.
pub fn pauses(count: u64) -> impl Iterator<Item = Duration> {
    (1..=count).map(|turn| Duration::from_millis(200 + turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 800))
}
