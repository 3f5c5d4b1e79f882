//! The HTTP surface: health, readiness, metrics, alerts and silences, over one listener for all pipelines of the daemon.
//!
//! [`bind`] takes the address before anything else is started, so that a port in use ends the start at once; [`serve`]
//! answers until it is told to stop, then lets the requests that are being answered end. Each connection has a task;
//! their number, their headers and their age are capped in `limits`. Nothing here holds state of its own: a [`Surface`]
//! says what to answer.

mod alerts;
mod error;
mod health;
mod listen;
mod metrics;
mod routes;
mod seal;
mod silences;

pub use error::ServerError;
pub use listen::{bind, serve};

use crate::record::alert::ActiveAlert;
use crate::sink::Silences;
use crate::time::EventTime;
use prometheus::proto::MetricFamily;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// Metrics as text, and the type that says which text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposition {
    pub content_type: &'static str,
    pub body: String,
}

/// Whether the daemon is ready; the text of an error says why it is not.
pub type Ready = dyn Fn() -> Result<(), String> + Send + Sync;
/// All metrics as they stand.
pub type Gather = dyn Fn() -> Vec<MetricFamily> + Send + Sync;
/// Writes metrics in the format that an `Accept` header asks for.
pub type Encode = dyn Fn(Option<&str>, &[MetricFamily]) -> Exposition + Send + Sync;

/// Alerts that are pending or firing, of all pipelines.
pub type Active = dyn Fn() -> Vec<ActiveAlert> + Send + Sync;

/// The time of day.
pub type Now = dyn Fn() -> EventTime + Send + Sync;

/// Makes durable what all pipelines with archives have worked off; says which these are, or why it cannot be done.
pub type Seal = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Vec<String>, String>> + Send>> + Send + Sync;

/// What the daemon shows.
#[derive(Clone)]
pub struct Surface {
    pub ready: Arc<Ready>,
    /// May block; it is called on a thread for that, once at a time.
    pub gather: Arc<Gather>,
    pub encode: Arc<Encode>,
    pub alerts: Arc<Active>,
    pub silences: Arc<Silences>,
    pub now: Arc<Now>,
    pub seal: Arc<Seal>,
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surface")
    }
}
