//! What receivers behind HTTP have in common: how they are reached, what they must not reach, and what their answers mean.
//!
//! A URL may be a secret (Slack's and many others' are), so errors and logs show its scheme and host only.

use super::SinkError;
use crate::place::{Located, Place, Problem, Secret};
use crate::time::Span;
use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, redirect};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use url::{Host, Url};

/// Waited for an answer, where the pipeline file says nothing.
pub(super) const TIMEOUT: Span = Span::from_secs(10);
/// Bytes of an answer that are looked at.
const ANSWER: usize = 4_096;
/// Longest wait that a server may ask for.
const LONGEST_WAIT: Span = Span::from_secs(300);
const PROGRAM: &str = concat!("headrig/", env!("CARGO_PKG_VERSION"));

/// Which addresses a receiver may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any: the operator's own server.
    Anywhere,
    /// Only those of the public internet. Who can make up a webhook's address must not reach what stands beside headrig
    /// (OWASP: server-side request forgery). Proxies of the environment are not used then.
    Public,
}

impl Reach {
    pub(super) fn new(allow_private: bool) -> Self {
        if allow_private { Self::Anywhere } else { Self::Public }
    }
}

/// How to talk to a receiver.
#[derive(Debug)]
pub(super) struct Options<'a> {
    pub(super) reach: Reach,
    pub(super) timeout: Option<Span>,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    pub(super) ca: Option<&'a str>,
    pub(super) bearer: Option<Secret>,
    /// User and password.
    pub(super) basic: Option<(String, Secret)>,
    pub(super) headers: Vec<(&'a str, &'a Secret)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { reach: Reach::Anywhere, timeout: None, ca: None, bearer: None, basic: None, headers: Vec::new() }
    }
}

/// One address that events are posted to.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    reach: Reach,
    basic: Option<(String, Secret)>,
}

