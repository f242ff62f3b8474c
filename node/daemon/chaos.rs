//! What experiments need on a node that lets them make faults: the resources, an account, and an agent, a process of its
//! own that outlives this one.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skein_object::{Key, registry};
use skein_quic::Identity;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::cluster::Endpoints;
use crate::directory::kubeconfig;
use crate::{Error, companion, found};

/// The agent's credentials, in the data directory; every node of the cluster is a context.
pub const KUBECONFIG: &str = "chaos/kubeconfig";

/// There the agent takes connections while it lives.
const SOCKET: &str = "chaos/agent.sock";

const SECRETS: &str = "secrets";
const ACCOUNT: &str = "skein-chaos";

const AGAIN: Duration = Duration::from_secs(1);

/// Who makes faults here.
#[derive(Clone, Debug)]
pub struct Options {
    /// Starts the agent.
    pub command: Vec<String>,
    /// What the cluster must have, as objects of the API.
    pub objects: Vec<Value>,
}

/// Where the agent finds what it needs.
pub(crate) struct Agent {
    pub(crate) options: Options,
    pub(crate) cluster: Endpoints,
    pub(crate) identity: watch::Receiver<Identity>,
}

// === impl Agent ===

impl Agent {
    /// Makes what is missing, keeps the agent's credentials up to date, and the agent running.
    pub(crate) async fn run(mut self) {
        while let Err(why) = found::ensure_all(&self.cluster.store, self.options.objects.clone()).await {
            debug!(%why, "no experiments yet");
            tokio::time::sleep(AGAIN).await;
        }
        let mut changes = self.cluster.store.subscribe(&[SECRETS, "nodes"]);
        let mut written = None;
        loop {
            let wanted = self.kubeconfig();
            if wanted.is_some() && wanted != written {
                match self.save(wanted.as_deref().unwrap_or_default()) {
                    Ok(()) if written.is_none() => {
                        let socket = self.cluster.directory.path().join(SOCKET);
                        tokio::spawn(companion::keep("the agent of experiments", self.options.command.clone(), socket));
                        written = wanted;
                    }
                    Ok(()) => written = wanted,
                    Err(why) => warn!(%why, "the agent of experiments has no credentials"),
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.identity.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if written.is_none() => {}
            }
        }
    }

    /// `None` until the cluster has signed the account's token.
    fn kubeconfig(&self) -> Option<String> {
        let key = Key::new(SECRETS, "kube-system", ACCOUNT);
        let store = &self.cluster.store;
        let state = store.local().state;
        let entry = state.get(&key)?;
        let secret = self.cluster.keyring.get()?.open(&key, "data", &entry.record).ok()?;
        let secret = registry::by_key(SECRETS)?.show(&secret, entry.revision);
        let token = String::from_utf8(STANDARD.decode(secret["data"]["token"].as_str()?).ok()?).ok()?;
        let server = |address: &str| {
            let address: SocketAddr = address.parse().ok()?;
            Some(format!("https://{}", SocketAddr::new(address.ip(), self.cluster.api_port)))
        };
        let members = store.members().into_iter();
        let mut servers: Vec<(String, String)> =
            members.filter_map(|member| Some((member.member.name.clone(), server(&member.member.address)?))).collect();
        servers.sort();
        Some(kubeconfig(ACCOUNT, &json!({"token": token}), &self.identity.borrow().authority_pem, &servers))
    }

    fn save(&self, text: &str) -> Result<(), Error> {
        let chaos = self.cluster.directory.path().join("chaos");
        std::fs::create_dir_all(&chaos).map_err(|source| Error::Directory { path: chaos, source })?;
        self.cluster.directory.write(KUBECONFIG, text)
    }
}
