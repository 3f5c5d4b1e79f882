//! Starting the program, and looking at what it left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the project, sorted.
pub fn rust_files(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&project().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "{folder} has no Rust files");
    found
}

/// The program, in the project's folder, listening on a free port.
pub fn headrig() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headrig"));
    command.current_dir(project()).env("HEADRIG_LISTEN", "127.0.0.1:0").env_remove("HEADRIG_LOG");
    command
}

/// A folder that vanishes with the test.
pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// Writes a pipeline file and returns its path.
pub fn pipeline(folder: &Path, yaml: &str) -> PathBuf {
    let path = folder.join("pipeline.yaml");
    fs::write(&path, yaml).unwrap();
    path
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts an exit code and shows what the program said otherwise.
#[track_caller]
pub fn assert_exit(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{}\nstderr:\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// The Python that `tests/run.sh` has set up with DuckDB.
pub fn python() -> Command {
    let python = std::env::var("HEADRIG_PYTHON").unwrap_or_else(|_| {
        let path = project().join("target/python/bin/python");
        assert!(path.exists(), "no Python with DuckDB: start the tests by tests/run.sh, or set HEADRIG_PYTHON");
        path.display().to_string()
    });
    let mut command = Command::new(python);
    command.current_dir(project());
    command
}

/// Runs a script of `tests/duckdb` and asserts that it succeeds; returns what it printed.
#[track_caller]
pub fn duckdb(script: &str, arguments: &[&Path]) -> String {
    let output = python().arg(project().join("tests/duckdb").join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}:\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A disk of its own that is soon full: a tmpfs, which goes with it.
pub struct SmallDisk(pub tempfile::TempDir);

impl SmallDisk {
    /// `None` where nobody may mount, which is told: `untried` is what was not tried then.
    #[expect(clippy::print_stderr, reason = "what was not tested must be told")]
    pub fn mount(size: &str, untried: &str) -> Option<Self> {
        let disk = Self(temporary());
        if disk.apply(&format!("size={size}")) {
            return Some(disk);
        }
        eprintln!("MISSING: a full disk needs the right to mount a tmpfs; {untried} was not tried");
        None
    }

    /// Gives it another size.
    pub fn resize(&self, size: &str) {
        assert!(self.apply(&format!("remount,size={size}")), "what is mounted can be resized");
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn apply(&self, options: &str) -> bool {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.path()).status();
        mounted.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// A running program that is ended with the test, by its process id.
pub struct Running {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin is taken once")
    }

    /// The next line on stdout that `wanted` accepts. Fails after `patience`.
    #[track_caller]
    pub fn stdout_line(&self, patience: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.stdout.recv_timeout(patience) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => {
                    let said: Vec<String> = self.stderr.try_iter().collect();
                    panic!(
                        "the line didn't come ({error}); stdout:\n{}\nstderr:\n{}",
                        seen.join("\n"),
                        said.join("\n")
                    );
                }
            }
        }
    }

    /// The next line on stderr that `wanted` accepts. Fails after `patience` without a line.
    #[track_caller]
    pub fn stderr_line(&self, patience: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.stderr.recv_timeout(patience) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("the line didn't come ({error}); stderr:\n{}", seen.join("\n")),
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// What came on stdout and was not looked at yet, until its end.
    pub fn all_stdout(&self) -> Vec<String> {
        self.stdout.iter().collect()
    }

    /// The same of stderr.
    pub fn all_stderr(&self) -> Vec<String> {
        self.stderr.iter().collect()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended; a process that nobody has waited for is a zombie.
    pub fn has_ended(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        status.is_ok_and(|status| status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    }

    /// Waits for the end and returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(100_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Waits until `condition` holds. Fails after `patience`.
#[track_caller]
pub fn until(patience: Duration, condition: impl Fn() -> bool) {
    let step = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    while !condition() {
        assert!(waited < patience, "it didn't come true within {patience:?}");
        std::thread::sleep(step);
        waited += step;
    }
}
