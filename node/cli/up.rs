//! `skein up`: runs a node.

mod eviction;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use skein_daemon::{
    AuditOptions, ChaosOptions, Ended, ImageGc, LogLimits, OpenIdOptions, Options, Reserved, Runtime, ShutdownGrace, Token, Tunnels,
};
use skein_object::quantity::Quantity;
use tokio::signal::unix::{SignalKind, signal};

/// As Calico names them.
#[derive(Clone, Copy, ValueEnum)]
enum VxlanMode {
    CrossSubnet,
    Always,
    Never,
}

impl From<VxlanMode> for Tunnels {
    fn from(mode: VxlanMode) -> Self {
        match mode {
            VxlanMode::CrossSubnet => Self::CrossSubnet,
            VxlanMode::Always => Self::Always,
            VxlanMode::Never => Self::Never,
        }
    }
}

#[derive(Args)]
pub(crate) struct Arguments {
    /// The node's name [default: this machine's host name]
    #[arg(long)]
    name: Option<String>,
    /// Where the node keeps its keys, the log and the state
    #[arg(long, default_value = "/var/lib/skein")]
    data_dir: PathBuf,
    /// The address at which other nodes and clients reach this one
    #[arg(long)]
    address: IpAddr,
    /// Port of the Kubernetes API (TCP)
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// Port of the node's kubelet, for what scrapes metrics there (TCP); 0 for none
    #[arg(long, default_value_t = 10250)]
    kubelet_port: u16,
    /// Port for other nodes (UDP)
    #[arg(long, default_value_t = 6444)]
    peer_port: u16,
    /// Port for DNS (UDP and TCP); Pods use the ClusterIP of kube-system/kube-dns
    #[arg(long, default_value_t = 6453)]
    dns_port: u16,
    /// Join the cluster of this token, made there by `skein token create`; without it a cluster is founded
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// Only vote, as the third beside two nodes that keep the state: this one keeps none (but the end of the log), holds
    /// no keys of the cluster, answers no API, and runs no Pods
    #[arg(long)]
    witness: bool,
    /// Where the ClusterIPs of Services come from
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: String,
    /// When packets to other nodes' Pods go through a tunnel (VXLAN, UDP port 4790): to nodes that share no link with this
    /// one, to all, or never, where routers know the way to Pods
    #[arg(long, value_enum, default_value = "cross-subnet")]
    vxlan_mode: VxlanMode,
    /// The socket of another container runtime (CRI v1), as in /run/containerd/containerd.sock [default: Skein's own]
    #[arg(long)]
    container_runtime_endpoint: Option<PathBuf>,
    /// Where the container runtime looks for CNI configuration
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where Skein's runtime looks for CNI plugins besides its own
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// A registry that Skein's runtime asks over plain HTTP, as host:port
    #[arg(long)]
    insecure_registry: Vec<String>,
    /// The cgroup below which Pods get theirs
    #[arg(long, default_value = "/skein")]
    cgroup_root: String,
    /// Where Pods' volumes and logs and the sockets of plugins are. Many CSI drivers' manifests expect /var/lib/kubelet
    /// [default: kubelet in the data directory]
    #[arg(long)]
    kubelet_root_dir: Option<PathBuf>,
    /// A directory with manifests of Pods that this node runs by itself (static Pods)
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// A container's log file that has grown over this is rotated
    #[arg(long, default_value = "10Mi", value_parser = bytes)]
    container_log_max_size: u64,
    /// How many log files are kept of a container
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    container_log_max_files: u16,
    #[command(flatten)]
    eviction: eviction::Arguments,
    /// What of the node is kept for the system's own processes, like cpu=200m,memory=1Gi: Pods are not placed on it
    #[arg(long, default_value = "")]
    system_reserved: Reserved,
    /// … and for Skein's
    #[arg(long, default_value = "")]
    kube_reserved: Reserved,
    /// When more of the disk is used than this, in percent, images go that nobody uses …
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// … until less than this is used
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// An image stays for so long after it has come, used or not
    #[arg(long, default_value = "2m", value_parser = eviction::span)]
    minimum_image_ttl_duration: Duration,
    /// An image goes when nobody has used it for so long, however much room there is; 0s for never
    #[arg(long, default_value = "0s", value_parser = eviction::span)]
    image_maximum_gc_age: Duration,
    /// What Pods get to end when this machine goes down, all together; the Node is not ready then. Needs systemd's logind;
    /// 0s for nothing
    #[arg(long, default_value = "0s", value_parser = eviction::span)]
    shutdown_grace_period: Duration,
    /// How much of that is for critical Pods, which end last
    #[arg(long, default_value = "0s", value_parser = eviction::span)]
    shutdown_grace_period_critical_pods: Duration,
    /// How long the certificates hold that this node signs while it votes: of nodes, which renew themselves after 70 to
    /// 90 % of it, and at most of CertificateSigningRequests
    #[arg(long, default_value = "720h", value_parser = duration)]
    cluster_signing_duration: Duration,
    /// Write down who asked what of this node's API, as JSON lines (audit.k8s.io/v1)
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// How much of which requests is written down (kind Policy of audit.k8s.io/v1) [default: metadata of all]
    #[arg(long, requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// The audit log is turned over when it has grown to this
    #[arg(long, default_value = "100Mi", value_parser = bytes)]
    audit_log_max_size: u64,
    /// How many audit logs that were turned over are kept
    #[arg(long, default_value_t = 10)]
    audit_log_max_backup: usize,
    #[command(flatten)]
    openid: OpenId,
    /// Let experiments (ChaosExperiment, chaos.skein.dev) make faults on this node: whoever may create one may kill or
    /// pause its daemon and cut its network, for a time
    #[arg(long)]
    chaos: bool,
    /// Labels for the Node, as in a=b,c=d
    #[arg(long, value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// The region that the node is in (its label topology.kubernetes.io/region); those who vote are spread over regions
    #[arg(long, value_parser = place)]
    region: Option<String>,
    /// The zone that the node is in (its label topology.kubernetes.io/zone)
    #[arg(long, value_parser = place)]
    zone: Option<String>,
}

