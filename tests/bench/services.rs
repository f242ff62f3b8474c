//! Services: what a connection costs where there are many of them, and how soon a new endpoint is reached by every node.
//!
//! What answers is in this process, on the host; Services lead there by EndpointSlices that are made by hand.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Client, Credentials};
use crate::load::{Load, gather};
use crate::measure::make_many;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// The host, as nodes see it.
const HOST: &str = "198.18.0.1";
const NODE_PORT: u16 = 30_500;
/// So many Services, and endpoints of each.
const MANY: usize = 1_000;
const ENDPOINTS: usize = 10;
const CLIENTS: usize = 16;
/// How long conntrack remembers one that was broken off (`nf_conntrack_tcp_timeout_close`), and a little more.
const FORGETTING: Duration = Duration::from_secs(12);
/// A node may take this long until it has heard of an endpoint.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(credentials: &Credentials, rounds: usize, duration: Duration, row: impl Fn(&str, Load)) -> Result<()> {
    let listener = TcpListener::bind((HOST, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        // Without a wait for what is still on its way: a new connection may look like the one before.
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_zero_linger();
        }
    });
    let mut client = credentials.client(1);
    make(&mut client, SERVICES, &service("one", Some(NODE_PORT), port)).await?;
    make(&mut client, SLICES, &slice("one", &[HOST.into()], port)).await?;
    reached(NODE_PORT).await?;
    row("connections by a node port, 1 Service", connections(duration).await?);
    make_many(credentials, SERVICES, MANY, |number| service(&format!("many-{number}"), None, port)).await?;
    make_many(credentials, SLICES, MANY, |number| {
        let addresses: Vec<String> = (1..=ENDPOINTS).map(|last| format!("10.250.{}.{last}", number % 256)).collect();
        slice(&format!("many-{number}"), &addresses, port)
    })
    .await?;
    let mut latencies = Vec::new();
    for round in 0..u16::try_from(rounds)? {
        let (name, node_port) = (format!("new-{round}"), NODE_PORT + 1 + round);
        make(&mut client, SERVICES, &service(&name, Some(node_port), port)).await?;
        let begin = Instant::now();
        make(&mut client, SLICES, &slice(&name, &[HOST.into()], port)).await?;
        reached(node_port).await?;
        latencies.push(begin.elapsed());
    }
    row(&format!("connections by a node port, {MANY} of {ENDPOINTS}"), connections(duration).await?);
    row("endpoint made -> reached by every node", Load { latencies, ..Load::default() });
    Ok(())
}

fn service(name: &str, node_port: Option<u16>, port: u16) -> Value {
    let kind = if node_port.is_some() { "NodePort" } else { "ClusterIP" };
    let mut ports = json!({"port": 80, "targetPort": port});
    if let Some(node_port) = node_port {
        ports["nodePort"] = node_port.into();
    }
    json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [ports]}})
}

fn slice(service: &str, addresses: &[String], port: u16) -> Value {
    let labels = json!({"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "bench"});
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    json!({"metadata": {"name": service, "labels": labels}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": port, "protocol": "TCP"}]})
}

async fn make(client: &mut Client, path: &str, object: &Value) -> Result<()> {
    let (code, answer) = client.send("POST", path, &object.to_string()).await?;
    ensure!(code == 201, "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Waits until a node port leads somewhere, on all nodes.
async fn reached(port: u16) -> Result<()> {
    let begin = Instant::now();
    let by = |node: u8| async move {
        while TcpStream::connect((Ipv4Addr::new(198, 18, 0, 10 + node), port)).await.is_err() {
            ensure!(begin.elapsed() < PATIENCE, "port {port} of node {node} leads nowhere");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    futures::future::try_join3(by(1), by(2), by(3)).await.map(|_| ())
}

/// Clients that connect and hang up, one after the other, when the kernel has forgotten the connections before.
async fn connections(duration: Duration) -> Result<Load> {
    tokio::time::sleep(FORGETTING).await;
    let node = |index: usize| 11 + u8::try_from(index % 3).unwrap_or(0);
    let connect = |node: u8| async move {
        let stream = TcpStream::connect((Ipv4Addr::new(198, 18, 0, node), NODE_PORT)).await?;
        // Without a wait for what is still on its way, so that ports do not run out.
        stream.set_zero_linger()?;
        Ok(node)
    };
    gather(CLIENTS, duration, node, connect).await
}
