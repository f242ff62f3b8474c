//! The laboratory's network: a bridge, a namespace and a pair of links for each node, and cuts between them.

use std::process::Command;

use anyhow::Result;

use crate::{Node, attempt, run};

const BRIDGE: &str = "skein0";
const BRIDGE_ADDRESS: &str = "198.18.0.1/16";
/// The nftables table that holds the cuts; without it the network is whole.
const TABLE: &str = "skein_lab";

pub(crate) fn ensure_bridge() -> Result<()> {
    if !attempt("ip", &["link", "show", BRIDGE]) {
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    }
    run("ip", &["addr", "replace", BRIDGE_ADDRESS, "dev", BRIDGE])?;
    run("ip", &["link", "set", BRIDGE, "up"])
}

pub(crate) fn ensure_node(node: &Node) -> Result<()> {
    let (namespace, outer) = (node.namespace(), outer_link(node));
    if !attempt("ip", &["netns", "pids", &namespace]) {
        run("ip", &["netns", "add", &namespace])?;
    }
    if !attempt("ip", &["link", "show", &outer]) {
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
    }
    run("ip", &["link", "set", &outer, "master", BRIDGE, "up"])?;
    let inside = |arguments: &[&str]| run("ip", &[&["-n", &namespace], arguments].concat());
    inside(&["addr", "replace", &format!("{}/16", node.address()), "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    inside(&["link", "set", "lo", "up"])?;
    inside(&["route", "replace", "default", "via", "198.18.0.1"])?;
    run("ip", &["netns", "exec", &namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
}

pub(crate) fn remove_node(node: &Node) {
    attempt("ip", &["link", "del", &outer_link(node)]);
    attempt("ip", &["netns", "del", &node.namespace()]);
}

pub(crate) fn remove_all() {
    attempt("nft", &["delete", "table", "bridge", TABLE]);
    attempt("ip", &["link", "del", BRIDGE]);
}

/// The links and routes of Pods that died with the machine.
pub(crate) fn remove_pod_links(node: &Node) {
    let listed = inside(node).args(["ip", "-o", "link", "show", "type", "veth"]).output();
    let text = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    for name in text.lines().filter_map(|line| line.split(": ").nth(1)).filter_map(|name| name.split('@').next()) {
        if name.starts_with("skp") {
            attempt("ip", &["-n", &node.namespace(), "link", "del", name]);
        }
    }
}

/// A command that runs in the node's network namespace. `ip netns exec` would also give it mounts of its own.
pub(crate) fn inside(node: &Node) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", node.namespace())).arg("--");
    command
}

pub(crate) fn deafen(node: &Node, others: &[Node]) -> Result<()> {
    begin()?;
    others.iter().try_for_each(|other| cut(other, node))
}

/// A table without cuts, in place of the one that was.
fn begin() -> Result<()> {
    heal()?;
    run("nft", &["add", "table", "bridge", TABLE])?;
    run("nft", &["add", "chain", "bridge", TABLE, "forward", "{ type filter hook forward priority 0; }"])
}

fn cut(from: &Node, to: &Node) -> Result<()> {
    let (from, to) = (outer_link(from), outer_link(to));
    run("nft", &["add", "rule", "bridge", TABLE, "forward", "iifname", &from, "oifname", &to, "drop"])
}

pub(crate) fn partition(groups: &[Vec<Node>]) -> Result<()> {
    begin()?;
    for (index, group) in groups.iter().enumerate() {
        for other in groups.iter().enumerate().filter(|(i, _)| *i != index).flat_map(|(_, g)| g) {
            group.iter().try_for_each(|node| cut(node, other))?;
        }
    }
    Ok(())
}

pub(crate) fn heal() -> Result<()> {
    attempt("nft", &["delete", "table", "bridge", TABLE]);
    Ok(())
}

fn outer_link(node: &Node) -> String {
    format!("skl{}", node.index)
}