impl Endpoint {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When a file, a header or a certificate is of no use.
    pub(super) fn new(url: Url, options: Options<'_>) -> Result<Self, SinkError> {
        let timeout = options.timeout.unwrap_or(TIMEOUT).to_std();
        let mut builder = Client::builder()
            .user_agent(PROGRAM)
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(redirect::Policy::none())
            .default_headers(headers(&options)?);
        if options.reach == Reach::Public {
            builder = builder.no_proxy().dns_resolver(Arc::new(PublicOnly));
        }
        if let Some(path) = options.ca {
            for certificate in certificates(Path::new(path))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build().map_err(|error| SinkError::Setting(causes(&error)))?;
        Ok(Self { client, url, reach: options.reach, basic: options.basic })
    }

    /// The part of the address that may be shown.
    pub(super) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Posts `body` as JSON, and returns the beginning of the answer.
    ///
    /// # Errors
    /// When no answer comes, or one that is no 2xx.
    pub(super) async fn post(&self, body: Vec<u8>) -> Result<String, SinkError> {
        self.ask(Method::POST, self.url.clone(), body).await
    }

    /// Asks for another path of the same server.
    pub(super) async fn get(&self, url: Url) -> Result<String, SinkError> {
        self.ask(Method::GET, url, Vec::new()).await
    }

    async fn ask(&self, method: Method, url: Url, body: Vec<u8>) -> Result<String, SinkError> {
        if self.reach == Reach::Public && names_private(&url) {
            let cause = "its address is not a public one".to_owned();
            return Err(SinkError::Forbidden { to: self.shown(), cause });
        }
        let mut request = self.client.request(method, url).header(CONTENT_TYPE, "application/json").body(body);
        if let Some((user, password)) = &self.basic {
            request = request.basic_auth(user, Some(&password.0));
        }
        let mut answer = request.send().await.map_err(|error| self.failed(error))?;
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        let mut said = Vec::new();
        // An answer that breaks off has its status all the same.
        while let Ok(Some(part)) = answer.chunk().await {
            said.extend_from_slice(&part[..part.len().min(ANSWER - said.len())]);
            if said.len() >= ANSWER {
                break;
            }
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if status.is_success() {
            return Ok(said);
        }
        let said = said.chars().take(200).collect();
        Err(SinkError::Answer { to: self.shown(), status: status.as_u16(), said, retry_after })
    }

    fn failed(&self, error: reqwest::Error) -> SinkError {
        let to = self.shown();
        if is_forbidden(&error) {
            return SinkError::Forbidden { to, cause: "its name has no public address".to_owned() };
        }
        let cause = if error.is_timeout() { "no answer in time".to_owned() } else { causes(&error.without_url()) };
        SinkError::Unreachable { to, cause }
    }
}

/// Scheme, host and port.
fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

/// The innermost cause says most: `connection refused`.
fn causes(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn retry_after(headers: &HeaderMap) -> Option<Span> {
    // RFC 9110 allows a date, too; nobody who limits rates sends one.
    let seconds: i64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Span::from_secs(seconds.clamp(0, LONGEST_WAIT.micros() / 1_000_000)))
}

fn headers(options: &Options<'_>) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: String| {
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| SinkError::Setting(format!("the header {name} has characters that no header may have")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    for (name, value) in &options.headers {
        let name = name.parse().map_err(|_| SinkError::Setting(format!("{name:?} is no name of a header")))?;
        add(name, value.0.clone())?;
    }
    if let Some(token) = &options.bearer {
        add(AUTHORIZATION, format!("Bearer {}", token.0))?;
    }
    Ok(headers)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, SinkError> {
    let failed =
        |cause: String| SinkError::Setting(format!("cannot read certificates from {}: {cause}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| failed(causes(&error)))?;
    if found.is_empty() { Err(failed("there is none".to_owned())) } else { Ok(found) }
}

/// Finds only addresses of the public internet.
struct PublicOnly;

#[derive(Debug, thiserror::Error)]
#[error("no public address")]
struct NoPublicAddress;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found.into_iter().filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(Box::new(NoPublicAddress) as Box<dyn Error + Send + Sync>);
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn is_forbidden(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<NoPublicAddress>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the host is written as an address that is not public; names are looked at when they are resolved.
pub(super) fn names_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => !is_public(address.into()),
        Some(Host::Ipv6(address)) => !is_public(address.into()),
        _ => false,
    }
}

/// Whether an address is one of the public internet: none of IANA's special-purpose registries (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18);
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let segments = v6.segments();
    let embedded = || Ipv4Addr::from(((u32::from(segments[6])) << 16) | u32::from(segments[7]));
    match segments {
        // Translated (RFC 6052), and tunnelled (6to4).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(embedded()),
        [0x2002, high, low, ..] => is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        // Documentation.
        [0x2001, 0xdb8, ..] => false,
        // All that is handed out is below 2000::/3.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// A URL as it stands in a pipeline file, checked.
///
/// # Errors
/// When it is none of HTTP, or when it names what `reach` doesn't allow.
pub(super) fn check_url(text: &str, place: Place, reach: Reach) -> Result<Url, Problem> {
    let example = "as in `https://host/path`";
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(url) => {
            let message = format!("cannot use a URL of the scheme `{}` here, expected http or https", url.scheme());
            return Err(Problem::new(place, message).hint(example));
        }
        Err(error) => return Err(Problem::new(place, format!("cannot read this as a URL: {error}")).hint(example)),
    };
    if reach == Reach::Public && names_private(&url) {
        let message = format!("cannot deliver to {}, its address is not a public one", shown(&url));
        return Err(Problem::new(place, message).hint("`allow_private: true` beside it allows that"));
    }
    Ok(url)
}

/// Whether a secret stands in the pipeline file itself, which is committed and copied.
pub(super) fn check_secret(secret: &Located<Secret>, name: &str) -> Option<Problem> {
    let upper = name.to_uppercase();
    (secret.verbatim && !secret.value.0.is_empty()).then(|| {
        secret.problem(format!("cannot take `{name}` from the pipeline file itself, it is a secret")).hint(format!(
            "take it from the environment, as in `{name}: \"${{{upper}}}\"`, or from a file by `{name}_file`"
        ))
    })
}

/// An address that is given by itself or by the file that holds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) url: Option<&'a Located<Secret>>,
    pub(super) file: Option<&'a Located<String>>,
    pub(super) reach: Reach,
}

impl Target<'_> {
    /// Its mistakes; of the receiver that stands at `at`.
    pub(super) fn check(self, at: Place) -> Vec<Problem> {
        match (self.url, self.file) {
            (Some(url), None) => check_url(&url.value.0, url.place, self.reach).err().into_iter().collect(),
            (None, Some(_)) => Vec::new(),
            (Some(url), Some(_)) => vec![url.problem("cannot deliver to both `url` and `url_file`, name one")],
            (None, None) => {
                let problem = Problem::new(at, "cannot deliver to a receiver without an address");
                vec![problem.hint("name its `url`, or the `url_file` that holds it")]
            }
        }
    }

    /// The address itself.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no URL.
    pub(super) fn url(self) -> Result<Url, SinkError> {
        let text = secret(self.url, self.file)?.ok_or_else(|| SinkError::Setting("it has no address".to_owned()))?;
        Url::parse(&text.0).map_err(|error| SinkError::Setting(format!("its address is no URL: {error}")))
    }

    /// Why nobody can be connected to there; sends nothing.
    pub(super) fn probe(self) -> Option<Problem> {
        let attempt = || {
            let url = self.url()?;
            wait_for(Box::pin(async move { reach(&url, self.reach).await }))
        };
        let place = self.url.map(|url| url.place).or(self.file.map(|file| file.place))?;
        Some(unreachable(&attempt().err()?, place))
    }
}

/// Why a receiver cannot be reached, at the setting that names it.
pub(super) fn unreachable(error: &SinkError, place: Place) -> Problem {
    let mut problem = Problem::new(place, error.to_string());
    problem.hint = error.hint().map(str::to_owned);
    problem
}

/// A secret that is given by itself or by the file that holds it.
///
/// # Errors
/// When the file cannot be read or is empty.
pub(super) fn secret(
    given: Option<&Located<Secret>>,
    file: Option<&Located<String>>,
) -> Result<Option<Secret>, SinkError> {
    if let Some(given) = given {
        return Ok(Some(given.value.clone()));
    }
    let Some(path) = file else { return Ok(None) };
    let failed = |cause: String| SinkError::Setting(format!("cannot read the secret in {}: {cause}", path.value));
    let text = std::fs::read_to_string(&path.value).map_err(|error| failed(error.to_string()))?;
    let text = text.trim();
    if text.is_empty() { Err(failed("it is empty".to_owned())) } else { Ok(Some(Secret(text.to_owned()))) }
}

/// Runs an attempt to its end, where no runtime is.
pub(super) fn wait_for<T: Send>(attempt: BoxFuture<'_, Result<T, SinkError>>) -> Result<T, SinkError> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| SinkError::Setting(error.to_string()))?.block_on(attempt)
    };
    match std::thread::scope(|scope| scope.spawn(work).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Whether the server can be connected to, without sending it anything.
pub(super) async fn reach(url: &Url, reach: Reach) -> Result<(), SinkError> {
    let (to, host) = (shown(url), url.host_str().unwrap_or_default().trim_matches(['[', ']']));
    let unreachable = |cause: String| SinkError::Unreachable { to: to.clone(), cause };
    let port = url.port_or_known_default().unwrap_or(443);
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| unreachable(error.to_string()))?;
    let found: Vec<SocketAddr> = found.filter(|a| reach == Reach::Anywhere || is_public(a.ip())).collect();
    if found.is_empty() {
        return Err(SinkError::Forbidden { to, cause: "its name has no public address".to_owned() });
    }
    let connecting = tokio::net::TcpStream::connect(found.as_slice());
    match tokio::time::timeout(TIMEOUT.to_std(), connecting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("no answer in time".to_owned())),
    }
}

#[cfg(test)]
pub(crate) mod tests;
