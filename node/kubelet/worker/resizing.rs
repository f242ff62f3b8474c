//! Resizes of running containers: whether there is room, and how it is done.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use skein_cri as v1;
use skein_object::{Key, amounts};
use tokio::time::Instant;

use super::{START_RETRY, Worker, lasting};
use crate::pod::{Observation, State};
use crate::resize::{self, Change, Pending};
use crate::{Error, resources};

impl Worker {
    /// Containers that should have other resources than they were given, where the node has them to give.
    pub(super) fn resizes(&mut self, pod: &Pod, observed: &Observation) -> BTreeMap<String, Change> {
        let mut resizes = BTreeMap::new();
        let mut is_new = false;
        for container in lasting(pod) {
            let Some(found) = observed.containers.get(&container.name).filter(|c| c.state == State::Running) else { continue };
            let given = self.given.get(&found.id);
            let Some(change) = resize::change(container, &resources::linux_resources(pod, container), given) else { continue };
            is_new |= given.is_some();
            resizes.insert(container.name.clone(), change);
        }
        if !is_new {
            // What could not be written is tried again, and told until it is.
            self.pending = self.pending.take().filter(|_| !resizes.is_empty());
        } else if let Err(pending) = self.has_room(pod) {
            self.pending = Some(pending);
        } else {
            self.pending = self.pending.take().filter(|pending| pending.condition != resize::PENDING);
            return resizes;
        }
        if self.pending.is_some() { BTreeMap::new() } else { resizes }
    }

    /// Whether this node has what the Pod asks for, beside its other Pods.
    fn has_room(&self, pod: &Pod) -> Result<(), Pending> {
        let state = self.shared.store.local().state;
        let node = state.show(&Key::new("nodes", "", &self.shared.options.name)).unwrap_or_default();
        let mut others = amounts::Amounts::new();
        for other in state.show_all("pods") {
            let is_here = other["spec"]["nodeName"] == self.shared.options.name.as_str();
            let has_ended = matches!(other["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if is_here && !has_ended && other["metadata"]["uid"] != self.uid.as_str() {
                amounts::add(&mut others, amounts::of_pod(&other, "requests"));
            }
        }
        let asked = amounts::of_pod(&serde_json::to_value(pod).unwrap_or_default(), "requests");
        resize::fit(&asked, &others, &amounts::quantities(&node["status"]["allocatable"]))
    }

    pub(super) async fn resize(&mut self, pod: &Pod, name: &str, id: &str) -> Result<(), Error> {
        if self.retry_at.get(name).is_some_and(|at| Instant::now() < *at) {
            return Ok(());
        }
        let Some(container) = lasting(pod).find(|c| c.name == name) else { return Ok(()) };
        let wanted = resources::linux_resources(pod, container);
        let known = self.given.get(id);
        let limit = u64::try_from(wanted.memory_limit_in_bytes).unwrap_or(0);
        let shrinks =
            known.is_some_and(|known| known.memory_limit_in_bytes == 0 || known.memory_limit_in_bytes > wanted.memory_limit_in_bytes);
        let used = if limit > 0 && shrinks { self.shared.runtime.memory_usage(id).await? } else { 0 };
        let done = if used > limit {
            let why = format!("attempting to set container memory limit ({limit}) below current usage ({used})");
            Err(Error::Runtime(why))
        } else {
            let limits = v1::LinuxContainerResources { oom_score_adj: 0, ..wanted.clone() };
            self.shared.runtime.update_resources(id, limits).await
        };
        match done {
            Ok(()) => {
                self.pending = None;
                self.given.insert(id.into(), wanted);
                self.retry_at.remove(name);
                Ok(())
            }
            Err(why) => {
                self.retry_at.insert(name.into(), Instant::now() + START_RETRY);
                self.pending = Some(Pending { condition: resize::IN_PROGRESS, reason: "Error", message: why.to_string() });
                Err(why)
            }
        }
    }
}
