//! Dialling, and timing it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::metrics::{DialStep, HostMetrics};
use crate::ssh::dial::{Dial, Steps};
use crate::ssh::{ConnectError, Connection};

/// Dials for a host. Neither the wait for a turn nor a person's time for an answer counts.
///
/// Boxed: it is rare, and what a command waits for is deep enough without it.
pub(super) fn dial<'a>(
    dial: &'a Dial<'_>,
    metrics: &'a HostMetrics,
) -> BoxFuture<'a, Result<Arc<Connection>, ConnectError>> {
    Box::pin(timed(dial, metrics))
}

async fn timed(dial: &Dial<'_>, metrics: &HostMetrics) -> Result<Arc<Connection>, ConnectError> {
    metrics.dials.add();
    let (begun, spent) = (Instant::now(), dial.questions.spent());
    let mut steps = Steps::default();
    let result = dial.run(&mut steps).await;
    let answering = dial.questions.spent().saturating_sub(spent);
    let time = begun.elapsed().saturating_sub(steps.waited + answering);
    match &result {
        Ok(_) => metrics.connected(time),
        Err(error) => metrics.not_connected(time, error.code()),
    }
    for taken in &steps.taken {
        let step = match taken.name.as_str() {
            "resolve" => DialStep::Resolve,
            "jump" => DialStep::Jump,
            "connect" => DialStep::Connect,
            "host key" => DialStep::KeyExchange,
            "login" => DialStep::Login,
            _ => continue,
        };
        // Which of them a person's answer was for is not known.
        if let Some(ms) = taken.ms.filter(|_| answering.is_zero()) {
            metrics.step(step, Duration::from_secs_f64(ms / 1000.0));
        }
    }
    result
}
