//! Receivers of alerts: a real Alertmanager (Debian's), and HTTP servers that fail, hang and limit.

use crate::harness::{Running, assert_exit, headrig, pipeline, temporary, text, until};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a server does with a request.
enum Answer {
    Status(u16, &'static str),
    /// Takes it and says nothing.
    Silence,
}

/// The bodies that were answered with 2xx, in order.
type Taken = Arc<Mutex<Vec<Value>>>;

/// An HTTP server that answers its n-th request as `answer` says, for as long as the test runs.
fn serve(answer: impl Fn(usize) -> Answer + Send + 'static) -> (String, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let taken = Taken::default();
    let kept = Arc::clone(&taken);
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let Some(body) = read(&stream) else { continue };
            match answer(number) {
                Answer::Silence => silent.push(stream),
                Answer::Status(status, headers) => {
                    if status / 100 == 2 {
                        kept.lock().unwrap().push(body);
                    }
                    let answer =
                        format!("HTTP/1.1 {status} x\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n");
                    // Who has gone meanwhile asks again.
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        }
    });
    (url, taken)
}

fn read(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        } else if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// 400 seconds of requests with an incident: two paths fire, and one of them once more.
fn input(folder: &Path) -> Vec<u8> {
    let path = folder.join("all.ndjson");
    let generate = ["generate", "--events", "40000", "--rate", "100", "--seed", "5", "--incident", "--output"];
    assert_exit(&headrig().args(generate).arg(&path).output().unwrap(), 0);
    fs::read(path).unwrap()
}

fn lines(input: &[u8], from: usize, to: usize) -> Vec<u8> {
    input.split_inclusive(|byte| *byte == b'\n').skip(from).take(to - from).flatten().copied().collect()
}

fn rules(folder: &Path, notify: &str) -> String {
    format!(
        r#"
pipeline: p
sources: {{ in: {{ type: file, paths: ["{home}/grows.ndjson"], follow: true }} }}
decode: {{ envelope: fly, schema: access }}
windows:
  - {{ name: route_10s, kind: tumbling, size: 10s, lateness: 5s, where: status is not null, group_by: [path],
      aggregate: {{ requests: count(*), errors: count(*) filter (where status >= 500) }}, derive: {{ error_rate: errors / requests }} }}
alerts:
  - {{ alert: Errors, on: route_10s, when: error_rate > 0.2 and requests > 5, for: 10s, keep_firing_for: 30s,
      labels: {{ severity: P0 }}, annotations: {{ summary: "{{{{ $labels.path }}}} fails" }} }}
archive: {{ url: "{home}/archive", flush: {{ every: 300ms }} }}
notify: {notify}
server: {{ listen: "${{HEADRIG_LISTEN}}" }}
"#,
        home = folder.display()
    )
}

/// The program on an address of its own.
fn start(file: &Path) -> (Running, String) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    (Running::start(headrig().arg("run").arg(file).env("HEADRIG_LISTEN", &address)), address)
}

/// The body of a 200, parts of a chunked one in a row.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

fn append(folder: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("grows.ndjson")).unwrap();
    file.write_all(bytes).unwrap();
}

/// Alertmanager, ended with the test by its process id.
struct Alertmanager {
    child: Child,
    address: String,
}

impl Alertmanager {
    fn start(folder: &Path, hook: &str) -> Self {
        let config = folder.join("alertmanager.yml");
        let yaml = format!(
            "route: {{ receiver: hook, group_by: [alertname, path], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}\n\
             receivers: [{{ name: hook, webhook_configs: [{{ url: '{hook}', send_resolved: true }}] }}]\n"
        );
        fs::write(&config, yaml).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.join("alertmanager").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's prometheus-alertmanager, which tests/run.sh installs");
        let started = Self { child, address };
        until(PATIENCE, || get(&started.address, "/-/ready").is_some());
        started
    }

