//! A proxy between headrig and a store, for what goes wrong on the way: answers that say no, that are late, that are lost behind
//! their effect, and connections that end in the middle.
//!
//! It passes bytes on as they come, the `Host` header too, which is signed, and has the store end each connection behind its answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It goes no further; the answer has this status, and this code in S3's words.
    Refuse(u16, &'static str),
    /// It takes effect, and the answer comes late.
    Late(Duration),
    /// It takes effect, and the connection ends without an answer.
    LoseReply,
    /// It takes effect, and half of the answer comes.
    CutReply,
    /// Half of it comes to the store.
    CutRequest,
    /// It goes no further, and nothing ever comes.
    Hang,
}

/// What is known of a request.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Whether an object is put only if there is none.
    pub is_conditional: bool,
    pub is_copy: bool,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    pub fn is_change(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

type Plan = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// A proxy on loopback, until it is dropped.
pub struct Proxy {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    /// Passes everything on to this port.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Plan>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let shared = Arc::downgrade(&plan);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Some(plan), Ok(client)) = (shared.upgrade(), client) else { return };
                // A connection that ends is one of the things that are tried here.
                std::thread::spawn(move || drop(serve(&client, server, &plan)));
            }
        });
        Self { port, plan }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on what becomes of each request.
    pub fn set(&self, plan: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// All is well again.
    pub fn mend(&self) {
        self.set(|_| None);
    }

    /// Everything meets the same.
    pub fn all(&self, fault: Fault) {
        self.set(move |_| Some(fault));
    }
}

/// More than any answer here has, in bytes.
const ANSWER: u64 = 1 << 30;

impl Drop for Proxy {
    fn drop(&mut self) {
        *self.plan.lock().unwrap() = Box::new(|_| None);
        // Wakes the listener, which finds that nobody needs it any more.
        self.plan = Arc::new(Mutex::new(Box::new(|_| None)));
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(client: &TcpStream, server: u16, plan: &Mutex<Plan>) -> io::Result<()> {
    let request = read(&mut BufReader::new(client))?;
    let fault = plan.lock().unwrap()(&request);
    match fault {
        Some(Fault::Refuse(status, code)) => refuse(client, &request, status, code),
        Some(Fault::Hang) => {
            // Until the client has enough of it.
            io::copy(&mut (&mut &*client).take(ANSWER), &mut io::sink()).map(drop)
        }
        Some(Fault::CutRequest) => {
            let whole = [request.head.as_slice(), &request.body].concat();
            TcpStream::connect(("127.0.0.1", server))?.write_all(&whole[..whole.len() / 2])?;
            client.shutdown(Shutdown::Both)
        }
        other => {
            let answer = pass_on(&request, server)?;
            match other {
                Some(Fault::LoseReply) => {}
                Some(Fault::CutReply) => (&mut &*client).write_all(&answer[..answer.len() / 2])?,
                Some(Fault::Late(time)) => {
                    std::thread::sleep(time);
                    (&mut &*client).write_all(&answer)?;
                }
                _ => (&mut &*client).write_all(&answer)?,
            }
            client.shutdown(Shutdown::Both)
        }
    }
}

fn read(from: &mut impl BufRead) -> io::Result<Request> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        let name = line.to_ascii_lowercase();
        if let Some(length) = name.strip_prefix("content-length:") {
            bytes = length.trim().parse().map_err(io::Error::other)?;
        }
        if !name.starts_with("connection:") {
            lines.push(line);
        }
    }
    let has = |name: &str| lines.iter().any(|line| line.to_ascii_lowercase().starts_with(name));
    let mut first = lines[0].split(' ').map(str::to_owned);
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let (is_conditional, is_copy) = (has("if-none-match:"), has("x-amz-copy-source:"));
    let head = format!("{}Connection: close\r\n\r\n", lines.concat()).into_bytes();
    let mut body = vec![0; bytes];
    from.read_exact(&mut body)?;
    Ok(Request { method, target, is_conditional, is_copy, head, body })
}

/// The store's whole answer.
fn pass_on(request: &Request, server: u16) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    server.write_all(&request.head)?;
    server.write_all(&request.body)?;
    let mut answer = Vec::new();
    io::copy(&mut server.take(ANSWER), &mut answer)?;
    Ok(answer)
}

fn refuse(mut client: &TcpStream, request: &Request, status: u16, code: &str) -> io::Result<()> {
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
    let head = format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    // An answer to HEAD has no body, whatever its length says.
    let body = if request.method == "HEAD" { "" } else { &text };
    client.write_all(format!("{head}{body}").as_bytes())?;
    client.shutdown(Shutdown::Both)
}
