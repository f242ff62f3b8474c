//! Drivers make themselves known by a socket in `plugins_registry` (kubelet's plugin watcher); what each says of this
//! node goes into its CSINode and onto the Node.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use skein_csi::registration as plugin;
use skein_csi::registration::registration_client::RegistrationClient;
use skein_object::volume::NODES;
use skein_object::{Key, meta, registry};
use skein_store::Handle as Store;
use tonic::Request;
use tracing::{debug, info, warn};

use super::{Csi, Driver};
use crate::{Error, Options, socket, write};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
/// A driver that could not be taken is asked again after this.
const RETRY: Duration = Duration::from_secs(5);

/// A socket that was seen: its inode, so that one made anew is asked anew, and the driver behind it.
struct Seen {
    inode: u64,
    driver: Result<String, tokio::time::Instant>,
}

/// Registers and forgets drivers for as long as the daemon runs.
pub(crate) async fn run(options: Options, store: Store) {
    let directory = options.directory.join("plugins_registry");
    let _ = fs::create_dir_all(&directory);
    let mut seen = BTreeMap::new();
    loop {
        look(&options.csi, &directory, &mut seen).await;
        if let Err(why) = tell(&options, &store).await {
            debug!(%why, "the CSINode waits");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(csi: &Csi, directory: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
    let found = sockets(directory);
    seen.retain(|path, known| {
        let stays = found.get(path) == Some(&known.inode);
        if let (false, Ok(name)) = (stays, &known.driver) {
            info!(driver = name, "a CSI driver has gone");
            csi.shared(|shared| shared.drivers.remove(name));
        }
        stays
    });
    let now = tokio::time::Instant::now();
    for (path, inode) in found {
        if seen.get(&path).is_some_and(|known| known.driver.as_ref().err().is_none_or(|again| now < *again)) {
            continue;
        }
        let driver = match register(csi, &path).await {
            Ok(name) => {
                info!(driver = name, socket = %path.display(), "a CSI driver is registered");
                Ok(name)
            }
            Err(why) => {
                warn!(socket = %path.display(), %why, "a plugin cannot be registered");
                Err(now + RETRY)
            }
        };
        seen.insert(path, Seen { inode, driver });
    }
}

/// The sockets at and below a directory.
fn sockets(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        match metadata.file_type() {
            _ if is_hidden => {}
            kind if kind.is_dir() => found.extend(sockets(&entry.path())),
            kind if kind.is_socket() => drop(found.insert(entry.path(), metadata.ino())),
            _ => {}
        }
    }
    found
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// Asks a plugin who it is and tells it whether it was taken.
async fn register(csi: &Csi, path: &Path) -> Result<String, Error> {
    let mut client = RegistrationClient::new(socket::channel(path));
    let said = client.get_info(bounded(plugin::InfoRequest {})).await?.into_inner();
    let taken = take(csi, path, &said).await;
    let error = taken.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let status = plugin::RegistrationStatus { plugin_registered: taken.is_ok(), error };
    client.notify_registration_status(bounded(status)).await?;
    taken.map(|()| said.name)
}

async fn take(csi: &Csi, path: &Path, said: &plugin::PluginInfo) -> Result<(), Error> {
    check(said)?;
    let endpoint = if said.endpoint.is_empty() { path } else { Path::new(&said.endpoint) };
    let driver = Driver::connect(endpoint).await?;
    csi.shared(|shared| shared.drivers.insert(said.name.clone(), driver));
    Ok(())
}

fn check(said: &plugin::PluginInfo) -> Result<(), Error> {
    if said.r#type != "CSIPlugin" {
        return Err(Error::Config(format!("no handler registered for plugin type: {}", said.r#type)));
    }
    if said.name.is_empty() {
        return Err(Error::Config("invalid plugin name: it is empty".into()));
    }
    if !said.supported_versions.iter().any(|version| version.trim_start_matches('v').starts_with("1.")) {
        let versions = said.supported_versions.join(", ");
        return Err(Error::Config(format!("none of the versions specified [{versions}] are supported: this kubelet speaks CSI 1")));
    }
    Ok(())
}

/// Writes what the drivers say of this node, where it is not written yet.
async fn tell(options: &Options, store: &Store) -> Result<(), Error> {
    let view = store.local();
    let node_key = Key::new("nodes", "", &options.name);
    let Some(node) = view.state.get(&node_key) else { return Ok(()) };
    let drivers = options.csi.drivers();
    let old = node.record.to_value("v1", "Node", node.revision);
    let mut new = old.clone();
    mark(&mut new, &drivers);
    if new != old {
        store.propose(write::update(&node_key, node, &new).into()).await?;
    }
    let key = Key::new(NODES, "", &options.name);
    let resource = registry::by_key(NODES).expect("the registry has CSINodes");
    let Some(entry) = view.state.get(&key) else {
        if store.read().await?.state.get(&key).is_none() {
            let owner = json!({"apiVersion": "v1", "kind": "Node", "name": options.name, "uid": meta::text(&old, "uid")});
            let mut object = json!({"metadata": {"name": options.name, "ownerReferences": [owner]}, "spec": {"drivers": listed(&drivers)}});
            let (uid, now) = (uuid::Uuid::new_v4().to_string(), meta::time(Timestamp::now()));
            meta::at_creation(&mut object, resource, "", &meta::Birth { uid: &uid, now: &now, suffix: "" });
            store.propose(write::create(resource, "", object).into()).await?;
        }
        return Ok(());
    };
    let old = resource.show(&entry.record, entry.revision);
    let mut new = old.clone();
    new["spec"]["drivers"] = listed(&drivers);
    if new != old {
        store.propose(write::update(&key, entry, &new).into()).await?;
    }
    Ok(())
}

/// `spec.drivers` of the CSINode.
fn listed(drivers: &BTreeMap<String, Driver>) -> Value {
    let one = |(name, driver): (&String, &Driver)| {
        let mut keys: Vec<&String> = driver.info.accessible_topology.iter().flat_map(|topology| topology.segments.keys()).collect();
        keys.sort();
        let mut said = json!({"name": name, "nodeID": driver.info.node_id, "topologyKeys": keys});
        if driver.info.max_volumes_per_node > 0 {
            said["allocatable"] = json!({"count": driver.info.max_volumes_per_node});
        }
        said
    };
    drivers.iter().map(one).collect()
}

/// What drivers call this node, and where they say that it is.
fn mark(node: &mut Value, drivers: &BTreeMap<String, Driver>) {
    const ID: &str = "csi.volume.kubernetes.io/nodeid";
    let ids: BTreeMap<&String, &String> = drivers.iter().map(|(name, driver)| (name, &driver.info.node_id)).collect();
    let metadata = meta::edit(node);
    if ids.is_empty() {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove(ID);
        }
        return;
    }
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    annotations[ID] = serde_json::to_string(&ids).unwrap_or_default().into();
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    for (key, value) in drivers.values().flat_map(|driver| driver.info.accessible_topology.iter().flat_map(|topology| &topology.segments)) {
        labels[key] = value.as_str().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_csi_drivers_of_version_1_are_taken() {
        let check = |kind: &str, versions: &[&str], expected: bool| {
            let said = plugin::PluginInfo {
                r#type: kind.into(),
                name: "d".into(),
                endpoint: String::new(),
                supported_versions: versions.iter().map(|version| (*version).into()).collect(),
            };
            assert_eq!(super::check(&said).is_ok(), expected, "{kind} {versions:?}");
        };
        check("CSIPlugin", &["1.0.0"], true);
        check("CSIPlugin", &["0.3.0", "v1.5.0"], true);
        check("CSIPlugin", &["0.3.0"], false);
        check("DevicePlugin", &["v1beta1"], false);
    }
}
