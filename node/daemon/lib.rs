//! The daemon: the only place that builds everything and joins the store with QUIC.
//!
//! ```text
//!   run ─▶ directory (identity, keys) ─▶ quic ─▶ store ─▶ lead, keeper     (while this node leads)
//!                                          │        ├───▶ api
//!                                          │        └───▶ kubelet
//!                                          └─▶ streams from peers ─▶ store, kubelet, liveness
//! ```

mod account_secrets;
mod ask;
mod authorities;
mod backup;
mod balanced;
mod chaos;
mod cluster;
mod cluster_keys;
mod companion;
mod directory;
mod disk;
mod found;
mod handover;
mod host_ports;
mod join;
mod keeper;
mod kept;
mod kubelets;
mod peers;
mod pod_network;
mod policies;
mod recover;
mod renewal;
mod report;
mod rotation;
mod rules;
mod run;
mod sealing;
mod services;
mod signer;
mod thread;
mod token;
mod tokens;
mod told;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use backup::{About, Backup, BackupError, Place, Sealer};
pub use chaos::{KUBECONFIG as AGENT_KUBECONFIG, Options as ChaosOptions};
pub use directory::admin_kubeconfig;
pub use recover::{Remains, Standing, Voter};
pub use run::{Ended, run};
pub use skein_api::{AuditOptions, OpenIdOptions};
pub use skein_kubelet::{Amount, Eviction, ImageGc, LogLimits, Reserved, ShutdownGrace, Signal, Threshold};
pub use skein_pod::routes::Tunnels;
pub use token::Token;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Node's name; unique in the cluster.
    pub name: String,
    pub directory: PathBuf,
    /// What the kubelet keeps: Pods' volumes and logs.
    pub kubelet_directory: PathBuf,
    /// The address that other nodes and clients reach this node at.
    pub address: IpAddr,
    pub api_port: u16,
    pub kubelet_port: Option<u16>,
    pub peer_port: u16,
    /// Where this node answers DNS; Pods reach it by the ClusterIP of `kube-system/kube-dns`.
    pub dns_port: u16,
    /// Joins the cluster of this token; without one, and without a cluster in `directory`, a cluster is founded.
    pub join: Option<Token>,
    /// `REGION/ZONE` of a witness: it votes, keeps no state, and runs nothing.
    pub witness: Option<String>,
    pub service_range: String,
    pub runtime: Runtime,
    /// When packets to other nodes' Pods go through a tunnel.
    pub tunnels: Tunnels,
    /// Labels that the Node gets when it registers.
    pub labels: Vec<(String, String)>,
    pub logs: LogLimits,
    /// Where manifests of static Pods are, if there are to be any.
    pub manifests: Option<PathBuf>,
    /// When Pods are driven away because the node runs short of something.
    pub eviction: Eviction,
    /// What is kept from Pods.
    pub reserved: Vec<Reserved>,
    /// When images go that nobody uses.
    pub image_gc: ImageGc,
    /// What Pods get when the machine goes down.
    pub shutdown: Option<ShutdownGrace>,
    /// Where it is written down who asked what of the API.
    pub audit: Option<AuditOptions>,
    /// Whose tokens the API believes besides the cluster's own.
    pub openid: Option<OpenIdOptions>,
    /// Who makes the faults of experiments on this node, if anybody may.
    pub chaos: Option<ChaosOptions>,
    /// How long the certificates hold that this node signs while it votes.
    pub signing_duration: Duration,
}

/// How containers are run here.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The CRI server's socket.
    pub endpoint: PathBuf,
    /// Starts Skein's own runtime; none: another runtime runs already.
    pub command: Option<Vec<String>>,
    /// Where the node's CNI configuration is written for the runtime.
    pub cni_directory: PathBuf,
    /// The cgroup below which Pods get theirs.
    pub cgroup_root: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("{path} belongs to node {found:?}, not to {wanted:?}: start it under its own name, or choose another directory")]
    ForeignDirectory { path: PathBuf, found: String, wanted: String },
    #[error("{path} belongs to {}", if *is_witness { "a witness: start it with --witness" } else { "a node that keeps the state: start it without --witness" })]
    OtherKind { path: PathBuf, is_witness: bool },
    #[error("cannot join: {0}")]
    Join(String),
    #[error("certificate: {0}")]
    Renew(String),
    #[error("{0}")]
    Recover(String),
    #[error(
        "this cluster was recovered without this node and is in epoch {0} now: what this node has is from before. To take \
         part again, move its data directory away and start it with --join TOKEN"
    )]
    Superseded(u64),
    #[error("token: {0}")]
    Token(String),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Quic(#[from] skein_quic::Error),
    #[error(transparent)]
    Store(#[from] skein_store::Error),
    #[error(transparent)]
    Api(#[from] skein_api::Error),
}
