//! What the runtime is asked for: the configuration of a Pod's sandbox and of its containers.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Volume};
use skein_cri as v1;
use skein_object::fence::{is_fenced, is_wanted};
use skein_state::{Entry, State};
use tracing::debug;

use super::Worker;
use crate::cri::{CONTAINER_NAME, labels};
use crate::csi::{self, Mounted};
use crate::env::{Source, expand, resolve};
use crate::hosts::Names;
use crate::images::Outcome;
use crate::manifests::is_mirror;
use crate::pod::{self, Sandbox};
use crate::pod_certificate::has_certificates;
use crate::status::Waiting;
use crate::volumes::Brought;
use crate::{Error, dns, hosts, local_volume, logs, pull_secrets, resources, termination, users, volumes};

/// Where things of a Pod are on this node, and what the node is called by.
pub(super) struct Places {
    pub(super) pod: PathBuf,
    host_ip: String,
    local_volumes: PathBuf,
}

/// The users and groups of the node that are a Pod's own, where it asks for that.
fn users_of(pod: &Pod, places: &Places) -> Result<Option<v1::IdMapping>, Error> {
    let has_own = pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
    has_own.then(|| users::mapping(&places.pod)).transpose()
}

impl Worker {
    pub(super) fn places(&self) -> Places {
        let options = &self.shared.options;
        Places {
            pod: volumes::pod_directory(&options.directory, &self.pods.borrow()),
            host_ip: options.address.to_string(),
            local_volumes: local_volume::root(options),
        }
    }

