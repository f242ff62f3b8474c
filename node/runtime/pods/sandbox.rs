//! The life of a Pod's sandbox: monitor, namespaces, network.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skein_cri as v1;
use skein_monitor::{Mapping, Pod, Request, monitor_cgroup};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Pods, Sandbox, SandboxRecord, SandboxState, create, new_id, now_ns, write};
use crate::monitor::Line;
use crate::network::{Network, Target};
use crate::{Error, io};

const MONITOR_END_TIMEOUT: Duration = Duration::from_secs(5);

// === impl Pods ===

impl Pods {
    pub(crate) async fn run_sandbox(self: &Arc<Self>, config: v1::PodSandboxConfig, handler: String) -> Result<String, Error> {
        if !handler.is_empty() {
            return Err(Error::Invalid(format!("no runtime for {handler:?} is configured")));
        }
        let id = new_id();
        let directory = self.place("pods").join(&id);
        let record = SandboxRecord { created_at_ns: now_ns(), handler, state: SandboxState::Creating, monitor: 0, addresses: Vec::new() };
        create(&directory, &config, &record)?;
        let sandbox = Arc::new(Sandbox { id: id.clone(), directory, config, record: watch::Sender::new(record) });
        write(&self.sandboxes).insert(id.clone(), Arc::clone(&sandbox));
        match self.make(&sandbox).await {
            Ok(()) => {
                self.tell(v1::ContainerEventType::ContainerStartedEvent, &id);
                Ok(id)
            }
            Err(why) => {
                if let Err(left) = self.remove_sandbox(&id).await {
                    warn!(pod = %id, %left, "a Pod that could not be made cannot be removed");
                }
                Err(why)
            }
        }
    }

    async fn make(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let namespaces = sandbox.namespaces();
        let own_network = namespaces.network() != v1::NamespaceMode::Node;
        write_files(sandbox)?;
        let pod = Pod {
            id: sandbox.id.clone(),
            directory: sandbox.directory.clone(),
            hostname: sandbox.config.hostname.clone(),
            own_network,
            own_ipc: namespaces.ipc() != v1::NamespaceMode::Node,
            shared_pid: namespaces.pid() == v1::NamespaceMode::Pod,
            sysctls: sandbox.config.linux.as_ref().map(|l| l.sysctls.clone().into_iter().collect()).unwrap_or_default(),
            cgroup: sandbox.cgroup(),
            users: users(&namespaces)?,
            lease: sandbox.config.annotations.get(skein_cri::LEASE).map(PathBuf::from),
        };
        let zygote = Arc::clone(&self.zygote);
        let monitor = tokio::task::spawn_blocking(move || zygote.monitor(&pod)).await;
        let monitor = monitor.map_err(|why| Error::Invalid(why.to_string()))??;
        sandbox.change(|record| record.monitor = monitor)?;
        let addresses = if own_network { Network::find(&self.options)?.add(&target(sandbox)).await? } else { Vec::new() };
        sandbox.change(|record| {
            record.addresses = addresses;
            record.state = SandboxState::Ready;
        })?;
        self.listen(sandbox, Line::open(&sandbox.directory).await?);
        Ok(())
    }

    /// Ends all containers and gives the network back; repeating it is no error.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        let monitors = monitor_cgroup(&sandbox.cgroup());
        if let Ok(mut line) = Line::open(&sandbox.directory).await {
            if let Err(why) = self.disconnect(&sandbox).await {
                debug!(pod = %id, %why, "the network is given back again later");
            }
            // It answers, kills its containers, and ends.
            let _ = line.ask(&Request::Quit, &[]).await;
            let begin = Instant::now();
            while !self.hierarchies.members(&monitors).is_empty() && begin.elapsed() < MONITOR_END_TIMEOUT {
                sleep(Duration::from_millis(1)).await;
            }
        }
        self.lost(&sandbox);
        self.kill_all(&monitors);
        // Deleting is to be repeated until it succeeds (CNI section 2): a Pod keeps its address until then.
        self.disconnect(&sandbox).await?;
        self.hierarchies.remove(&sandbox.cgroup());
        let _ = nix::mount::umount2(&sandbox.directory.join("shm"), nix::mount::MntFlags::MNT_DETACH);
        Ok(())
    }

    async fn disconnect(&self, sandbox: &Sandbox) -> Result<(), Error> {
        if sandbox.namespaces().network() == v1::NamespaceMode::Node {
            return Ok(());
        }
        match Network::find(&self.options) {
            Ok(network) => network.delete(&target(sandbox)).await,
            // Without a configuration no Pod was connected.
            Err(_) => Ok(()),
        }
    }

    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(&sandbox.id).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        fs::remove_dir_all(&sandbox.directory).map_err(io(format!("cannot remove {}", sandbox.directory.display())))?;
        write(&self.sandboxes).remove(&sandbox.id);
        self.tell(v1::ContainerEventType::ContainerDeletedEvent, &sandbox.id);
        Ok(())
    }

    /// The network namespace of a sandbox that runs.
    pub(crate) fn network_namespace(&self, id: &str) -> Option<String> {
        let sandbox = self.sandbox(id).ok()?;
        let namespace = target(&sandbox).namespace;
        (!namespace.is_empty()).then_some(namespace)
    }
}

fn target(sandbox: &Sandbox) -> Target<'_> {
    let metadata = sandbox.config.metadata.as_ref();
    let monitor = sandbox.record.borrow().monitor;
    let text = |get: fn(&v1::PodSandboxMetadata) -> &String| metadata.map_or("", |m| get(m).as_str());
    let namespace = format!("/proc/{monitor}/ns/net");
    Target {
        id: &sandbox.id,
        namespace: if monitor > 0 && std::path::Path::new(&namespace).exists() { namespace } else { String::new() },
        pod_name: text(|m| &m.name),
        pod_namespace: text(|m| &m.namespace),
        pod_uid: text(|m| &m.uid),
        ports: &sandbox.config.port_mappings,
    }
}

/// `/etc/hostname` and `/etc/resolv.conf` of the Pod's containers.
fn write_files(sandbox: &Sandbox) -> Result<(), Error> {
    let write = |name: &str, content: String| {
        let path = sandbox.directory.join(name);
        fs::write(&path, content).map_err(io(format!("cannot write {}", path.display())))
    };
    if !sandbox.config.hostname.is_empty() {
        write("hostname", format!("{}\n", sandbox.config.hostname))?;
    }
    let dns = sandbox.config.dns_config.clone().unwrap_or_default();
    if dns == v1::DnsConfig::default() {
        return write("resolv.conf", fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    write("resolv.conf", text)
}

/// The Pod's own users: one range from 0 on, the same for groups.
fn users(namespaces: &v1::NamespaceOption) -> Result<Option<Mapping>, Error> {
    let Some(wanted) = namespaces.userns_options.as_ref().filter(|options| options.mode() != v1::NamespaceMode::Node) else {
        return Ok(None);
    };
    match (wanted.uids.as_slice(), wanted.gids.as_slice()) {
        ([uids], [gids])
            if uids == gids && uids.container_id == 0 && uids.length > 0 && uids.host_id.checked_add(uids.length).is_some() =>
        {
            Ok(Some(Mapping { first: uids.host_id, length: uids.length }))
        }
        _ => Err(Error::Invalid("a user namespace wants one range of users from 0 on, and the same of groups".into())),
    }
}
