//! The CNI plugin (CNI specification 1.0): called by the container runtime with the Pod's namespace.
//!
//! Addresses are files: one named after each address that is taken, holding the container's id, in a directory of the
//! node. A lock makes plugin calls wait for each other; a crash leaves at most an address that DEL frees.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::netlink::{self, Netlink, Range, Target};

/// The address by which every Pod names its node: link-local, the same everywhere.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What the kubelet writes for the runtime, and the runtime hands to the plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub cni_version: String,
    /// The node's Pod range, as in `10.244.1.0/24`.
    pub subnet: String,
    /// Where taken addresses are kept.
    pub state_dir: PathBuf,
}

/// The configuration list that a runtime looks for.
pub fn configuration_list(subnet: &str, state_dir: &Path) -> String {
    let plugin = json!({"type": PLUGIN, "subnet": subnet, "stateDir": state_dir});
    format!("{:#}\n", json!({"cniVersion": "0.4.0", "name": "skein", "plugins": [plugin]}))
}

/// The names under which a runtime calls this program. containerd wants a plugin `loopback` for every Pod, too.
pub const PLUGIN: &str = "skein-cni";
pub const LOOPBACK: &str = "loopback";

/// How the plugin is called (section 4): what a program finds in its environment, and the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub command: &'a str,
    pub container: &'a str,
    /// The path of the Pod's network namespace.
    pub namespace: &'a str,
    pub interface: &'a str,
    pub config: &'a Value,
}

