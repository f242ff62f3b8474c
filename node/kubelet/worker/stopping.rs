//! The end of a Pod and of its containers: hooks, order, grace.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::time::Instant;
use tracing::debug;

use super::{Worker, lasting};
use crate::pod::{self, Observation, Sandbox, State};
use crate::{Error, probes};

impl Worker {
    /// Stops all containers at the same time, each with its preStop hook first, then the sandbox. A new version of the
    /// Pod (a shorter grace period) interrupts it.
    pub(super) async fn terminate(&mut self, pod: &Pod, observed: &Observation) -> Result<(), Error> {
        self.probing.clear();
        // What the node has too little of is needed soon.
        let grace = self.evicted.as_ref().map_or(grace(pod), |evicted| grace(pod).min(evicted.grace_seconds_max));
        let running = observed.containers.iter().filter(|(_, c)| !matches!(c.state, State::Exited { .. }));
        let stops: Vec<_> = running.map(|(name, c)| (name.clone(), c.id.clone())).collect();
        for (name, _) in &stops {
            self.note("Killing", format!("Stopping container {name}"), false, name);
        }
        let mut pods = self.pods.clone();
        tokio::select! {
            () = self.stop_in_order(pod, stops, grace) => {}
            _ = pods.changed() => return Ok(()),
        }
        if let Some(sandbox) = &observed.sandbox {
            self.shared.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// The main containers together, then the sidecars, the last to start first, in what is left of the grace period.
    async fn stop_in_order(&self, pod: &Pod, stops: Vec<(String, String)>, grace: i64) {
        let begin = Instant::now();
        let sidecars = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| pod::is_sidecar(c));
        let sidecars: Vec<&str> = sidecars.map(|c| c.name.as_str()).collect();
        let (last, first): (Vec<_>, Vec<_>) = stops.into_iter().partition(|(name, _)| sidecars.contains(&name.as_str()));
        futures::future::join_all(first.iter().map(|(name, id)| self.stop_container(pod, name, id, grace))).await;
        for sidecar in sidecars.iter().rev() {
            let Some((name, id)) = last.iter().find(|(name, _)| name == sidecar) else { continue };
            let used = i64::try_from(begin.elapsed().as_secs()).unwrap_or(0);
            if let Err(why) = self.stop_container(pod, name, id, (grace - used).max(0)).await {
                debug!(pod = %self.key, %why, "a sidecar does not stop");
            }
        }
    }

    pub(super) async fn stop_container(&self, pod: &Pod, name: &str, id: &str, grace_seconds: i64) -> Result<(), Error> {
        let begin = Instant::now();
        let container = lasting(pod).find(|c| c.name == name);
        let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        if let Some((container, hook)) = hook.filter(|_| grace_seconds > 0) {
            let limit = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
            let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
            let sandbox = Sandbox { id: String::new(), attempt: 0, ip, created_at: None, fenced: false };
            if let Err(why) = self.run_hook((container, hook), id, &sandbox, limit).await {
                self.note("FailedPreStopHook", format!("PreStopHook failed: {why}"), true, name);
            }
        }
        let used = i64::try_from(begin.elapsed().as_secs()).unwrap_or(0);
        // Kubernetes gives a container two seconds even when its hook has used up the grace period.
        let left = if grace_seconds == 0 { 0 } else { (grace_seconds - used).max(2) };
        self.shared.runtime.stop_container(id, left).await
    }

    pub(super) async fn run_hook(
        &self,
        (container, hook): (&Container, &LifecycleHandler),
        id: &str,
        sandbox: &Sandbox,
        limit: Duration,
    ) -> Result<(), Error> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let (code, output) = self.shared.runtime.exec(id, &command, limit).await?;
            return if code == 0 { Ok(()) } else { Err(Error::Runtime(format!("command exited with {code}: {}", output.trim()))) };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(limit)).await;
        }
        if let Some(get) = &hook.http_get {
            let asked = probes::http_get(get, &sandbox.ip, container);
            return tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err("timed out".into())).map_err(Error::Runtime);
        }
        Ok(())
    }
}

/// How long the Pod's containers have to end by themselves.
pub(super) fn grace(pod: &Pod) -> i64 {
    let stated = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(stated).unwrap_or(30).max(0)
}
