//! `headrig query --live URL`: has a running daemon seal what it has read, before the archive is read.

use super::report::Hinted;
use crate::{archive, limits};
use serde::Deserialize;

/// Where a daemon is asked.
const PATH: &str = "/api/v1/seal";

/// What a daemon says when it has sealed.
#[derive(Deserialize)]
struct Sealed {
    /// The pipelines that it runs.
    sealed: Vec<String>,
}

/// Has the daemon at `url` seal; returns when its rows are in the archive.
///
/// # Errors
/// When it cannot be asked, cannot seal, or writes into another archive.
pub(super) async fn seal(url: &str, archive: &str) -> anyhow::Result<()> {
    let at = address(url);
    let failed = |why: String, hint: &str| -> anyhow::Error {
        Hinted::new(&format!("cannot ask the daemon at {url}: {why}"), Some(hint.to_owned())).into()
    };
    let running = "see that it runs, and that this is its `server.listen`, as in --live http://127.0.0.1:8686";
    // It may take as long as the daemon waits for its archive, and a little.
    let patience = limits::LIVE_PATIENCE.to_std() * 2;
    let client = reqwest::Client::builder().no_proxy().timeout(patience).build();
    let client = client.map_err(|error| failed(error.to_string(), running))?;
    let answer = client.post(&at).send().await.map_err(|error| failed(innermost(&error), running))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| failed(innermost(&error), running))?;
    if !status.is_success() {
        let said = body.lines().next().unwrap_or_default();
        return Err(failed(format!("{status}, {said}"), "without --live what is sealed already is read"));
    }
    let Sealed { sealed } =
        serde_json::from_str(&body).map_err(|_| failed("what answers is no headrig".to_owned(), running))?;
    let homes = archive::pipelines(archive).map_err(|error| anyhow::Error::new(Hinted::new(&error, error.hint())))?;
    if homes.iter().any(|home| sealed.contains(home)) {
        return Ok(());
    }
    let why = format!("it runs {}, and this archive has {}", sealed.join(", "), homes.join(", "));
    Err(failed(why, "name the archive that this daemon writes"))
}

/// `127.0.0.1:8686` and `http://127.0.0.1:8686/` are both fine.
fn address(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.contains("://") { format!("{url}{PATH}") } else { format!("http://{url}{PATH}") }
}

/// What stood in the way, without the layers above it.
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_by_its_address() {
        for url in ["127.0.0.1:8686", "http://127.0.0.1:8686", "http://127.0.0.1:8686/"] {
            assert_eq!(address(url), "http://127.0.0.1:8686/api/v1/seal");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = seal(&url, "nowhere").await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot ask the daemon at {url}: ")), "{error}");
    }
}