    /// When each alert that fires was said last, by Alertmanager's own clock.
    fn updated(&self) -> Vec<String> {
        let body = get(&self.address, "/api/v2/alerts").unwrap_or_default();
        let array = body.find('[').map_or("[]", |at| &body[at..=body.rfind(']').unwrap()]);
        let alerts: Vec<Value> = serde_json::from_str(array).unwrap();
        alerts.iter().map(|alert| alert["updatedAt"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was said of each path, in order, of Alertmanager's own notifications.
fn of_path(taken: &Taken, path: &str) -> Vec<String> {
    let taken = taken.lock().unwrap();
    let its = taken.iter().filter(|body| body["groupLabels"]["path"] == path);
    its.map(|body| body["status"].as_str().unwrap().to_owned()).collect()
}

/// What `/api/v1/alerts` says, and what `headrig query` gives for its SQL.
fn shows_the_records_behind(folder: &Path, address: &str) {
    let answer: Value = serde_json::from_str(&get(address, "/api/v1/alerts").unwrap()).unwrap();
    assert_eq!(answer["status"], "success");
    let alerts = answer["data"]["alerts"].as_array().unwrap();
    assert_eq!(alerts.len(), 2, "{alerts:?}");
    for alert in alerts {
        assert_eq!((&alert["state"], &alert["labels"]["alertname"]), (&"firing".into(), &"Errors".into()));
        let path = alert["labels"]["path"].as_str().unwrap();
        assert_eq!(alert["annotations"]["summary"], format!("{path} fails"));
        let rows = alert["sql"].as_str().unwrap().replacen("select *", "select avg((status >= 500)::int) as rate", 1);
        let mut query = headrig();
        let output =
            query.arg("query").arg(folder.join("archive")).arg(&rows).args(["--format", "json"]).output().unwrap();
        assert_exit(&output, 0);
        let row: Value = serde_json::from_slice(&output.stdout).unwrap();
        let value: f64 = alert["value"].as_str().unwrap().parse().unwrap();
        let rate = row["rate"].as_f64().unwrap();
        assert!((rate - value).abs() < 1e-9, "{rows} gives {rate}, not {value}");
    }
}

#[test]
fn a_real_alertmanager_hears_of_each_change_once_over_a_kill() {
    let folder = temporary();
    let input = input(folder.path());
    let (hook, taken) = serve(|_| Answer::Status(200, ""));
    let server = Alertmanager::start(folder.path(), &hook);
    let notify = format!("{{ page: {{ type: alertmanager, url: \"http://{}\" }} }}", server.address);
    let file = pipeline(folder.path(), &rules(folder.path(), &notify));
    let output = headrig().args(["check", "--connect"]).arg(&file).output().unwrap();
    // The input isn't there yet, which is all that is wrong.
    assert!(!text(&output.stderr).contains("cannot reach"), "{}", text(&output.stderr));
    let said = |path: &str, expected: &[&str]| until(PATIENCE, || of_path(&taken, path) == expected);

    append(folder.path(), &lines(&input, 0, 5_500));
    let (mut running, address) = start(&file);
    said("/v1/me", &["firing"]);
    said("/v1/programs/search", &["firing"]);
    shows_the_records_behind(folder.path(), &address);
    // Behind the next seal, so that the archive knows who has been told.
    std::thread::sleep(Duration::from_secs(2));
    running.signal(rustix::process::Signal::KILL);
    running.wait();

    let before = server.updated();
    assert_eq!(before.len(), 2);
    let (mut running, _) = start(&file);
    // Nothing new has come, and yet it says that both go on.
    until(PATIENCE, || server.updated().iter().zip(&before).all(|(now, before)| now > before));
    append(folder.path(), &lines(&input, 5_500, 20_000));
    said("/v1/me", &["firing", "resolved"]);
    said("/v1/programs/search", &["firing", "resolved"]);
    append(folder.path(), &lines(&input, 20_000, 36_000));
    said("/v1/programs/search", &["firing", "resolved", "firing"]);
    append(folder.path(), &lines(&input, 36_000, 40_000));
    said("/v1/programs/search", &["firing", "resolved", "firing", "resolved"]);
    assert_eq!(of_path(&taken, "/v1/me"), ["firing", "resolved"], "nothing twice");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait(), Some(0));
}

#[test]
fn receivers_that_fail_hang_and_limit_get_each_alert_once_in_the_end() {
    let folder = temporary();
    let input = input(folder.path());
    let answer = |number| match number {
        0 => Answer::Status(500, ""),
        1 => Answer::Silence,
        2 => Answer::Status(429, "retry-after: 1\r\n"),
        3 => Answer::Status(200, ""),
        4 => Answer::Status(503, ""),
        _ => Answer::Status(204, ""),
    };
    let (hook, taken) = serve(answer);
    let (slack, messages) = serve(|number| Answer::Status(if number % 2 == 0 { 502 } else { 200 }, ""));
    let (refuses, none) = serve(|_| Answer::Status(400, ""));
    let notify = "{ hook: { type: webhook, url: '${HOOK}', timeout: 1s, allow_private: true },
          chat: { type: slack, url: '${CHAT}', allow_private: true },
          deaf: { type: webhook, url: '${DEAF}', allow_private: true } }";
    let file = pipeline(folder.path(), &rules(folder.path(), notify));
    append(folder.path(), &input);
    let mut command = headrig();
    command.arg("run").arg(&file).env("HOOK", &hook).env("CHAT", &slack).env("DEAF", &refuses);
    let mut running = Running::start(&mut command);
    let ids = || -> Vec<String> {
        let taken = taken.lock().unwrap();
        let alerts = taken.iter().flat_map(|body| body["alerts"].as_array().unwrap());
        alerts.map(|alert| alert["id"].as_str().unwrap().to_owned()).collect()
    };
    until(PATIENCE, || ids().len() >= 6 && messages.lock().unwrap().len() >= 6);
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait(), Some(1), "one receiver has refused what was for it");
    let mut once = ids();
    once.sort();
    once.dedup();
    assert_eq!((ids().len(), once.len()), (6, 6), "each change of state, once");
    let titles: Vec<String> = messages
        .lock()
        .unwrap()
        .iter()
        .map(|body| body["attachments"][0]["title"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(titles.len(), 6);
    assert_eq!(titles.iter().filter(|title| title.contains("[RESOLVED] Errors P0 path=")).count(), 3);
    assert!(none.lock().unwrap().is_empty(), "who refuses has nothing");
    let said: Vec<String> = running.all_stderr();
    assert!(said.iter().any(|line| line.contains("deaf") && line.contains("400")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("/hook")), "no address is shown whole: {said:?}");
}

/// Paths and states that a webhook was told, in order.
fn told(taken: &Taken) -> Vec<(String, String)> {
    let taken = taken.lock().unwrap();
    let alerts = taken.iter().flat_map(|body| body["alerts"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    alerts.map(|alert| (text(&alert["labels"]["path"]), text(&alert["status"]))).collect()
}

#[test]
fn what_is_silenced_is_told_when_the_silence_is_over_and_a_kill_changes_nothing() {
    let folder = temporary();
    let input = input(folder.path());
    let (hook, taken) = serve(|_| Answer::Status(200, ""));
    let notify = format!("{{ hook: {{ type: webhook, url: \"{hook}\", allow_private: true }} }}");
    let file = pipeline(folder.path(), &rules(folder.path(), &notify));
    let data = folder.path().join("daemon");
    let start = || {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = headrig();
        command.arg("run").arg(&file).arg("--data-dir").arg(&data).env("HEADRIG_LISTEN", &address);
        (Running::start(&mut command), address)
    };
    let silence = |address: &str, arguments: &[&str]| {
        let url = format!("http://{address}");
        let output = headrig().arg("silence").args(arguments).args(["--url", &url]).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout).trim().to_owned()
    };
    fs::write(folder.path().join("grows.ndjson"), "").unwrap();
    let (mut running, address) = start();
    until(PATIENCE, || get(&address, "/readyz").is_some());
    let id = silence(&address, &["add", "path=~/v1/m.", "--for", "1h", "--comment", "deploy", "--by", "me"]);
    append(folder.path(), &lines(&input, 0, 5_500));
    let firing =
        || get(&address, "/api/v1/alerts").is_some_and(|body| body.matches("\"state\":\"firing\"").count() == 2);
    until(PATIENCE, firing);
    let fires = |path: &str| (path.to_owned(), "firing".to_owned());
    until(PATIENCE, || told(&taken) == [fires("/v1/programs/search")]);
    // Behind the next seal, so that the archive knows who has been told.
    std::thread::sleep(Duration::from_secs(2));
    running.signal(rustix::process::Signal::KILL);
    running.wait();

    let (mut running, address) = start();
    until(PATIENCE, || get(&address, "/readyz").is_some());
    let shown = silence(&address, &["list"]);
    assert!(shown.contains(&id) && shown.contains("active") && shown.contains("path=~/v1/m.  (me: deploy)"), "{shown}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(told(&taken), [fires("/v1/programs/search")], "the silence outlives the daemon");
    silence(&address, &["end", &id]);
    until(PATIENCE, || told(&taken) == [fires("/v1/programs/search"), fires("/v1/me")]);
    append(folder.path(), &lines(&input, 5_500, 40_000));
    let resolved = || told(&taken).iter().filter(|(_, state)| state == "resolved").count() == 3;
    until(PATIENCE, resolved);
    assert_eq!(told(&taken).len(), 6, "each change of state, once");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait(), Some(0));

    let refused = headrig().args(["silence", "list", "--url", &format!("http://{address}")]).output().unwrap();
    assert_exit(&refused, 1);
    assert!(text(&refused.stderr).contains("cannot reach the daemon"), "{}", text(&refused.stderr));
}
