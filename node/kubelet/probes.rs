//! Probes of one container: a task for each, which asks and counts.

mod grpc;
mod http;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cri::Runtime;

pub(crate) use http::get as http_get;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Liveness,
    Readiness,
    Startup,
}

/// A probe has crossed its threshold.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) healthy: bool,
    pub(crate) message: String,
}

/// The running probes of one container; they end with it.
pub(crate) struct Probing {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Everything a probe needs to ask.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Runtime,
    pub(crate) container: Container,
    pub(crate) id: String,
    pub(crate) ip: String,
    pub(crate) verdicts: mpsc::Sender<Verdict>,
}

/// Starts the probes that the container has. Liveness and readiness wait until the startup probe has succeeded.
pub(crate) fn start(target: &Target) -> Probing {
    let container = &target.container;
    let others: Vec<(Kind, Probe)> = [(Kind::Liveness, &container.liveness_probe), (Kind::Readiness, &container.readiness_probe)]
        .into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.clone()?)))
        .collect();
    let target = target.clone();
    let task = async move {
        if let Some(startup) = target.container.startup_probe.clone() {
            let passed = watch(&target, Kind::Startup, &startup).await;
            if !passed {
                return;
            }
        }
        let watched = others.iter().map(|(kind, probe)| watch(&target, *kind, probe));
        futures::future::join_all(watched).await;
    };
    Probing { tasks: vec![tokio::spawn(task)] }
}

/// Asks again and again, and tells of each change. A startup probe ends with its first verdict: whether it passed.
async fn watch(target: &Target, kind: Kind, probe: &Probe) -> bool {
    let seconds = |value: Option<i32>, default: i32| Duration::from_secs(u64::try_from(value.unwrap_or(default).max(0)).unwrap_or(0));
    let (period, timeout) =
        (seconds(probe.period_seconds, 10).max(Duration::from_secs(1)), seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)));
    let (enough, too_many) = (probe.success_threshold.unwrap_or(1).max(1), probe.failure_threshold.unwrap_or(3).max(1));
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let (mut successes, mut failures) = (0, 0);
    // A container is alive until proven otherwise, and neither ready nor started until proven so.
    let mut verdict = (kind == Kind::Liveness).then_some(true);
    loop {
        let asked = tokio::time::timeout(timeout, ask(target, probe, timeout)).await;
        let result = asked.unwrap_or_else(|_| Err(format!("probe timed out after {}s", timeout.as_secs())));
        match &result {
            Ok(()) => (successes, failures) = (successes + 1, 0),
            Err(_) => (successes, failures) = (0, failures + 1),
        }
        let now = if successes >= enough {
            Some(true)
        } else if failures >= too_many {
            Some(false)
        } else {
            None
        };
        if now.is_some() && now != verdict {
            verdict = now;
            let healthy = now == Some(true);
            let message = result.err().unwrap_or_default();
            let told = Verdict { container: target.container.name.clone(), id: target.id.clone(), kind, healthy, message };
            if target.verdicts.send(told).await.is_err() || kind == Kind::Startup {
                return healthy;
            }
        }
        // Until a container is ready, readiness is asked often: kubelets do so since 1.32 for a fast start.
        let soon = kind != Kind::Liveness && verdict != Some(true);
        tokio::time::sleep(if soon { period.min(Duration::from_secs(1)) } else { period }).await;
    }
}

async fn ask(target: &Target, probe: &Probe, timeout: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match target.runtime.exec(&target.id, &command, timeout).await {
            Ok((0, _)) => Ok(()),
            Ok((_, output)) => Err(output.trim().to_string()),
            Err(why) => Err(why.to_string()),
        };
    }
    if let Some(get) = &probe.http_get {
        return http_get(get, &target.ip, &target.container).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.clone());
        let connected = TcpStream::connect((host.as_str(), port(&tcp.port, &target.container))).await;
        return connected.map(|_| ()).map_err(|e| format!("dial tcp {host}: {e}"));
    }
    if let Some(call) = &probe.grpc {
        let port = u16::try_from(call.port).unwrap_or(0);
        return grpc::check(&target.ip, port, call.service.as_deref().unwrap_or_default()).await;
    }
    Err("the probe has no handler".into())
}

/// A port given by number.
fn number(port: &IntOrString) -> u16 {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => text.parse().unwrap_or(0),
    }
}

fn port(port: &IntOrString, container: &Container) -> u16 {
    let named = match port {
        IntOrString::String(name) => container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)),
        IntOrString::Int(_) => None,
    };
    named.map_or_else(|| number(port), |p| u16::try_from(p.container_port).unwrap_or(0))
}