    pub(super) fn source<'a>(&'a self, pod: &'a Pod, state: &'a State, places: &'a Places, pod_ip: &'a str) -> Source<'a> {
        let options = &self.shared.options;
        let is_in_hosts = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        Source {
            pod,
            state,
            node: &options.name,
            host_ip: &places.host_ip,
            pod_ip: if is_in_hosts { &places.host_ip } else { pod_ip },
            tokens: &*options.tokens,
            keyring: &options.keyring,
            credentials: &self.credentials,
            volumes: &places.local_volumes,
        }
    }

    /// Brings what the container's volumes are made of: images, and what CSI drivers mount.
    pub(super) async fn bring_volumes(&mut self, pod: &Pod, container: &Container, sandbox: &v1::PodSandboxConfig) -> Result<(), Waiting> {
        let is_used = |name: &str| {
            container.volume_mounts.iter().flatten().any(|mount| mount.name == name)
                || container.volume_devices.iter().flatten().any(|device| device.name == name)
        };
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|volume| is_used(&volume.name)) {
            let brought = match &volume.image {
                Some(image) => Some(Brought::Image(Box::pin(self.pull_volume(pod, image, sandbox)).await?)),
                None => Box::pin(self.mount_volume(pod, volume)).await?.map(Brought::Mount),
            };
            if let Some(brought) = brought {
                self.brought.insert(volume.name.clone(), brought);
            }
            if has_certificates(volume) {
                Box::pin(self.keep_credentials(pod)).await.map_err(|why| creating(why.to_string()))?;
                if !self.credentials.is_settled(volume) {
                    return Err(creating(String::new()));
                }
            }
        }
        Ok(())
    }

    /// Keeps the Pod's own certificates, where it has some.
    pub(super) async fn keep_credentials(&mut self, pod: &Pod) -> Result<(), Error> {
        let mut credentials = std::mem::take(&mut self.credentials);
        let (state, places) = (self.shared.store.local().state, self.places());
        let kept = credentials.keep(&self.source(pod, &state, &places, ""), &self.shared.store).await;
        self.credentials = credentials;
        kept
    }

    async fn pull_volume(&self, pod: &Pod, image: &ImageVolumeSource, sandbox: &v1::PodSandboxConfig) -> Result<String, Waiting> {
        let reference = image.reference.clone().unwrap_or_default();
        let credentials = pull_secrets::credentials(&self.shared.store.local().state, &self.shared.options.keyring, pod, &reference);
        let wanted = (reference.as_str(), image.pull_policy.as_deref().unwrap_or("IfNotPresent"));
        match self.shared.pulls.ensure(&self.shared.runtime, wanted, credentials, sandbox.clone()).await {
            Outcome::Present(found) | Outcome::Pulled { reference: found, .. } => Ok(found),
            Outcome::Waiting(waiting) => Err(waiting),
        }
    }

    /// `None` where the volume is not a driver's.
    async fn mount_volume(&self, pod: &Pod, volume: &Volume) -> Result<Option<Mounted>, Waiting> {
        let failed = |why: Error| creating(format!("MountVolume.SetUp failed for volume {:?} : {why}", volume.name));
        let (state, places) = (self.shared.store.local().state, self.places());
        let source = self.source(pod, &state, &places, "");
        let Some(of_driver) = csi::volume_of(&source, volume).map_err(failed)? else { return Ok(None) };
        let mounted = self.shared.options.csi.mount(&source, &places.pod, &of_driver).await.map_err(failed)?;
        // Whoever attaches tells if he cannot.
        mounted.map(Some).ok_or_else(|| creating(String::new()))
    }

    /// What drivers do for a Pod that runs: volumes that have grown, and those that are to be published again.
    pub(super) async fn keep_mounts(&self, pod: &Pod) {
        let (state, places) = (self.shared.store.local().state, self.places());
        let (source, csi) = (self.source(pod, &state, &places, ""), &self.shared.options.csi);
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            if !matches!(self.brought.get(&volume.name), Some(Brought::Mount(_))) {
                continue;
            }
            let Ok(Some(of_driver)) = csi::volume_of(&source, volume) else { continue };
            if let Err(why) = csi.expand(&source, &self.shared.store, &places.pod, &of_driver).await {
                self.note("VolumeResizeFailed", format!("NodeExpandVolume failed for volume {:?} : {why}", of_driver.name), true, "");
            }
            if of_driver.stated.requires_republish == Some(true)
                && let Err(why) = csi.mount(&source, &places.pod, &of_driver).await
            {
                debug!(pod = %self.key, %why, "a volume cannot be published again");
            }
        }
    }

    pub(super) fn container_config(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &Sandbox,
        attempt: u32,
        image: String,
    ) -> Result<v1::ContainerConfig, Waiting> {
        let mount_failed = |why: Error| Waiting { reason: "ContainerCreating".into(), message: format!("MountVolume.SetUp failed: {why}") };
        let config_failed = |why: Error| Waiting { reason: "CreateContainerConfigError".into(), message: why.to_string() };
        let options = &self.shared.options;
        // The lease first, then the state: under a lease that holds, the state knows whether the Pod is to be here still.
        let term = sandbox.fenced.then(|| self.lease_term()).transpose()?;
        let state = self.shared.store.local().state;
        let is_there = |entry: &Entry| entry.record.field("metadata").is_some_and(|metadata| metadata["uid"] == self.uid.as_str());
        if sandbox.fenced && !state.get(&self.key).is_some_and(is_there) {
            return Err(Waiting { reason: "ContainerCreating".into(), message: "the Pod is gone".into() });
        }
        let places = self.places();
        let source = self.source(pod, &state, &places, &sandbox.ip);
        let prepared = volumes::prepare(&source, &places.pod, &self.brought).map_err(mount_failed)?;
        let variables = resolve(&source, container, &prepared).map_err(config_failed)?;
        let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, &variables)).collect::<Vec<_>>();
        let mut labels = labels(pod);
        labels.insert(CONTAINER_NAME.into(), container.name.clone());
        std::fs::create_dir_all(logs::directory(&options.directory, pod).join(&container.name))
            .map_err(|source| mount_failed(Error::Io { what: "the log directory".into(), source }))?;
        let wanted = container.volume_mounts.as_deref().unwrap_or_default();
        let mut mounts = prepared.mounts(&places.pod, (&container.name, wanted), &variables).map_err(config_failed)?;
        if !mounts.iter().any(|mount| mount.container_path == HOSTS) {
            mounts.push(hosts_mount(pod, source.pod_ip, &places).map_err(mount_failed)?);
        }
        mounts.push(termination::prepare(&places.pod, container, attempt).map_err(mount_failed)?);
        let users = users_of(pod, &places).map_err(config_failed)?;
        for mount in mounts.iter_mut().filter(|mount| mount.image.is_none()) {
            (mount.uid_mappings, mount.gid_mappings) = (users.into_iter().collect(), users.into_iter().collect());
        }
        let mut config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt }),
            image: Some(v1::ImageSpec { image, user_specified_image: container.image.clone().unwrap_or_default(), ..Default::default() }),
            command: expanded(&container.command),
            args: expanded(&container.args),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            envs: variables.iter().map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() }).collect(),
            mounts,
            devices: prepared.devices(container).map_err(config_failed)?,
            labels,
            log_path: logs::file(&container.name, attempt),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(resources::linux_resources(pod, container)),
                security_context: Some(resources::security_context(pod, container, &options.seccomp_profiles(), users.as_ref())),
            }),
            ..Default::default()
        };
        config.annotations.extend(term.map(|term| (v1::LEASE_TERM.to_string(), term.to_string())));
        let signal = container.lifecycle.as_ref().and_then(|lifecycle| signal(lifecycle.stop_signal.as_deref()?));
        config.set_stop_signal(signal.unwrap_or_default());
        Ok(config)
    }

    pub(super) fn sandbox_config(&self, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, Error> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let parent = format!("{}/pod{}", self.shared.options.cgroup_root.trim_end_matches('/'), self.uid);
        let users = users_of(pod, &self.places())?;
        let sysctls = pod.spec.iter().flat_map(|s| s.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()));
        Ok(v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: text(&pod.metadata.name),
                uid: self.uid.clone(),
                namespace: text(&pod.metadata.namespace),
                attempt,
            }),
            hostname: Names::of(pod).hostname(pod).map_err(Error::Config)?,
            log_directory: logs::directory(&self.shared.options.directory, pod).display().to_string(),
            annotations: self.fence(pod).into_iter().collect(),
            labels: labels(pod),
            dns_config: Some(dns::config(pod, &self.shared.options.cluster_dns, &dns::Resolver::of_node())),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: parent,
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(resources::namespaces(pod, users.as_ref())),
                    ..Default::default()
                }),
                sysctls: sysctls.map(|one| (one.name.replace('/', "."), one.value.clone())).collect(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// What binds a Pod that must not run twice to the node's lease, where the runtime knows of leases and the leader grants
    /// them, as one of an older version does not.
    fn fence(&self, pod: &Pod) -> Option<(String, String)> {
        let lease = &self.shared.options.lease;
        let is_bound = self.fenced || is_fenced(pod);
        let can_be = lease.term().is_some() && is_wanted(pod) && !is_mirror(pod);
        (self.shared.fences() && (is_bound || can_be)).then(|| (v1::LEASE.to_string(), lease.path().display().to_string()))
    }

    fn lease_term(&self) -> Result<u64, Waiting> {
        let message = "the node's lease has run out: no leader with a majority has heard of it";
        let waiting = || Waiting { reason: "ContainerCreating".into(), message: message.into() };
        self.shared.options.lease.term().ok_or_else(waiting)
    }

    /// What is to be told of a container that has ended: what the runtime says, and what it said itself.
    pub(super) fn last_words(&self, container: &v1::Container, status: &v1::ContainerStatus) -> String {
        let pod = self.pods.borrow().clone();
        let name = container.labels.get(CONTAINER_NAME).cloned().unwrap_or_default();
        let ephemeral = pod::ephemeral(&pod);
        let Some(stated) = pod::containers(&pod).chain(&ephemeral).find(|one| one.name == name) else { return status.message.clone() };
        let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt);
        let log = logs::directory(&self.shared.options.directory, &pod).join(logs::file(&name, attempt));
        let said = termination::message(&self.places().pod, stated, (attempt, status.exit_code), &log);
        [status.message.clone(), said].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

/// A container waits for its volumes; without a message nothing is wrong.
fn creating(message: String) -> Waiting {
    Waiting { reason: "ContainerCreating".into(), message }
}

/// `SIGUSR1`, `SIGRTMIN+1`.
fn signal(name: &str) -> Option<v1::Signal> {
    v1::Signal::from_str_name(&format!("SIGNAL_{}", name.replace('+', "PLUS").replace('-', "MINUS")))
}

const HOSTS: &str = "/etc/hosts";

/// The Pod's own `/etc/hosts`.
fn hosts_mount(pod: &Pod, address: &str, places: &Places) -> Result<v1::Mount, Error> {
    let path = places.pod.join("etc-hosts");
    let text = hosts::file(pod, address, &std::fs::read_to_string(HOSTS).unwrap_or_default());
    let write = || {
        std::fs::create_dir_all(&places.pod)?;
        std::fs::write(&path, text)
    };
    write().map_err(|source| Error::Io { what: path.display().to_string(), source })?;
    Ok(v1::Mount { container_path: HOSTS.into(), host_path: path.display().to_string(), ..Default::default() })
}
