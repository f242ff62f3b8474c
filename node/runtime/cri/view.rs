//! What the runtime knows, in CRI's shapes. Pure.

use std::collections::HashMap;

use skein_cri as v1;

use crate::images::Image;
use crate::pods::{Container, Sandbox, SandboxState, State};

pub(super) fn sandbox_state(sandbox: &Sandbox) -> v1::PodSandboxState {
    match sandbox.record.borrow().state {
        SandboxState::Ready => v1::PodSandboxState::SandboxReady,
        SandboxState::Creating | SandboxState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn sandbox(sandbox: &Sandbox) -> v1::PodSandbox {
    let record = sandbox.record.borrow().clone();
    v1::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox).into(),
        created_at: record.created_at_ns,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: record.handler,
    }
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let record = sandbox.record.borrow().clone();
    let mut addresses = record.addresses.into_iter();
    v1::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox).into(),
        created_at: record.created_at_ns,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(sandbox.namespaces()) }) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: record.handler,
    }
}

pub(super) fn container_state(container: &Container) -> v1::ContainerState {
    match *container.state.borrow() {
        State::Created => v1::ContainerState::ContainerCreated,
        State::Running(_) => v1::ContainerState::ContainerRunning,
        State::Exited(..) => v1::ContainerState::ContainerExited,
    }
}

/// The image as the user named it, where that is known.
fn image_spec(container: &Container) -> v1::ImageSpec {
    let spec = container.config.image.clone().unwrap_or_default();
    let image = if spec.user_specified_image.is_empty() { spec.image.clone() } else { spec.user_specified_image.clone() };
    v1::ImageSpec { image, ..spec }
}

pub(super) fn container(container: &Container) -> v1::Container {
    v1::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.record.sandbox.clone(),
        metadata: container.config.metadata.clone(),
        image: Some(image_spec(container)),
        image_ref: container.record.image_ref.clone(),
        state: container_state(container).into(),
        created_at: container.record.created_at_ns,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        image_id: container.record.image_id.clone(),
    }
}

pub(super) fn container_status(container: &Container) -> v1::ContainerStatus {
    let state = container.state.borrow().clone();
    let (started, exit) = match &state {
        State::Created => (None, None),
        State::Running(started) => (Some(*started), None),
        State::Exited(started, exit) => (*started, Some(exit.clone())),
    };
    let log = container.record.spec.log.as_ref().map(|p| p.display().to_string());
    let exit = exit.unwrap_or(skein_monitor::Exit { code: 0, finished_at_ns: 0, reason: String::new(), message: String::new() });
    v1::ContainerStatus {
        id: container.id.clone(),
        metadata: container.config.metadata.clone(),
        state: container_state(container).into(),
        created_at: container.record.created_at_ns,
        started_at: started.map_or(0, |s| s.started_at_ns),
        finished_at: exit.finished_at_ns,
        exit_code: exit.code,
        image: Some(image_spec(container)),
        image_ref: container.record.image_ref.clone(),
        reason: exit.reason,
        message: exit.message,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        mounts: container.config.mounts.clone(),
        log_path: log.unwrap_or_default(),
        image_id: container.record.image_id.clone(),
        ..Default::default()
    }
}

pub(super) fn image(image: &Image) -> v1::Image {
    let user = image.config.config.as_ref().and_then(|c| c.user.clone()).unwrap_or_default();
    let name = user.split(':').next().unwrap_or_default().to_string();
    let uid = if name.is_empty() { Some(0) } else { name.parse().ok() };
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { name },
        spec: Some(v1::ImageSpec { image: image.id.clone(), ..Default::default() }),
        pinned: false,
    }
}

/// Whether labels are all that a filter asks for.
pub(super) fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a filter names this one, in full or by a beginning.
pub(super) fn names(filter: &str, id: &str) -> bool {
    filter.is_empty() || id.starts_with(filter)
}
