//! The node's directory: who it is, its keys, and, on voters, the cluster's.
//!
//! ```text
//!   node.json              name, id, address, epoch, whether it is a witness
//!   pki/node.pem           this node's key and certificate, in one file, for they change together
//!   pki/ca.crt             the CAs that are trusted; the first one signs
//!   pki/cross.crt          what leads to these from CAs that went before them, if any did
//!   pki/token.key          signs the tokens of this node's Pods
//!   pki/ca.key             on voters only: the keys of CAs
//!   admin.kubeconfig       the administrator's, on voters, who could make one anyhow, and where the cluster was founded
//!   daemon.pid             of the daemon that runs    chaos/    the agent's, where experiments may make faults
//!   log/ state/            the store; below epoch-N/ where a quorum was forced N times
//! ```

use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_api::TokenKey;
use skein_quic::{Authority, Identity};

use crate::{Error, cluster_keys};

const ADMIN: &str = "admin.kubeconfig";

/// On voters only.
const AUTHORITY_KEY: &str = "pki/ca.key";

/// Where the certificate begins, behind the key.
const CERTIFICATE_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// What a node knows of itself. Format 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    pub(crate) format: u32,
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) address: IpAddr,
    /// Whether this node founded the cluster. A founder that crashed half-way founds again, which is harmless.
    #[serde(default)]
    pub(crate) founder: bool,
    /// How often a quorum was forced: nodes of an older epoch are not let in.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// Whether it is a witness. It stays what it is: what is in `state/` depends on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) witness: bool,
}

#[derive(Clone)]
pub(crate) struct Directory {
    path: PathBuf,
}

