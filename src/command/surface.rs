//! What the HTTP listener shows of the running pipelines.

use crate::archive::Patience;
use crate::metric::{Metrics, exposition};
use crate::record::alert::ActiveAlert;
use crate::server::{Exposition, Surface};
use crate::topology::{Connected, Sealer, Surroundings};
use prometheus::proto::MetricFamily;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// Whether the daemon takes work.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Phase {
    #[default]
    Starting,
    Running,
    Draining,
}

/// The daemon's state, shared with the listener.
#[derive(Debug, Default)]
pub(super) struct State {
    phase: Mutex<Phase>,
    metrics: Mutex<Vec<(String, Arc<Mutex<Metrics>>)>>,
    archives: Mutex<Vec<(String, Arc<Patience>)>>,
    alerts: Mutex<Vec<Arc<Mutex<Vec<ActiveAlert>>>>>,
    sealers: Mutex<Vec<(String, Sealer)>>,
}

impl State {
    pub(super) fn set(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    /// Shows these pipelines from now on: their derived metrics, their alerts, and what their archives wait for.
    pub(super) fn show(&self, connected: &[Connected]) {
        *lock(&self.metrics) = connected.iter().map(|c| (c.pipeline().to_owned(), c.metrics())).collect();
        *lock(&self.alerts) = connected.iter().map(Connected::alerts).collect();
        let sealer = |c: &Connected| Some((c.pipeline().to_owned(), c.sealer()?));
        *lock(&self.sealers) = connected.iter().filter_map(sealer).collect();
        let archive = |c: &Connected| Some((c.pipeline().to_owned(), c.patience()?));
        *lock(&self.archives) = connected.iter().filter_map(archive).collect();
    }

    fn ready(&self) -> Result<(), String> {
        match *lock(&self.phase) {
            Phase::Starting => Err("starting".to_owned()),
            Phase::Running => {
                let archives = lock(&self.archives);
                let trouble = |(name, patience): &(String, Arc<Patience>)| Some((name.clone(), patience.trouble()?));
                archives.iter().find_map(trouble).map_or(Ok(()), |(name, what)| Err(format!("pipeline {name}: {what}")))
            }
            Phase::Draining => Err("draining".to_owned()),
        }
    }

    /// What is pending and firing, pipelines in their order.
    fn active(&self) -> Vec<ActiveAlert> {
        lock(&self.alerts).iter().flat_map(|alerts| lock(alerts).clone()).collect()
    }

    /// Seals what all pipelines with archives have worked off, one beside the other; names them.
    async fn seal(&self) -> Result<Vec<String>, String> {
        let sealers = lock(&self.sealers).clone();
        if sealers.is_empty() {
            return Err("cannot seal, no pipeline with an archive runs here".to_owned());
        }
        let mut sealing = JoinSet::new();
        for (name, sealer) in sealers {
            sealing.spawn(async move { (sealer.seal().await, name) });
        }
        let mut sealed = Vec::new();
        while let Some(ended) = sealing.join_next().await {
            match ended {
                Ok((Ok(()), name)) => sealed.push(name),
                Ok((Err(error), name)) => return Err(format!("pipeline {name}: {error}")),
                Err(error) => return Err(format!("cannot seal: {error}")),
            }
        }
        sealed.sort_unstable();
        Ok(sealed)
    }

    /// All pipelines' metrics, each name once.
    fn derived(&self) -> Vec<MetricFamily> {
        let pipelines = lock(&self.metrics);
        exposition::joined(pipelines.iter().map(|(name, metrics)| (name.as_str(), lock(metrics).families())).collect())
    }
}

/// The listener's view of `state` and the self-metrics.
pub(super) fn surface(state: &Arc<State>, surroundings: &Surroundings) -> Surface {
    let (asked, shown, telemetry) = (Arc::clone(state), Arc::clone(state), surroundings.telemetry.clone());
    let clock = Arc::clone(&surroundings.clock);
    let (fired, sealing) = (Arc::clone(state), Arc::clone(state));
    Surface {
        ready: Arc::new(move || asked.ready()),
        gather: Arc::new(move || {
            let mut families = telemetry.gather();
            families.extend(shown.derived());
            exposition::sorted(families)
        }),
        alerts: Arc::new(move || fired.active()),
        silences: Arc::clone(&surroundings.silences),
        now: Arc::new(move || clock.now()),
        seal: Arc::new(move || {
            let state = Arc::clone(&sealing);
            Box::pin(async move { state.seal().await })
        }),
        encode: Arc::new(|accept, families| {
            let format = exposition::negotiate(accept);
            Exposition { content_type: format.content_type(), body: format.encode(families) }
        }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
