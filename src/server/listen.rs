//! The listener and its connections.

use super::{ServerError, Surface, routes};
use crate::limits;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Takes `address`.
///
/// # Errors
/// When it is in use, not this machine's or not allowed.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|cause| ServerError::Bind { address, cause })
}

/// Answers requests until `shutdown` is done, and then until those that are being answered have been, at most for
/// `limits::HTTP_DRAIN`.
///
/// # Errors
/// None at present: what goes wrong with one connection ends that one.
pub async fn serve(
    listener: TcpListener,
    surface: Surface,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let router = routes::router(surface);
    let places = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS));
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, place) = accept(&listener, &places) => {
                connections.spawn(connection(stream, place, router.clone(), closing.clone()));
            }
        }
    }
    drop(listener);
    closing.cancel();
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(limits::HTTP_DRAIN.to_std(), drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut off clients that were still reading");
    }
    Ok(())
}

/// The next connection, when there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let place = Arc::clone(places).acquire_owned().await.expect("nobody closes this semaphore");
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection, trying again");
                tokio::time::sleep(limits::TICK.to_std()).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::ConnectionAborted | E::ConnectionReset | E::ConnectionRefused | E::Interrupted)
}

/// Serves one connection until either side ends it, it is too old, or `closing`.
async fn connection(stream: TcpStream, place: OwnedSemaphorePermit, router: Router, closing: CancellationToken) {
    let _place = place;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_HEADER_WAIT.to_std())
        .max_buf_size(limits::HTTP_HEADER_BYTES);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => Ok(result),
        () = closing.cancelled() => Err(()),
        () = tokio::time::sleep(limits::HTTP_CONNECTION_AGE.to_std()) => Err(()),
    };
    let result = match result {
        Ok(result) => result,
        Err(()) => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(limits::HTTP_DRAIN.to_std(), served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Exposition;
    use prometheus::proto::MetricFamily;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    /// A server on a free port, and what makes it unready and ends it.
    struct Running {
        address: SocketAddr,
        ready: Arc<AtomicBool>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<Result<(), ServerError>>,
    }

    async fn start() -> Running {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let ready = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&ready);
        let surface = Surface {
            ready: Arc::new(move || seen.load(Ordering::SeqCst).then_some(()).ok_or_else(|| "draining".to_owned())),
            gather: Arc::new(|| vec![MetricFamily::default()]),
            encode: Arc::new(|accept, families| Exposition {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: format!("# {} {}\n", families.len(), accept.unwrap_or("-")),
            }),
            alerts: Arc::new(Vec::new),
            silences: Arc::default(),
            now: Arc::new(|| crate::time::EventTime::from_micros(1_000_000)),
            seal: Arc::new(|| Box::pin(async { Ok(vec!["p".to_owned()]) })),
        };
        let task = tokio::spawn(serve(listener, surface, async { stopped.await.unwrap_or(()) }));
        Running { address, ready, stop, task }
    }

    /// Sends `request` as it is and returns all that comes back until the server closes.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..count]);
        }
        String::from_utf8(answer).unwrap()
    }

    async fn check(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\naccept: text/plain\r\nconnection: close\r\n\r\n");
        let answer = exchange(address, &request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn paths_answer_as_the_contract_says() {
        let server = start().await;
        let get = |path| check(server.address, "GET", path);
        assert_eq!(get("/healthz").await.2, "ok\n");
        assert_eq!(get("/readyz").await.0, 200);
        let (status, head, body) = get("/metrics").await;
        assert_eq!((status, body.as_str()), (200, "# 1 text/plain\n"));
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(get("/").await.2.contains("/metrics"));
        assert_eq!(get("/nothing%1b").await.0, 404);
        assert_eq!(check(server.address, "POST", "/metrics").await.0, 405);
        let (status, head, body) = check(server.address, "HEAD", "/metrics").await;
        assert_eq!((status, body.as_str()), (200, ""));
        assert!(head.contains("content-length: 15"), "{head}");

        server.ready.store(false, Ordering::SeqCst);
        let (status, _, body) = get("/readyz").await;
        assert_eq!((status, body.as_str()), (503, "not ready: draining\n"));
    }

    #[tokio::test]
    async fn silences_are_added_and_ended_by_this_machine_only() {
        let server = start().await;
        let body = r#"{"matchers":[{"name":"app","value":"web","isRegex":false}],"startsAt":"1970-01-01T00:00:00Z",
            "endsAt":"2100-01-01T00:00:00Z","createdBy":"me","comment":"x"}"#;
        let post = async |host: &str, kind: &str, body: &str| {
            let length = body.len();
            let request = format!(
                "POST /api/v2/silences HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            exchange(server.address, &request).await
        };
        for (host, kind, body, status) in [
            ("evil.example", "application/json", body, " 403 "),
            ("127.0.0.1", "text/plain", body, " 415 "),
            ("127.0.0.1", "application/json", "{", " 400 "),
            (
                "127.0.0.1",
                "application/json",
                r#"{"matchers":[],"startsAt":"1970-01-01T00:00:00Z","endsAt":"2100-01-01T00:00:00Z","createdBy":"","comment":""}"#,
                " 400 ",
            ),
        ] {
            let answer = post(host, kind, body).await;
            assert!(answer.contains(status), "{answer}");
        }
        let answer = post("127.0.0.1:1", "application/json", body).await;
        let (_, id) = answer.split_once("\"silenceID\":\"").unwrap();
        let id = &id[..36];
        let shown = check(server.address, "GET", "/api/v2/silences").await.2;
        assert!(shown.contains(id) && shown.contains("\"state\":\"active\""), "{shown}");
        assert_eq!(check(server.address, "DELETE", &format!("/api/v2/silence/{id}")).await.0, 403, "for host x");
        let end = format!("DELETE /api/v2/silence/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert!(exchange(server.address, &end).await.starts_with("HTTP/1.1 200"));
        assert!(exchange(server.address, &end).await.starts_with("HTTP/1.1 404"));
        assert!(check(server.address, "GET", &format!("/api/v2/silence/{id}")).await.2.contains("\"expired\""));
    }

    #[tokio::test]
    async fn hostile_requests_end_their_own_connection_only() {
        let server = start().await;
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(4 * limits::HTTP_HEADER_BYTES));
        for request in [long.as_str(), "\0\r\n\r\n", "GET / HTTP/9\r\n\r\n"] {
            let answer = exchange(server.address, request).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        assert_eq!(check(server.address, "GET", "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn the_end_closes_idle_connections_and_frees_the_port() {
        let server = start().await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut part = [0; 4096];
        assert!(idle.read(&mut part).await.unwrap() > 0, "an answer, and the connection stays open");
        server.stop.send(()).unwrap();
        server.task.await.unwrap().unwrap();
        assert_eq!(idle.read(&mut part).await.unwrap(), 0);
        bind(server.address).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_a_clear_error() {
        let server = start().await;
        let error = bind(server.address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {}: the address is in use", server.address));
        assert!(error.hint().unwrap().contains("server: { listen:"), "{error:?}");
        assert!(error.is_retryable());
    }
}
