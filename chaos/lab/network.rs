//! The laboratory's network: a bridge, a namespace and a pair of links for each node, and cuts between them. All share one
//! link; or none shares one with another, and the host is the router between them.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;

use crate::links::Way;
use crate::{Node, attempt, run};

const BRIDGE: &str = "skein0";
const HOST: &str = "198.18.0.1";
/// The nftables table of what the bridge does not carry; without it the network is whole.
const TABLE: &str = "skein_lab";

pub(crate) fn ensure_bridge() -> Result<()> {
    if !attempt("ip", &["link", "show", BRIDGE]) {
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    }
    run("ip", &["addr", "replace", &format!("{HOST}/16"), "dev", BRIDGE])?;
    run("ip", &["link", "set", BRIDGE, "up"])
}

/// What comes by the bridge is forwarded, and nothing else: the host is no router for others.
pub(crate) fn ensure_router() -> Result<()> {
    let sysctl = |name: &str, value: u8| run("sysctl", &["-qw", &format!("net.ipv4.conf.{BRIDGE}.{name}={value}")]);
    sysctl("forwarding", 1)?;
    sysctl("send_redirects", 0)
}

pub(crate) fn ensure_node(node: &Node, routed: bool) -> Result<()> {
    let (namespace, outer) = (node.namespace(), outer_link(node));
    if !attempt("ip", &["netns", "pids", &namespace]) {
        run("ip", &["netns", "add", &namespace])?;
    }
    if !attempt("ip", &["link", "show", &outer]) {
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
    }
    run("ip", &["link", "set", &outer, "master", BRIDGE, "up"])?;
    let inside = |arguments: &[&str]| run("ip", &[&["-n", &namespace], arguments].concat());
    let bits = if routed { 32 } else { 16 };
    inside(&["addr", "replace", &format!("{}/{bits}", node.address()), "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    inside(&["link", "set", "lo", "up"])?;
    if routed {
        inside(&["route", "replace", HOST, "dev", "eth0"])?;
    }
    inside(&["route", "replace", "default", "via", HOST])?;
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

/// Lets the bridge carry nothing on these ways, and everything on all others.
pub(crate) fn carry_all_but(ways: &BTreeSet<Way>) -> Result<()> {
    let link = |index: usize| outer_link(&Node::new(index));
    let carried = ways.iter().map(|(from, to)| format!("iifname {} oifname {} drop\n", link(*from), link(*to)));
    // What the host would route goes to the bridge itself.
    let routed = ways.iter().map(|(from, to)| format!("iifname {} ip daddr {} drop\n", link(*from), Node::new(*to).address()));
    let chain = |hook: &str, rules: String| format!("chain {hook} {{\ntype filter hook {hook} priority 0\n{rules}}}\n");
    let chain = chain("forward", carried.collect()) + &chain("input", routed.collect());
    // One transaction: no frame passes between the rules that were and those that are.
    run("nft", &[&format!("add table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n{chain}\n}}")])
}

pub(crate) fn outer_link(node: &Node) -> String {
    format!("skl{}", node.index)
}