/// Whose tokens this node's API believes besides the cluster's own (OpenID Connect). Give all nodes the same.
#[derive(Args)]
struct OpenId {
    /// The OpenID provider's URL, as it stands in its tokens; only https
    #[arg(long, requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// What tokens must be for
    #[arg(long, requires = "oidc_issuer_url")]
    oidc_client_id: Option<String>,
    /// The claim that is the user's name
    #[arg(long, default_value = "sub")]
    oidc_username_claim: String,
    /// Put before the name; - is nothing [default: the issuer's URL and #, but nothing before an email]
    #[arg(long)]
    oidc_username_prefix: Option<String>,
    /// The claim that is the user's groups
    #[arg(long)]
    oidc_groups_claim: Option<String>,
    /// Put before each group
    #[arg(long, default_value = "")]
    oidc_groups_prefix: String,
    /// A claim that tokens must have, as in a=b; may be given several times
    #[arg(long, value_parser = label)]
    oidc_required_claim: Vec<(String, String)>,
    /// Algorithms that tokens may be signed with
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    oidc_signing_algs: Vec<String>,
    /// The CA of the provider [default: those that this machine trusts]
    #[arg(long)]
    oidc_ca_file: Option<PathBuf>,
}

// === impl OpenId ===

impl OpenId {
    fn options(self) -> Option<OpenIdOptions> {
        Some(OpenIdOptions {
            issuer_url: self.oidc_issuer_url?,
            client_id: self.oidc_client_id?,
            username_claim: self.oidc_username_claim,
            username_prefix: self.oidc_username_prefix,
            groups_claim: self.oidc_groups_claim,
            groups_prefix: self.oidc_groups_prefix,
            required_claims: self.oidc_required_claim.into_iter().collect(),
            signing_algorithms: self.oidc_signing_algs,
            ca_file: self.oidc_ca_file,
        })
    }
}

fn place(text: &str) -> Result<String, String> {
    skein_object::names::label_value(text).map(|()| text.to_string()).map_err(|why| why.to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form key=value"))?;
    Ok((key.into(), value.into()))
}

/// A time, as Go writes one: `720h`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let span: SignedDuration = text.parse().map_err(|_| format!("{text:?} is not a duration like 720h"))?;
    Duration::try_from(span).ok().filter(|time| time.as_secs() >= 10).ok_or_else(|| format!("{text:?} is too short"))
}

/// A quantity, as Kubernetes writes sizes.
fn bytes(text: &str) -> Result<u64, String> {
    let quantity: Quantity = text.parse().map_err(|_| format!("{text:?} is not a quantity like 10Mi"))?;
    u64::try_from(quantity.units()).ok().filter(|b| *b > 0).ok_or_else(|| format!("{text:?} is not a size"))
}

