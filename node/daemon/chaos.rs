//! What experiments need on a node that lets them make faults: the resources, an account, and an agent, a process of its
//! own that outlives this one.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skein_object::cipher::Cipher;
use skein_object::{Key, registry};
use skein_store::Handle;
use tracing::{debug, warn};

use crate::directory::{Directory, kubeconfig};
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
    pub(crate) store: Handle,
    pub(crate) directory: Directory,
    pub(crate) cipher: Arc<OnceLock<Cipher>>,
    pub(crate) authority_pem: String,
    pub(crate) api_port: u16,
}

// === impl Agent ===

impl Agent {
    /// Makes what is missing, keeps the agent's credentials up to date, and the agent running.
    pub(crate) async fn run(self) {
        while let Err(why) = found::ensure_all(&self.store, self.options.objects.clone()).await {
            debug!(%why, "no experiments yet");
            tokio::time::sleep(AGAIN).await;
        }
        let mut changes = self.store.subscribe(&[SECRETS, "nodes"]);
        let mut written = None;
        loop {
            let wanted = self.kubeconfig();
            if wanted.is_some() && wanted != written {
                match self.save(wanted.as_deref().unwrap_or_default()) {
                    Ok(()) if written.is_none() => {
                        let socket = self.directory.path().join(SOCKET);
                        tokio::spawn(companion::keep("the agent of experiments", self.options.command.clone(), socket));
                        written = wanted;
                    }
                    Ok(()) => written = wanted,
                    Err(why) => warn!(%why, "the agent of experiments has no credentials"),
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if written.is_none() => {}
            }
        }
    }

    /// `None` until the cluster has signed the account's token.
    fn kubeconfig(&self) -> Option<String> {
        let key = Key::new(SECRETS, "kube-system", ACCOUNT);
        let state = self.store.local().state;
        let entry = state.get(&key)?;
        let secret = self.cipher.get()?.open(&key, "data", &entry.record).ok()?;
        let secret = registry::by_key(SECRETS)?.show(&secret, entry.revision);
        let token = String::from_utf8(STANDARD.decode(secret["data"]["token"].as_str()?).ok()?).ok()?;
        let server = |address: &str| {
            let address: SocketAddr = address.parse().ok()?;
            Some(format!("https://{}", SocketAddr::new(address.ip(), self.api_port)))
        };
        let mut servers: Vec<(String, String)> = self
            .store
            .members()
            .into_iter()
            .filter_map(|member| Some((member.member.name.clone(), server(&member.member.address)?)))
            .collect();
        servers.sort();
        Some(kubeconfig(ACCOUNT, &json!({"token": token}), &self.authority_pem, &servers))
    }

    fn save(&self, text: &str) -> Result<(), Error> {
        let chaos = self.directory.path().join("chaos");
        std::fs::create_dir_all(&chaos).map_err(|source| Error::Directory { path: chaos, source })?;
        self.directory.write(KUBECONFIG, text)
    }
}
