//! An archive in a bucket of a real S3-compatible server, MinIO: each record once through kills of headrig and of the server.

use crate::harness::{Running, assert_exit, headrig, pipeline, project, temporary, text, until};
use rustix::process::Signal;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is killed with the test, by its process id.
pub struct Minio {
    child: Child,
    pub port: u16,
    /// Where it keeps its buckets.
    pub folder: PathBuf,
    /// The authority that signed its certificate, where it has one.
    ca: Option<PathBuf>,
}

impl Minio {
    /// `None` where MinIO could not be built, which tests/run.sh says in its last lines.
    pub fn start(folder: &Path) -> Option<Self> {
        Self::start_with(folder, false)
    }

    fn start_with(folder: &Path, tls: bool) -> Option<Self> {
        if std::env::var("HEADRIG_MINIO").is_ok_and(|way| way == "none") {
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ca = tls.then(|| certify(&folder.join("certs")));
        let folder = folder.join("minio");
        let child = spawn(port, &folder, ca.as_deref());
        Some(Self { child, port, folder, ca })
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder, self.ca.as_deref());
    }

    fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.ca.is_some() { "https" } else { "http" }, self.port)
    }

    /// headrig with this server in its environment.
    pub fn headrig(&self) -> Command {
        let mut command = headrig();
        command.env("AWS_ENDPOINT", self.endpoint()).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_ACCESS_KEY_ID", "headrig").env("AWS_SECRET_ACCESS_KEY", "headrig-secret");
        command.env("AWS_REGION", "us-east-1");
        command
    }

    pub fn make_bucket(&self, name: &str) {
        until(PATIENCE, || self.curl(&["-X", "PUT"], name).status.success());
    }

    /// The object under a key of the bucket `logs`, whole.
    pub fn object(&self, key: &str) -> Vec<u8> {
        let got = self.curl(&[], &format!("logs/{}", key.replace('=', "%3D")));
        assert_exit(&got, 0);
        got.stdout
    }

    /// A signed request.
    fn curl(&self, options: &[&str], path: &str) -> Output {
        let mut command = Command::new("curl");
        command.args(["-sf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "headrig:headrig-secret"]);
        if let Some(ca) = &self.ca {
            command.arg("--cacert").arg(ca);
        }
        command.args(options).arg(format!("{}/{path}", self.endpoint())).output().unwrap()
    }
}

/// An authority, and a certificate of it for the server; returns the authority's.
fn certify(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let openssl = |arguments: &str| {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert_exit(&made, 0);
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("{new} -keyout ca.key -out ca.pem -subj /CN=headrig-tests"));
    openssl(&format!("{new} -keyout other.key -out other.pem -subj /CN=somebody-else"));
    openssl(&format!(
        "{new} -CA ca.pem -CAkey ca.key -keyout private.key -out public.crt -subj /CN=minio \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    ));
    folder.join("ca.pem")
}

fn spawn(port: u16, folder: &Path, ca: Option<&Path>) -> Child {
    let mut command = Command::new(project().join("tests/servers/minio.sh"));
    command
        .arg(port.to_string())
        .arg(folder)
        .args(ca.and_then(Path::parent))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(child.try_wait().unwrap().is_none(), "MinIO is missing or doesn't start");
    child
}

impl Drop for Minio {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn prepare(folder: &Path, url: &str) -> PathBuf {
    pipeline(
        folder,
        &format!(
            "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}/in.ndjson\"] }} }}\n\
             decode: {{ envelope: fly, schema: access }}\n\
             windows:\n  - {{ name: w, kind: tumbling, size: 10s, group_by: [path], aggregate: {{ n: count(*) }} }}\n\
             archive: {{ url: \"{url}\", flush: {{ rows: 5000 }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            folder.display()
        ),
    )
}

fn says(output: &Output, parts: &[&str]) {
    let said = text(&output.stderr);
    parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
}

#[test]
fn each_record_is_in_the_bucket_once_whatever_is_killed() {
    let folder = temporary();
    let Some(mut minio) = Minio::start(folder.path()) else { return };
    minio.make_bucket("logs");
    let generate = ["generate", "--events", "150000", "--output"];
    assert_exit(&headrig().args(generate).arg(folder.path().join("in.ndjson")).output().unwrap(), 0);
    let file = prepare(folder.path(), "s3://logs/app");
    let run = || {
        let mut command = minio.headrig();
        command.args(["run", "--once", "--data-dir"]).arg(folder.path().join("data")).arg(&file);
        command
    };
    for pause_ms in [150, 400, 250, 600, 330, 510] {
        let running = Running::start(&mut run());
        std::thread::sleep(Duration::from_millis(pause_ms));
        running.signal(Signal::KILL);
        drop(running);
    }
    // A server that goes away for a moment is waited for.
    let mut running = Running::start(&mut run());
    std::thread::sleep(Duration::from_millis(300));
    minio.kill();
    minio.start_again();
    assert_eq!(running.wait(), Some(0));
    let verified = minio.headrig().args(["verify", "--deep", "--format", "json", "s3://logs/app"]).output().unwrap();
    assert_exit(&verified, 0);
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["pipelines"][0]["records"], 150_000, "{report}");
    let rows = &report["pipelines"][0]["rows"];
    assert_eq!(rows["data"].as_u64().unwrap() + rows["dead"].as_u64().unwrap_or(0), 150_000, "{report}");
}

/// Longer than a request is tried again by itself: sources are held back, and the daemon says so.
#[test]
fn an_outage_of_the_store_is_waited_for() {
    let folder = temporary();
    let Some(mut minio) = Minio::start(folder.path()) else { return };
    minio.make_bucket("logs");
    let input = folder.path().join("in.ndjson");
    let generate = |events: &str| headrig().args(["generate", "--events", events]).output().unwrap().stdout;
    fs::write(&input, generate("20000")).unwrap();
    let file = prepare(folder.path(), "s3://logs/app");
    let following = fs::read_to_string(&file).unwrap().replace("in.ndjson\"]", "in.ndjson\"], follow: true");
    fs::write(&file, following.replace("rows: 5000", "every: 300ms")).unwrap();
    let records = |minio: &Minio| {
        let verified =
            minio.headrig().args(["verify", "--deep", "--format", "json", "s3://logs/app"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap_or_default();
        (verified.status.code(), report["pipelines"][0]["records"].as_u64())
    };
    let data = format!("--data-dir={}", folder.path().join("data").display());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut running = Running::start(minio.headrig().args(["run", &data]).arg(&file).env("HEADRIG_LISTEN", &address));
    until(PATIENCE, || records(&minio).1 == Some(20_000));
    minio.kill();
    let mut more = fs::OpenOptions::new().append(true).open(&input).unwrap();
    std::io::Write::write_all(&mut more, &generate("40000")[generate("20000").len()..]).unwrap();
    let told = running.stderr_line(PATIENCE, |line| line.contains("takes nothing for now"));
    assert!(told.contains("see that the store can be reached") && told.contains("\"level\":\"WARN\""), "{told}");
    let ready = || Command::new("curl").args(["-s", &format!("http://{address}/readyz")]).output().unwrap().stdout;
    assert!(text(&ready()).starts_with("not ready: pipeline p: the archive waits: cannot"), "{}", text(&ready()));
    minio.start_again();
    running.stderr_line(PATIENCE, |line| line.contains("done waiting"));
    until(PATIENCE, || records(&minio).1 == Some(40_000));
    assert_eq!(text(&ready()), "ready\n");
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    assert_eq!(records(&minio), (Some(0), Some(40_000)));
}

#[test]
fn what_is_wrong_with_a_bucket_is_told() {
    let folder = temporary();
    let Some(minio) = Minio::start(folder.path()) else { return };
    minio.make_bucket("logs");
    fs::write(folder.path().join("in.ndjson"), "").unwrap();
    let check = |url: &str, more: &[(&str, &str)]| {
        let file = prepare(folder.path(), url);
        minio.headrig().args(["check", "--connect"]).arg(file).envs(more.iter().copied()).output().unwrap()
    };
    let missing = check("s3://nowhere/app", &[]);
    assert_exit(&missing, 78);
    says(&missing, &["pipeline.yaml:6:", "cannot list s3://nowhere/app/_headrig", "hint: see that the bucket"]);
    let login = check("s3://logs/app", &[("AWS_SECRET_ACCESS_KEY", "wrong")]);
    assert_exit(&login, 78);
    says(&login, &["cannot list", "hint: see the credentials"]);
    assert_exit(&check("s3://logs/app", &[]), 0);
    let nothing = minio.headrig().args(["verify", "s3://logs/app"]).output().unwrap();
    assert_exit(&nothing, 1);
    says(&nothing, &["cannot find an archive in s3://logs/app"]);
}

/// Settings in the file are enough, and secrets among them are told to nobody.
#[test]
fn a_store_with_a_certificate_of_its_own_is_reached_by_the_settings_in_the_file() {
    let folder = temporary();
    let Some(minio) = Minio::start_with(folder.path(), true) else { return };
    minio.make_bucket("logs");
    assert_exit(
        &headrig()
            .args(["generate", "--events", "3000", "--output"])
            .arg(folder.path().join("in.ndjson"))
            .output()
            .unwrap(),
        0,
    );
    let certs = folder.path().join("certs");
    let run = |ca: &str, more: &str| {
        let file = prepare(folder.path(), "s3://logs/app");
        let store = format!("store: {{ endpoint: \"{}\", region: us-east-1, {ca}{more} }}, flush", minio.endpoint());
        fs::write(&file, fs::read_to_string(&file).unwrap().replace("flush", &store)).unwrap();
        let mut command = headrig();
        command.args(["run", "--once", "--data-dir"]).arg(folder.path().join("data")).arg(&file);
        // What is in the environment gives way.
        command.env("HEADRIG_LOG", "trace").env("AWS_ACCESS_KEY_ID", "nobody").env("AWS_SECRET_ACCESS_KEY", "nothing");
        command.env("KEY", "headrig-secret");
        command
    };
    let keys = "access_key_id: headrig, secret_access_key: \"${KEY}\"";
    let ca = |name: &str| format!("ca: \"{}\", ", certs.join(name).display());
    let wrong = run(&ca("other.pem"), keys).output().unwrap();
    assert_exit(&wrong, 1);
    says(
        &wrong,
        &["invalid peer certificate: UnknownIssuer", "trust the authority that signed the store's certificate"],
    );
    let none = run(&ca("nowhere.pem"), keys).output().unwrap();
    assert_exit(&none, 1);
    says(&none, &["cannot use the certificates in ", "nowhere.pem: No such file", "archive.store.ca"]);
    let right = run(&ca("ca.pem"), keys).output().unwrap();
    assert_exit(&right, 0);
    for output in [&wrong, &right] {
        assert!(!text(&output.stderr).contains("headrig-secret"), "{}", text(&output.stderr));
    }
    // What has no pipeline file has the environment: a profile, and the authority's certificate.
    let aws = folder.path().join("credentials");
    fs::write(
        &aws,
        "[tests]\naws_access_key_id = headrig\naws_secret_access_key = headrig-secret\nregion = us-east-1\n",
    )
    .unwrap();
    let verify = |profile: &str| {
        let mut command = headrig();
        command.args(["verify", "--deep", "s3://logs/app"]).env("AWS_CA_BUNDLE", certs.join("ca.pem"));
        command.env("AWS_ENDPOINT_URL", minio.endpoint()).env("AWS_SHARED_CREDENTIALS_FILE", &aws);
        command.env("AWS_PROFILE", profile).output().unwrap()
    };
    assert_exit(&verify("tests"), 0);
    let unknown = verify("test");
    assert_exit(&unknown, 1);
    says(&unknown, &["cannot find the AWS profile \"test\"", "did you mean `tests`?"]);
    // A profile that the file names, and its keys, come before those in the environment.
    let profile = run(&ca("ca.pem"), "profile: tests").env("AWS_SHARED_CREDENTIALS_FILE", &aws).output().unwrap();
    assert_exit(&profile, 0);
}

/// All keys below a prefix of the bucket `logs`.
pub fn keys(minio: &Minio, prefix: &str) -> Vec<String> {
    // curl signs a query as it is written, and the signature is of the encoded one.
    let listing = minio.curl(&[], &format!("logs?list-type=2&prefix={}", prefix.replace('/', "%2F")));
    assert_exit(&listing, 0);
    let listing = text(&listing.stdout);
    listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next().map(str::to_owned)).collect()
}

/// Whether a file goes up in parts just now: MinIO keeps them aside in its folder.
fn is_going_up(minio: &Minio) -> bool {
    let parts = format!("{}/.minio.sys/multipart/**/part.*", minio.folder.display());
    glob::glob(&parts).unwrap().next().is_some()
}

/// A file of several parts is there when all of them are, and what was left of it goes with the next seal.
#[test]
fn a_kill_in_the_middle_of_an_upload_leaves_no_object() {
    let folder = temporary();
    let Some(minio) = Minio::start(folder.path()) else { return };
    minio.make_bucket("logs");
    // Texts that nothing packs: one line is as large as it gets, and all make a file of some ten parts.
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 40) as usize % 64])
    };
    let line = |random: &mut dyn FnMut() -> char| (0..1_000_000).map(|_| random()).chain(['\n']).collect::<String>();
    let input: String = (0..110).map(|_| line(&mut random)).collect();
    fs::write(folder.path().join("in.ndjson"), input).unwrap();
    let file = prepare(folder.path(), "s3://logs/app");
    let text_lines = fs::read_to_string(&file).unwrap().replace("envelope: fly", "envelope: none, format: text");
    fs::write(&file, text_lines.replace("rows: 5000", "rows: 5000, bytes: 1GB")).unwrap();
    let run = || {
        let mut command = minio.headrig();
        command.args(["run", "--once", "--data-dir"]).arg(folder.path().join("data")).arg(&file);
        command
    };
    let mut running = Running::start(&mut run());
    until(PATIENCE, || is_going_up(&minio));
    // The server stands still, so that nothing ends meanwhile.
    let server = rustix::process::Pid::from_child(&minio.child);
    rustix::process::kill_process(server, Signal::STOP).unwrap();
    running.signal(Signal::KILL);
    running.wait();
    rustix::process::kill_process(server, Signal::CONT).unwrap();
    assert!(is_going_up(&minio), "the upload had ended before the kill: make the input larger");
    assert_eq!(keys(&minio, "app/"), Vec::<String>::new());
    // What a writer leaves that was killed behind the upload.
    let stray = "logs/app/_headrig/p/staging/main/7-2026-000000000001-0.parquet";
    assert!(minio.curl(&["-X", "PUT"], stray).status.success());
    assert_eq!(keys(&minio, "app/"), [stray.trim_start_matches("logs/")]);
    assert_exit(&run().output().unwrap(), 0);
    assert_eq!(keys(&minio, "app/_headrig/p/staging/"), Vec::<String>::new());
    assert_eq!(keys(&minio, "app/data/").len(), 1);
    assert_exit(&minio.headrig().args(["verify", "--deep", "s3://logs/app"]).output().unwrap(), 0);
}