/// The one that was named, or Skein's own, as a process of this same program.
fn container_runtime(arguments: &Arguments) -> Result<Runtime> {
    let own = arguments.data_dir.join("runtime.sock");
    let text = |path: &std::path::Path| path.display().to_string();
    let mut command = vec![text(&std::env::current_exe().context("cannot find this program")?), "runtime".into()];
    for (option, path) in [
        ("--directory", &arguments.data_dir.join("runtime")),
        ("--endpoint", &own),
        ("--cni-conf-dir", &arguments.cni_conf_dir),
        ("--cni-bin-dir", &arguments.cni_bin_dir),
    ] {
        command.extend([option.into(), text(path)]);
    }
    command.extend(arguments.insecure_registry.iter().flat_map(|registry| ["--insecure-registry".into(), registry.clone()]));
    let foreign = arguments.container_runtime_endpoint.clone();
    Ok(Runtime {
        command: foreign.is_none().then_some(command),
        endpoint: foreign.unwrap_or(own),
        cni_directory: arguments.cni_conf_dir.clone(),
        cgroup_root: arguments.cgroup_root.clone(),
    })
}

/// The agent, as a process of this same program.
fn chaos(name: &str, data: &std::path::Path) -> Result<ChaosOptions> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let command = [program.display().to_string(), "chaos".into(), "agent".into(), "--node".into(), name.into(), "--data-dir".into()];
    let command = command.into_iter().chain([data.display().to_string()]).collect();
    Ok(ChaosOptions { command, objects: skein_nemesis::definitions() })
}

/// The name that was given, or the host's.
pub(crate) fn node_name(given: Option<String>) -> Result<String> {
    match given {
        Some(name) => Ok(name),
        None => {
            Ok(std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host name: give --name")?.trim().to_string())
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    crate::log_to_stderr();
    let runtime = container_runtime(&arguments)?;
    let join = arguments.join.as_deref().map(str::parse::<Token>).transpose()?;
    let name = node_name(arguments.name)?;
    let place = |place: &Option<String>| place.clone().unwrap_or_default();
    let witness = arguments.witness.then(|| format!("{}/{}", place(&arguments.region), place(&arguments.zone)));
    let mut labels = arguments.node_labels;
    for (label, place) in [("topology.kubernetes.io/region", arguments.region), ("topology.kubernetes.io/zone", arguments.zone)] {
        labels.extend(place.map(|place| (label.to_string(), place)));
    }
    let image_gc = ImageGc {
        high_percent: arguments.image_gc_high_threshold,
        low_percent: arguments.image_gc_low_threshold,
        age_min: arguments.minimum_image_ttl_duration,
        unused_max: arguments.image_maximum_gc_age,
    };
    ensure!(
        image_gc.low_percent < image_gc.high_percent,
        "--image-gc-low-threshold must be less than --image-gc-high-threshold, but it is {} and not below {}",
        image_gc.low_percent,
        image_gc.high_percent
    );
    let shutdown = ShutdownGrace { total: arguments.shutdown_grace_period, critical: arguments.shutdown_grace_period_critical_pods };
    ensure!(
        shutdown.critical <= shutdown.total,
        "--shutdown-grace-period-critical-pods must be at most --shutdown-grace-period, but it is {} and not {} seconds",
        shutdown.critical.as_secs(),
        shutdown.total.as_secs()
    );
    let audit = arguments.audit_log_path.map(|path| AuditOptions {
        path,
        policy: arguments.audit_policy_file,
        bytes_max: arguments.audit_log_max_size,
        files_max: arguments.audit_log_max_backup,
    });
    let options = Options {
        chaos: arguments.chaos.then(|| chaos(&name, &arguments.data_dir)).transpose()?,
        name,
        audit,
        openid: arguments.openid.options(),
        kubelet_directory: arguments.kubelet_root_dir.unwrap_or_else(|| arguments.data_dir.join("kubelet")),
        directory: arguments.data_dir,
        address: arguments.address,
        api_port: arguments.api_port,
        kubelet_port: Some(arguments.kubelet_port).filter(|port| *port != 0),
        peer_port: arguments.peer_port,
        dns_port: arguments.dns_port,
        join,
        witness,
        service_range: arguments.service_cluster_ip_range,
        tunnels: arguments.vxlan_mode.into(),
        runtime,
        labels,
        logs: LogLimits { bytes_max: arguments.container_log_max_size, files_max: arguments.container_log_max_files.into() },
        manifests: arguments.pod_manifest_path,
        eviction: arguments.eviction.eviction()?,
        reserved: vec![arguments.system_reserved, arguments.kube_reserved],
        image_gc,
        shutdown: Some(shutdown).filter(|grace| !grace.total.is_zero()),
        signing_duration: arguments.cluster_signing_duration,
    };
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = threads.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        anyhow::Ok(skein_daemon::run(options, stop).await?)
    })?;
    if ended == Ended::Recoverable {
        // The same process, from the beginning: whoever watches it sees no end.
        let program = std::env::current_exe().context("cannot find this program")?;
        let why = std::os::unix::process::CommandExt::exec(std::process::Command::new(program).args(std::env::args_os().skip(1)));
        return Err(why).context("cannot start again");
    }
    Ok(())
}
