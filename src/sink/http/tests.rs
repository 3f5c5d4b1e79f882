//! A server that answers as it is told, and what may be reached.

use super::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// As in `POST /path`.
    pub(crate) line: String,
    /// Names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: serde_json::Value,
}

/// An HTTP server for one test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Gives these answers (status, further headers, body) in turn, and `200 ok` behind the last.
    pub(crate) async fn start(answers: &[(u16, &str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let own = |(status, headers, body): &(u16, &str, &str)| (*status, (*headers).to_owned(), (*body).to_owned());
        let answers: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(answers.iter().map(own).collect()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&kept)));
            }
        });
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<serde_json::Value> {
        self.asked().into_iter().map(|asked| asked.body).collect()
    }
}

type Answers = Arc<Mutex<VecDeque<(u16, String, String)>>>;

async fn serve(stream: TcpStream, answers: Answers, kept: Arc<Mutex<Vec<Asked>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let line = lines.remove(0).trim_end_matches(" HTTP/1.1").to_owned();
        let pair = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers: Vec<(String, String)> = lines.iter().filter_map(pair).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        kept.lock().unwrap().push(Asked { line, headers, body });
        let next = answers.lock().unwrap().pop_front();
        let (status, headers, body) = next.unwrap_or((200, String::new(), "ok".to_owned()));
        let answer = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn endpoint(url: &str, options: Options<'_>) -> Endpoint {
    Endpoint::new(Url::parse(url).unwrap(), options).unwrap()
}

#[tokio::test]
async fn answers_tell_what_trying_again_can_help() {
    for (status, headers, retryable, wait) in [
        (503, "", true, None),
        (429, "retry-after: 7\r\n", true, Some(7)),
        (429, "retry-after: 99999\r\n", true, Some(300)),
        (429, "retry-after: soon\r\n", true, None),
        (408, "", true, None),
        (400, "", false, None),
        (404, "", false, None),
        (301, "location: /elsewhere\r\n", false, None),
    ] {
        let server = Server::start(&[(status, headers, "why")]).await;
        let path = format!("{}/secret/path?token=x", server.url);
        let error = endpoint(&path, Options::default()).post(b"{}".to_vec()).await.unwrap_err();
        assert_eq!(error.is_retryable(), retryable, "{status}");
        assert_eq!(error.retry_after(), wait.map(Span::from_secs), "{status}");
        assert_eq!(server.asked().len(), 1, "a redirect is not followed");
        let told = error.to_string();
        assert!(told.contains(&status.to_string()) && told.contains("why") && !told.contains("secret"), "{told}");
        assert!(!told.contains("token"), "{told}");
    }
}

#[tokio::test]
async fn logins_and_headers_are_sent_and_never_shown() {
    let server = Server::start(&[]).await;
    let secret = |text: &str| Secret(text.to_owned());
    let more = secret("more");
    let options = Options {
        basic: Some(("me".to_owned(), secret("geheim"))),
        headers: vec![("X-More", &more)],
        ..Options::default()
    };
    let endpoint = endpoint(&server.url, options);
    assert_eq!(endpoint.post(b"{}".to_vec()).await.unwrap(), "ok");
    let bearer = Options { bearer: Some(secret("geheim")), ..Options::default() };
    let bearer = super::tests::endpoint(&server.url, bearer);
    bearer.post(b"{}".to_vec()).await.unwrap();
    assert!(!format!("{endpoint:?} {bearer:?}").contains("geheim"));
    let header = |asked: &Asked, name: &str| {
        asked.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let asked = server.asked();
    assert_eq!(header(&asked[0], "authorization"), "Basic bWU6Z2VoZWlt");
    assert_eq!(header(&asked[0], "x-more"), "more");
    assert_eq!(header(&asked[1], "authorization"), "Bearer geheim");
    let broken = secret("two\nlines");
    let options = Options { headers: vec![("X-More", &broken)], ..Options::default() };
    let error = Endpoint::new(Url::parse(&server.url).unwrap(), options).unwrap_err();
    assert!(!error.to_string().contains("two"), "{error}");
}

#[tokio::test]
async fn private_addresses_are_reached_only_where_that_is_allowed() {
    let server = Server::start(&[]).await;
    let by_name = server.url.replace("127.0.0.1", "localhost");
    for url in [&server.url, &by_name] {
        let public = Options { reach: Reach::Public, ..Options::default() };
        let error = endpoint(url, public).post(b"{}".to_vec()).await.unwrap_err();
        assert!(matches!(error, SinkError::Forbidden { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("allow_private") && !error.is_retryable());
        assert!(reach(&Url::parse(url).unwrap(), Reach::Public).await.is_err());
        assert!(reach(&Url::parse(url).unwrap(), Reach::Anywhere).await.is_ok());
    }
    assert!(server.asked().is_empty());
    endpoint(&by_name, Options::default()).post(b"{}".to_vec()).await.unwrap();
}

#[tokio::test]
async fn who_is_not_there_may_be_there_later() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = endpoint(&format!("http://{gone}/x"), Options::default()).post(Vec::new()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", silent.local_addr().unwrap());
    let hasty = Options { timeout: Some(Span::from_micros(50_000)), ..Options::default() };
    let error = endpoint(&url, hasty).post(Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("no answer in time") && error.is_retryable(), "{error}");
}

#[test]
fn addresses_of_the_public_internet() {
    for (address, public) in [
        ("8.8.8.8", true),
        ("203.0.114.1", true),
        ("10.1.2.3", false),
        ("172.16.0.1", false),
        ("172.32.0.1", true),
        ("192.168.1.1", false),
        ("127.0.0.1", false),
        ("169.254.169.254", false),
        ("100.64.0.1", false),
        ("100.128.0.1", true),
        ("198.18.0.1", false),
        ("0.0.0.0", false),
        ("255.255.255.255", false),
        ("::1", false),
        ("::ffff:10.0.0.1", false),
        ("::ffff:8.8.8.8", true),
        ("fdaa::3", false),
        ("fe80::1", false),
        ("2606:4700::1", true),
        ("64:ff9b::a00:1", false),
        ("64:ff9b::808:808", true),
        ("2002:a00:1::", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
    }
}

#[test]
fn urls_are_checked_and_secrets_stay_out_of_files() {
    let at = Place { line: 1, column: 1 };
    assert!(check_url("https://hooks.slack.com/services/x", at, Reach::Public).is_ok());
    for (url, reach) in [
        ("ftp://host/", Reach::Anywhere),
        ("hooks.slack.com/x", Reach::Anywhere),
        ("http://10.0.0.1/x", Reach::Public),
        ("http://[fdaa::3]:9000/", Reach::Public),
        // Other ways to write 127.0.0.1.
        ("http://2130706433/", Reach::Public),
        ("http://0x7f.1/", Reach::Public),
    ] {
        assert!(check_url(url, at, reach).is_err(), "{url}");
    }
    let written = Located::nowhere(Secret("x".to_owned()));
    assert!(check_secret(&written, "token").is_some());
    assert!(check_secret(&Located { verbatim: false, ..written }, "token").is_none());
}
