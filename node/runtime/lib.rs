//! Skein's container runtime: a CRI server in a process of its own, so that a daemon's restart touches no container.
//!
//! ```text
//!   kubelet, crictl ──CRI──▶ cri/ ──▶ pods   records on disk, one directory for each Pod and container
//!                              │        ├──▶ zygote, monitors (skein-monitor): processes
//!                              │        └──▶ network: CNI plugins
//!                              └────▶ images ──▶ registry | archive ──▶ layers
//! ```
//!
//! - **Invariant:** whatever the runtime knows it can find again on disk and from the monitors; killing it at any
//!   moment loses no container, and what was half made is removed at the next start.
//! - **Invariant:** an image is there only when all of its layers are, each checked against its digest and synced.

mod cri;
pub mod images;
mod monitor;
mod network;
mod pods;
mod seccomp;
mod spec;
mod stream;

pub use network::{Call, Plugin};

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skein_monitor::Zygote;
use tracing::info;

/// How a runtime is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where images, Pods and containers are kept.
    pub directory: PathBuf,
    /// The CRI server's socket.
    pub endpoint: PathBuf,
    /// Where CNI configuration and plugins are looked for.
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    /// The CNI plugin of this program, for configurations that name it.
    pub own_plugin: Plugin,
    /// Registries that are asked over plain HTTP, as `host:port`. Those on this machine's loopback always are.
    pub insecure_registries: Vec<String>,
    /// Where the streaming of exec, attach and port-forward is served.
    pub streaming_address: IpAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Monitor(#[from] skein_monitor::Error),
    /// A container's own fault, in words for its Pod's status.
    #[error("{0}")]
    Container(String),
    #[error("network: {0}")]
    Network(String),
    #[error(transparent)]
    Image(#[from] images::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{0}")]
    NotRunning(String),
    #[error("the runtime's server: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Runs the runtime until it is told to stop; containers run on. Call it before any thread is started.
pub fn run(options: Options) -> Result<(), Error> {
    std::fs::create_dir_all(&options.directory).map_err(io(format!("cannot make {}", options.directory.display())))?;
    let zygote = Zygote::start()?;
    // The registry client takes its cryptography from the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(io("cannot start threads"))?;
    runtime.block_on(async {
        let images = Arc::new(images::Store::open(&options.directory.join("images"))?);
        let zygote = Arc::new(zygote);
        let pods = pods::Pods::open(options.clone(), Arc::clone(&zygote), Arc::clone(&images)).await?;
        let streams = stream::serve(&options, Arc::clone(&pods)).await?;
        info!(endpoint = %options.endpoint.display(), "the runtime is up");
        tokio::select! {
            ended = cri::serve(&options, pods, images, streams) => ended,
            // Whoever started this process starts it again; containers run on.
            _ = tokio::task::spawn_blocking(move || zygote.wait()) => Err(Error::Invalid("the zygote has ended".into())),
        }
    })
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