/// The plugin as a program: reads environment and standard input, prints the result. Returns the exit code.
pub fn main(name: &str) -> i32 {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut input = String::new();
    let _ = std::io::stdin().read_to_string(&mut input);
    let (command, container, namespace) = (variable("CNI_COMMAND"), variable("CNI_CONTAINERID"), variable("CNI_NETNS"));
    let interface = variable("CNI_IFNAME");
    let configured = || {
        let config = serde_json::from_str(&input).map_err(|why| Error::Config(why.to_string()))?;
        let call = Call { command: &command, container: &container, namespace: &namespace, interface: &interface, config: &config };
        if name == LOOPBACK && command == "ADD" { loopback(&call) } else { answer(&call) }
    };
    let result = match command.as_str() {
        "VERSION" => Ok(json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0"]})),
        "CHECK" => Ok(Value::Null),
        "DEL" if name == LOOPBACK => Ok(Value::Null),
        _ => configured(),
    };
    let (text, code) = match result {
        Ok(Value::Null) => (String::new(), 0),
        Ok(value) => (value.to_string(), 0),
        Err(why) => (json!({"cniVersion": "1.0.0", "code": 999, "msg": why.to_string()}).to_string(), 1),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

/// The plugin as a function. It blocks: for a lock, and for what the kernel takes.
pub fn answer(call: &Call<'_>) -> Result<Value, Error> {
    let config = || Config::deserialize(call.config).map_err(|why| Error::Config(why.to_string()));
    match call.command {
        "ADD" => add(&config()?, call),
        "DEL" => delete(&config()?, call.container).map(|()| Value::Null),
        other => Err(Error::Config(format!("unknown CNI_COMMAND {other:?}"))),
    }
}

fn loopback(call: &Call<'_>) -> Result<Value, Error> {
    Netlink::open_in(&open(call.namespace)?)?.set_up(netlink::LOOPBACK)?;
    let version = call.config["cniVersion"].as_str().filter(|v| !v.is_empty()).unwrap_or("0.4.0");
    Ok(json!({"cniVersion": version, "interfaces": [{"name": "lo", "sandbox": call.namespace}]}))
}

fn add(config: &Config, call: &Call<'_>) -> Result<Value, Error> {
    let address = allocate(config, call.container)?;
    let link = link_name(call.container);
    if let Err(why) = connect(&link, address, call) {
        let _ = delete(config, call.container);
        return Err(why);
    }
    let version = if config.cni_version.is_empty() { "0.4.0" } else { &config.cni_version };
    let mut found = json!({"address": format!("{address}/32"), "gateway": GATEWAY.to_string(), "interface": 1});
    if version.starts_with("0.") {
        found["version"] = "4".into();
    }
    Ok(json!({
        "cniVersion": version,
        "interfaces": [{"name": link}, {"name": call.interface, "sandbox": call.namespace}],
        "ips": [found],
        "routes": [{"dst": "0.0.0.0/0", "gw": GATEWAY.to_string()}],
    }))
}

fn connect(link: &str, address: Ipv4Addr, call: &Call<'_>) -> Result<(), Error> {
    let namespace = open(call.namespace)?;
    let (mut node, mut pod) = (Netlink::open()?, Netlink::open_in(&namespace)?);
    node.delete_link(link)?;
    node.add_pair(link, call.interface, &namespace)?;
    // The node answers for the gateway's address on the Pod's link, so Pods need no address of their node.
    let proxy = format!("/proc/sys/net/ipv4/conf/{link}/proxy_arp");
    fs::write(&proxy, "1").map_err(|source| Error::Io { what: proxy, source })?;
    pod.set_up(netlink::LOOPBACK)?;
    let interface = pod.made(call.interface)?;
    pod.set_address(interface, address)?;
    pod.set_up(interface)?;
    pod.set_route(Range::host(GATEWAY), Target::Link(interface))?;
    pod.set_route(Range::ALL, Target::Gateway(GATEWAY))?;
    let link = node.made(link)?;
    node.set_route(Range::host(address), Target::Link(link))
}

fn open(namespace: &str) -> Result<fs::File, Error> {
    fs::File::open(namespace).map_err(|source| Error::Io { what: format!("network namespace {namespace:?}"), source })
}

fn delete(config: &Config, container: &str) -> Result<(), Error> {
    // Deleting what is not there is success: the runtime repeats DEL until it is told so.
    Netlink::open()?.delete_link(&link_name(container))?;
    let _lock = lock(config)?;
    for (path, owner) in taken(config)? {
        if owner == container {
            fs::remove_file(&path).map_err(|source| Error::Io { what: path.display().to_string(), source })?;
        }
    }
    Ok(())
}

/// Frees addresses whose containers the runtime does not know: those of Pods that could not be started. An address
/// taken within the last minutes may be that of a Pod that is just being made.
pub fn release_unknown(state_dir: &Path, known: &[String]) {
    let config = Config { cni_version: String::new(), subnet: String::new(), state_dir: state_dir.into() };
    let Ok(_lock) = lock(&config) else { return };
    for (path, owner) in taken(&config).unwrap_or_default() {
        let age = fs::metadata(&path).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > SETTLE) && !known.contains(&owner) {
            let _ = fs::remove_file(&path);
        }
    }
}

const SETTLE: std::time::Duration = std::time::Duration::from_secs(300);

/// Interface names have at most 15 bytes.
fn link_name(container: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest: String = Sha256::digest(container.as_bytes()).iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("skp{}", &digest[..11])
}

/// The lowest free address above the first, or the one that the container has already.
fn allocate(config: &Config, container: &str) -> Result<Ipv4Addr, Error> {
    let _lock = lock(config)?;
    let taken = taken(config)?;
    if let Some((path, _)) = taken.iter().find(|(_, owner)| owner == container) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return name.parse().map_err(|_| Error::Config(format!("{} is not an address", path.display())));
    }
    let (first, size) = range(&config.subnet)?;
    let free = (2..size - 1).map(|offset| Ipv4Addr::from(first + offset)).find(|a| !config.state_dir.join(a.to_string()).exists());
    let address = free.ok_or_else(|| Error::Full(config.subnet.clone()))?;
    let path = config.state_dir.join(address.to_string());
    fs::write(&path, container).map_err(|source| Error::Io { what: path.display().to_string(), source })?;
    Ok(address)
}

fn range(subnet: &str) -> Result<(u32, u32), Error> {
    let range = Range::parse(subnet)?;
    match range.bits {
        8..=29 => Ok((u32::from(range.address), 1 << (32 - range.bits))),
        _ => Err(Error::Range(subnet.into())),
    }
}

fn lock(config: &Config) -> Result<Flock<fs::File>, Error> {
    let path = config.state_dir.join("lock");
    let open = || {
        fs::create_dir_all(&config.state_dir)?;
        let file = fs::File::options().create(true).append(true).open(&path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    };
    open().map_err(|source: std::io::Error| Error::Io { what: path.display().to_string(), source })
}

fn taken(config: &Config) -> Result<Vec<(PathBuf, String)>, Error> {
    let failed = |source| Error::Io { what: config.state_dir.display().to_string(), source };
    let mut taken = Vec::new();
    for entry in fs::read_dir(&config.state_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().is_some_and(|n| n != "lock") {
            taken.push((path.clone(), fs::read_to_string(&path).unwrap_or_default()));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_container_one_address_and_takes_it_back() {
        let state_dir = std::env::temp_dir().join(format!("skein-cni-test-{}", std::process::id()));
        let config = Config { cni_version: String::new(), subnet: "10.244.1.0/29".into(), state_dir: state_dir.clone() };
        let text = |container: &str| allocate(&config, container).map(|a| a.to_string()).map_err(|e| e.to_string());
        assert_eq!(text("a"), Ok("10.244.1.2".into()));
        assert_eq!(text("b"), Ok("10.244.1.3".into()));
        assert_eq!(text("a"), Ok("10.244.1.2".into()));
        for other in ["c", "d", "e"] {
            assert!(text(other).is_ok());
        }
        assert_eq!(text("f"), Err("no address is free in 10.244.1.0/29".into()));
        assert!(delete(&config, "a").is_ok());
        assert_eq!(text("f"), Ok("10.244.1.2".into()));
        let _ = fs::remove_dir_all(state_dir);
    }
}