// === impl Directory ===

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let directory = Self { path: path.into() };
        std::fs::create_dir_all(path.join("pki")).map_err(directory.failed("pki"))?;
        std::fs::set_permissions(path.join("pki"), std::fs::Permissions::from_mode(0o700)).map_err(directory.failed("pki"))?;
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store of the node's epoch is.
    pub(crate) fn store(&self, node: &NodeFile) -> PathBuf {
        if node.epoch == 0 { self.path.clone() } else { self.path.join(format!("epoch-{}", node.epoch)) }
    }

    pub(crate) fn node(&self) -> Result<Option<NodeFile>, Error> {
        let Some(text) = self.read("node.json")? else { return Ok(None) };
        let node: NodeFile = serde_json::from_str(&text).map_err(|e| self.failed("node.json")(std::io::Error::other(e)))?;
        Ok(Some(node))
    }

    pub(crate) fn save_node(&self, node: &NodeFile) -> Result<(), Error> {
        self.write("node.json", &serde_json::to_string_pretty(node).expect("plain data"))
    }

    pub(crate) fn identity(&self) -> Result<Option<Identity>, Error> {
        let Some((both, authority_pem)) = self.read("pki/node.pem")?.zip(self.read("pki/ca.crt")?) else { return Ok(None) };
        let Some(at) = both.find(CERTIFICATE_BEGIN) else { return Ok(None) };
        let (key_pem, certificate_pem) = both.split_at(at);
        let cross_pem = self.read("pki/cross.crt")?.unwrap_or_default();
        Ok(Some(Identity { certificate_pem: certificate_pem.into(), key_pem: key_pem.into(), authority_pem, cross_pem }))
    }

    /// In an order in which each step leaves a node that its peers believe.
    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), Error> {
        self.write("pki/cross.crt", &identity.cross_pem)?;
        self.write("pki/ca.crt", &identity.authority_pem)?;
        self.write("pki/node.pem", &format!("{}\n{}", identity.key_pem.trim_end(), identity.certificate_pem))
    }

    /// The CA that signs, where this node holds its key.
    pub(crate) fn authority(&self) -> Result<Option<Authority>, Error> {
        let Some((certificates, keys)) = self.read("pki/ca.crt")?.zip(self.read(AUTHORITY_KEY)?) else { return Ok(None) };
        match Authority::load(&certificates, &keys) {
            Ok(authority) => Ok(Some(authority)),
            Err(skein_quic::Error::NotHeld) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    /// The keys of CAs that this node holds; none where it does not vote.
    pub(crate) fn authority_keys(&self) -> Result<String, Error> {
        Ok(self.read(AUTHORITY_KEY)?.unwrap_or_default())
    }

    pub(crate) fn save_authority_keys(&self, key_pem: &str) -> Result<(), Error> {
        self.write(AUTHORITY_KEY, key_pem)
    }

    /// How long the CA's key has been here; `None` where it is not.
    pub(crate) fn authority_age(&self) -> Option<Duration> {
        let written = std::fs::metadata(self.path.join(AUTHORITY_KEY)).and_then(|file| file.modified()).ok()?;
        Some(written.elapsed().unwrap_or_default())
    }

    pub(crate) fn forget_authority_key(&self) -> Result<(), Error> {
        std::fs::remove_file(self.path.join(AUTHORITY_KEY)).map_err(self.failed(AUTHORITY_KEY))
    }

    /// The key with which this node signs tokens for its Pods; made where there is none.
    pub(crate) fn token_key(&self) -> Result<TokenKey, Error> {
        let pem = match self.read("pki/token.key")? {
            Some(pem) => pem,
            None => {
                let pem = skein_quic::authority::new_key()?;
                self.write("pki/token.key", &pem)?;
                pem
            }
        };
        cluster_keys::token_key(&pem).map_err(|why| self.failed("pki/token.key")(std::io::Error::other(why)))
    }

    /// The key of a join that has not been answered yet: the token is bound to it.
    pub(crate) fn pending_join(&self) -> Result<Option<String>, Error> {
        self.read("pki/join.key")
    }

    pub(crate) fn save_pending_join(&self, key_pem: &str) -> Result<(), Error> {
        self.write("pki/join.key", key_pem)
    }

    pub(crate) fn save_admin(&self, admin: &Identity, address: IpAddr, api_port: u16) -> Result<(), Error> {
        let servers = [("skein".to_string(), format!("https://{}", std::net::SocketAddr::new(address, api_port)))];
        self.write(ADMIN, &admin_kubeconfig(admin, &servers))
    }

    pub(crate) fn has_admin(&self) -> bool {
        self.path.join(ADMIN).exists()
    }

    pub(crate) fn forget_admin(&self) -> Result<(), Error> {
        match std::fs::remove_file(self.path.join(ADMIN)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(self.failed(ADMIN)(why)),
            _ => Ok(()),
        }
    }

    /// Says which process the daemon is.
    pub(crate) fn save_pid(&self) -> Result<(), Error> {
        self.write("daemon.pid", &std::process::id().to_string())
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        match std::fs::read_to_string(self.path.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(self.failed(name)(why)),
        }
    }

    /// Writes a file whole or not at all, readable by its owner only.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<(), Error> {
        use std::io::Write;
        let target = self.path.join(name);
        let temporary = self.path.join(format!("{name}.new"));
        let write = || {
            let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)
        };
        write().map_err(self.failed(name))
    }

    fn failed(&self, name: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = self.path.join(name);
        move |source| Error::Directory { path, source }
    }
}

/// A kubeconfig with a context for each server (name, URL), the first current, and for each its `stale` twin, which
/// reads that node's own replica. JSON is YAML.
pub fn admin_kubeconfig(admin: &Identity, servers: &[(String, String)]) -> String {
    let user = json!({
        "client-certificate-data": STANDARD.encode(&admin.certificate_pem), "client-key-data": STANDARD.encode(&admin.key_pem),
    });
    kubeconfig("admin", &user, &admin.authority_pem, servers)
}

pub(crate) fn kubeconfig(user: &str, credentials: &Value, authority_pem: &str, servers: &[(String, String)]) -> String {
    let authority = STANDARD.encode(authority_pem);
    let mut clusters = Vec::new();
    let mut contexts = Vec::new();
    for (index, (name, url)) in servers.iter().enumerate() {
        let stale = if index == 0 { "stale".to_string() } else { format!("stale-{name}") };
        for (name, url) in [(name.clone(), url.clone()), (stale, format!("{url}/stale"))] {
            clusters.push(json!({"name": name, "cluster": {"server": url, "certificate-authority-data": authority}}));
            contexts.push(json!({"name": name, "context": {"cluster": name, "user": user}}));
        }
    }
    let user = json!({"name": user, "user": credentials});
    let current = servers.first().map(|(name, _)| name.clone()).unwrap_or_default();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "clusters": clusters, "contexts": contexts, "users": [user], "current-context": current,
    });
    serde_json::to_string_pretty(&config).expect("plain data")
}
