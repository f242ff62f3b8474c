//! The kubelet: makes the containers on this node what the Pods bound to it say.
//!
//! ```text
//!   replica ─▶ agent ─▶ worker (one per Pod) ─▶ observe (CRI) ─▶ pod::step ─▶ actions ─▶ CRI
//!                                                    │                └────▶ status ─▶ store
//!                                                    └ again on: a new Pod version, a probe's result, time
//! ```
//!
//! [`pod`] and [`status`] are pure; the rest acts. A worker keeps nothing that it could not find again in the runtime
//! by the labels on sandboxes and containers, so a restart of the daemon adopts what runs. It works from the local
//! replica: without a quorum Pods go on, and their status is written when there is one again.

mod addresses;
mod admission;
mod agent;
mod allocatable;
mod cri;
mod csi;
mod dns;
mod env;
mod env_file;
mod eviction;
mod exposition;
mod hosts;
mod image_gc;
mod images;
mod lease;
mod local_volume;
mod logs;
mod machine;
mod manifests;
mod metrics;
mod node;
mod pod;
mod pod_certificate;
mod pressure;
mod probes;
mod pull_secrets;
mod resize;
mod resources;
mod restart;
mod rotation;
mod secrets;
mod server;
mod service_account;
mod service_env;
mod shutdown;
mod socket;
mod stats;
mod status;
mod stream;
mod summary;
mod termination;
mod trust_bundle;
mod users;
mod volumes;
mod worker;
mod write;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use skein_object::cipher::Keyring;
use skein_store::Handle as Store;

pub use addresses::{Addresses, Known};
pub use allocatable::Reserved;
pub use csi::Csi;
pub use eviction::{Amount, Eviction, Signal, Threshold};
pub use image_gc::ImageGc;
pub use lease::{Lease, now as since_boot};
pub use pressure::Pressure;
pub use server::serve;
pub use shutdown::ShutdownGrace;
pub use stats::Stats;

#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    pub address: IpAddr,
    /// At which this kubelet is asked, where it is.
    pub port: Option<u16>,
    /// Volumes and logs of Pods.
    pub directory: PathBuf,
    pub runtime_endpoint: PathBuf,
    pub cni_directory: PathBuf,
    pub cgroup_root: String,
    pub labels: Vec<(String, String)>,
    pub logs: LogLimits,
    /// The address at which Pods find the cluster's DNS.
    pub cluster_dns: String,
    /// Where Pods' tokens come from.
    pub tokens: Arc<dyn Tokens>,
    /// Opens Secrets, as soon as this node has the key.
    pub keyring: Keyring,
    /// Where what the node uses is put.
    pub stats: Stats,
    /// Where manifests of static Pods are, if there are to be any.
    pub manifests: Option<PathBuf>,
    /// When Pods are driven away because the node runs short of something.
    pub eviction: Eviction,
    /// What is kept from Pods.
    pub reserved: Vec<Reserved>,
    /// When images go that nobody uses.
    pub image_gc: ImageGc,
    /// What Pods get when the machine goes down; nothing: they end as the machine's other processes do.
    pub shutdown: Option<ShutdownGrace>,
    pub pressure: Pressure,
    /// The CSI drivers of this node.
    pub csi: Csi,
    /// Where the addresses of this node's Pods are put.
    pub addresses: Addresses,
    /// For so long Pods run that must not run twice.
    pub lease: Lease,
}

impl Options {
    /// Where `localhostProfile` is looked for, as below kubelet's root.
    fn seccomp_profiles(&self) -> PathBuf {
        self.directory.join("seccomp")
    }
}

/// Issues tokens for the ServiceAccounts of Pods on this node.
pub trait Tokens: std::fmt::Debug + Send + Sync + 'static {
    /// A token for `account` that is good while the Pod is there, and the time at which it ends. An empty audience is
    /// the API's own.
    fn issue(&self, account: &Value, audience: &str, pod: PodIdentity<'_>, seconds: i64) -> Result<(String, Timestamp), String>;
}

/// The Pod that a token is bound to, and its node.
#[derive(Clone, Copy, Debug)]
pub struct PodIdentity<'a> {
    pub name: &'a str,
    pub uid: &'a str,
    pub node: &'a str,
    pub node_uid: &'a str,
}

/// How much of a container's output is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// A file that has grown over this is put aside.
    pub bytes_max: u64,
    /// How many files there are for a container, the one being written included.
    pub files_max: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Runtime(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Store(#[from] skein_store::Error),
    #[error("the object was changed by somebody else meanwhile")]
    Conflict,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Runtime(status.message().to_string())
    }
}

/// Runs the kubelet for as long as the daemon runs.
pub async fn run(options: Options, store: Store) {
    tokio::spawn(options.stats.clone().run(cri::Runtime::new(&options.runtime_endpoint)));
    agent::run(options, store).await;
}
