//! A Pod's network through CNI plugins (CNI specification 1.0, section 4: execution).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use skein_cri::{PortMapping, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{Error, Options};

const INTERFACE: &str = "eth0";

/// The first configuration of the directory, in the order of names, as every runtime does.
pub(crate) struct Network {
    name: String,
    version: String,
    plugins: Vec<Value>,
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    own_plugin: Plugin,
}

/// A plugin that is a part of this program: called as a function, where others are started as programs.
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// What configurations call it.
    pub kind: &'static str,
    /// It may block.
    pub call: fn(&Call) -> Result<Value, String>,
}

/// What a plugin is called with (section 4).
#[derive(Debug)]
pub struct Call {
    pub command: &'static str,
    pub container: String,
    /// The path of the network namespace; empty when it is gone already.
    pub namespace: String,
    pub interface: &'static str,
    pub config: Value,
}

/// The Pod that a plugin is called for.
pub(crate) struct Target<'a> {
    pub(crate) id: &'a str,
    /// The network namespace; empty when it is gone already.
    pub(crate) namespace: String,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_namespace: &'a str,
    pub(crate) pod_uid: &'a str,
    pub(crate) ports: &'a [PortMapping],
}

// === impl Network ===

impl Network {
    pub(crate) fn find(options: &Options) -> Result<Self, Error> {
        let directory = &options.cni_conf_dir;
        let none = || Error::Network(format!("cni config uninitialized: no configuration in {}", directory.display()));
        let mut files: Vec<PathBuf> = std::fs::read_dir(directory).map_err(|_| none())?.flatten().map(|e| e.path()).collect();
        files.retain(|f| f.extension().is_some_and(|x| x == "conflist" || x == "conf" || x == "json"));
        files.sort();
        let file = files.first().ok_or_else(none)?;
        Self::read(file, options)
    }

    fn read(file: &Path, options: &Options) -> Result<Self, Error> {
        let broken = |why: String| Error::Network(format!("{}: {why}", file.display()));
        let text = std::fs::read(file).map_err(|why| broken(why.to_string()))?;
        let config: Value = serde_json::from_slice(&text).map_err(|why| broken(why.to_string()))?;
        let plugins = config["plugins"].as_array().cloned().unwrap_or_else(|| vec![config.clone()]);
        Ok(Self {
            name: config["name"].as_str().unwrap_or("network").into(),
            version: config["cniVersion"].as_str().unwrap_or("0.4.0").into(),
            plugins,
            conf_dir: options.cni_conf_dir.clone(),
            bin_dir: options.cni_bin_dir.clone(),
            own_plugin: options.own_plugin,
        })
    }

    /// Connects a Pod; returns its addresses.
    pub(crate) async fn add(&self, target: &Target<'_>) -> Result<Vec<String>, Error> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = self.call("ADD", plugin, target, &result).await?;
        }
        let addresses = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
        let addresses: Vec<String> = addresses.map(|a| a.split('/').next().unwrap_or(a).to_string()).collect();
        if addresses.is_empty() {
            return Err(Error::Network("the CNI plugins gave the Pod no address".into()));
        }
        Ok(addresses)
    }

    /// Disconnects a Pod. Repeating it is no error (section 2, DEL).
    pub(crate) async fn delete(&self, target: &Target<'_>) -> Result<(), Error> {
        for plugin in self.plugins.iter().rev() {
            self.call("DEL", plugin, target, &Value::Null).await?;
        }
        Ok(())
    }

    async fn call(&self, command: &'static str, plugin: &Value, target: &Target<'_>, previous: &Value) -> Result<Value, Error> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let mut config = plugin.clone();
        config["name"] = self.name.clone().into();
        config["cniVersion"] = self.version.clone().into();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        if plugin["capabilities"]["portMappings"] == true {
            config["runtimeConfig"] = json!({"portMappings": mappings(target.ports)});
        }
        let failed = |why: String| Error::Network(format!("plugin type={kind:?} failed ({}): {why}", command.to_lowercase()));
        if kind == self.own_plugin.kind {
            let (container, namespace) = (target.id.to_string(), target.namespace.clone());
            let (call, own) = (Call { command, container, namespace, interface: INTERFACE, config }, self.own_plugin.call);
            let answer = tokio::task::spawn_blocking(move || own(&call)).await;
            return answer.map_err(|why| failed(why.to_string()))?.map_err(failed);
        }
        self.start(command, (kind, &config), target).await.map_err(failed)
    }

    /// Calls a plugin that is a program.
    async fn start(&self, command: &str, (kind, config): (&str, &Value), target: &Target<'_>) -> Result<Value, String> {
        let program = self.bin_dir.join(kind);
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            target.pod_namespace, target.pod_name, target.id, target.pod_uid
        );
        let child = Command::new(&program)
            .arg0(kind)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", target.id)
            .env("CNI_NETNS", &target.namespace)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", &self.bin_dir)
            .current_dir(&self.conf_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|why| format!("{}: {why}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(config.to_string().as_bytes()).await.map_err(|why| why.to_string())?;
        }
        let output = child.wait_with_output().await.map_err(|why| why.to_string())?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(answer);
        }
        let told = answer["msg"].as_str().map_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_string(), String::from);
        Err(told)
    }
}

fn mappings(ports: &[PortMapping]) -> Vec<Value> {
    let wanted = ports.iter().filter(|p| p.host_port > 0);
    let one = |p: &PortMapping| {
        let protocol = match p.protocol() {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        json!({"hostPort": p.host_port, "containerPort": p.container_port, "protocol": protocol, "hostIP": p.host_ip})
    };
    wanted.map(one).collect()
}
