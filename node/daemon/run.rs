//! Starts a node and runs it until it is told to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skein_api::{KubeletPort, TokenClaims};
use skein_lead::Reports;
use skein_object::cipher::{Cipher, Keyring};
use skein_object::{Key, Record, Status};
use skein_peer::{Channel, Request, Response};
use skein_quic::{Endpoint, Identity, Incoming};
use skein_store::{Handle as Store, Member, Storage};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info};

use crate::authorities::Authorities;
use crate::chaos::Agent;
use crate::cluster::{Endpoints, JoinRequest};
use crate::directory::{Directory, NodeFile};
use crate::keeper::{self, Keys};
use crate::kubelets::Reach;
use crate::peers::QuicPeers;
use crate::renewal::{Renewal, RenewalRequest};
use crate::rotation::{self, Wish};
use crate::thread::Thread;
use crate::{
    Error, Options, account_secrets, balanced, companion, disk, found, handover, host_ports, join, peers, pod_network, policies, report,
    sealing, services, signer, tokens, told,
};

/// How a node's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    /// Its store had failed and its disk takes writes again: start anew, from what is on disk.
    Recoverable,
}

/// Runs the node; `stop` ends it in order.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<Ended, Error> {
    let directory = Directory::open(&options.directory)?;
    let node = settle(&directory, &options).await?;
    let identity = directory.identity()?.ok_or_else(|| Error::Join("the directory has no identity".into()))?;

    let bind = SocketAddr::new(options.address, options.peer_port);
    let between_nodes = Thread::start("quic").map_err(Error::Thread)?;
    let quic = skein_quic::Options { bind, identity: identity.clone(), epoch: node.epoch };
    let (endpoint, incoming) = between_nodes.run(async { Endpoint::start(quic) }).await.map_err(Error::Thread)??;
    let peers = Arc::new(QuicPeers(endpoint.clone()));
    let storage = Storage::open(&directory.store(&node)).map_err(skein_store::Error::from)?;
    // Behind the store's lock, so that there is one daemon whose pid it is.
    directory.save_pid()?;
    let consensus = Thread::start("consensus").map_err(Error::Thread)?;
    let store = skein_store::start(skein_store::Options { id: node.id, storage, peers, is_witness: node.witness });
    let store = consensus.run(store).await.map_err(Error::Thread)??;
    let (sender, identity) = watch::channel(identity);
    let cluster = Endpoints {
        store: store.clone(),
        directory: directory.clone(),
        api_port: options.api_port,
        epoch: node.epoch,
        lifetime: options.signing_duration,
        keyring: Keyring::default(),
        reports: Reports::default(),
    };
    let base = Base { node, cluster, endpoint: endpoint.clone(), identity };
    let streams = (incoming, consensus.tasks.clone());
    tokio::spawn(base.renewal(sender).run());
    tokio::spawn(peers::keep_ready(store.clone(), endpoint.clone()));
    if base.node.witness {
        base.attend(streams);
    } else {
        base.serve(&options, streams).await?;
    }
    let ended = tokio::select! {
        () = stop => Ok(Ended::Stopped),
        epoch = endpoint.until_superseded() => Err(Error::Superseded(epoch)),
        why = store.failed() => {
            // Pods run on, and the replica can still be read; the others elect another leader where it led.
            error!(%why, "this node's store has failed; waiting until its disk takes writes again");
            disk::writable(&options.directory).await;
            Ok(Ended::Recoverable)
        }
    };
    info!(?ended, "stopping");
    if let Some(successor) = store.hand_over().await {
        info!(%successor, "another leads");
    }
    store.stop().await;
    endpoint.close();
    ended
}

/// What every node has, a witness too.
struct Base {
    node: NodeFile,
    cluster: Endpoints,
    endpoint: Endpoint,
    identity: watch::Receiver<Identity>,
}

/// The streams that peers open, and the tasks among which the store's are served.
type Streams = (mpsc::Receiver<Incoming>, Handle);

// === impl Base ===

impl Base {
    fn renewal(&self, identity: watch::Sender<Identity>) -> Renewal {
        let (name, cluster, endpoint) = (self.node.name.clone(), self.cluster.clone(), self.endpoint.clone());
        Renewal { name, cluster, endpoint, identity, published: None }
    }

    /// Starts what a witness does beside its vote: it says that it lives.
    fn attend(self, (incoming, consensus): Streams) {
        let Self { node, cluster, endpoint, .. } = self;
        let (store, reports) = (cluster.store.clone(), cluster.reports.clone());
        tokio::spawn(accept(incoming, consensus, Others { cluster, kubelet: None }));
        let source = report::Source { name: node.name.clone(), stats: skein_kubelet::Stats::default(), lease: None };
        tokio::spawn(report::send(store, endpoint, source, reports));
        info!(node = %node.name, "the witness is up");
    }

    /// Starts what a node does that keeps the state: it serves the API, leads when it is elected, and runs Pods.
    async fn serve(self, options: &Options, (incoming, consensus): Streams) -> Result<(), Error> {
        let Self { node, cluster, endpoint, identity } = self;
        let Endpoints { store, directory, keyring, reports, .. } = cluster.clone();
        if let Some(command) = options.runtime.command.clone() {
            tokio::spawn(companion::keep("the container runtime", command, options.runtime.endpoint.clone()));
        }
        let token_key = Arc::new(directory.token_key()?);
        tokio::spawn(tokens::publish(store.clone(), node.name.clone(), Arc::clone(&token_key)));
        if let Some(cipher) = sealing::own(&directory)?.and_then(|keys| Cipher::new(&keys)) {
            keyring.set(cipher);
        }
        tokio::spawn(sealing::keep(store.clone(), directory.clone(), keyring.clone()));
        let kubelet = Arc::new(kubelet_options(options, Arc::new(tokens::Issuer(Arc::clone(&token_key))), keyring.clone()));
        tokio::spawn(accept(incoming, consensus, Others { cluster: cluster.clone(), kubelet: Some(Arc::clone(&kubelet)) }));

        tokio::spawn(signer::run(cluster.clone()));
        tokio::spawn(account_secrets::run(cluster.clone(), identity.clone()));
        tokio::spawn(rotation::run(cluster.clone()));
        tokio::spawn(rotation::forget(cluster.clone()));
        if node.founder {
            let bind = SocketAddr::new(options.address, options.peer_port);
            // Refused where the cluster exists already, as on every start but the first.
            let _ = store.found(Member { name: node.name.clone(), address: bind.to_string(), witness: None }).await;
            let ports = found::Ports { api_port: options.api_port, dns_port: options.dns_port };
            let authority_pem = identity.borrow().authority_pem.clone();
            tokio::spawn(bootstrap(store.clone(), ports, options.service_range.clone(), authority_pem));
        }
        if let Some(chaos) = options.chaos.clone() {
            let agent = Agent { options: chaos, cluster: cluster.clone(), identity: identity.clone() };
            tokio::spawn(agent.run());
        }
        let api = skein_api::Service::bind(skein_api::Options {
            bind: SocketAddr::new(options.address, options.api_port),
            kubelet: options.kubelet_port.map(|port| KubeletPort { bind: SocketAddr::new(options.address, port), node: node.name.clone() }),
            identity,
            store: store.clone(),
            kubelets: Arc::new(Reach { store: store.clone(), endpoint: endpoint.clone() }),
            cluster: Arc::new(cluster.clone()),
            keyring,
            cluster_ip_range: options.service_range.clone(),
            audit: options.audit.clone(),
            openid: options.openid.clone(),
        })
        .await?;
        let admission = Arc::new(MadeByControllers(api.admitter()));
        let servers = Arc::new(AskedByControllers(api.servers()));
        tokio::spawn(api.run());
        tokio::spawn(skein_lead::run(store.clone(), reports.clone(), admission, servers));
        tokio::spawn(keeper::run(cluster, node.founder));
        tokio::spawn(handover::run(store.clone(), node.name.clone()));
        tokio::spawn(told::of_replacements(store.clone(), node.name.clone()));
        let source = report::Source { name: node.name.clone(), stats: kubelet.stats.clone(), lease: Some(kubelet.lease.clone()) };
        tokio::spawn(report::send(store.clone(), endpoint, source, reports));
        tokio::spawn(services::run(store.clone(), node.name.clone(), SocketAddr::new(options.address, options.dns_port)));
        tokio::spawn(balanced::run(store.clone(), node.name.clone(), options.address));
        tokio::spawn(host_ports::run(store.clone(), kubelet.addresses.clone()));
        tokio::spawn(pod_network::run(store.clone(), node.name.clone(), options.tunnels));
        tokio::spawn(policies::run(store.clone(), kubelet.addresses.clone()));
        tokio::spawn(skein_kubelet::run((*kubelet).clone(), store.clone()));
        info!(node = %node.name, api = %SocketAddr::new(options.address, options.api_port), "the node is up");
        Ok(())
    }
}

/// What controllers make is admitted as what clients make.
struct MadeByControllers(skein_api::Admitter);

#[async_trait]
impl skein_lead::Admission for MadeByControllers {
    async fn admit(&self, user: &str, key: &Key, record: &Record) -> Result<Option<Record>, String> {
        self.0.admit(user, key, record).await
    }
}

/// What controllers ask of other servers goes the way that clients' requests go.
struct AskedByControllers(skein_api::Servers);

#[async_trait]
impl skein_lead::Servers for AskedByControllers {
    async fn get(&self, user: &str, group: (&str, &[&str]), path: &str) -> Result<Value, String> {
        self.0.get(user, group, path).await
    }
}

fn kubelet_options(options: &Options, tokens: Arc<dyn skein_kubelet::Tokens>, keyring: Keyring) -> skein_kubelet::Options {
    skein_kubelet::Options {
        name: options.name.clone(),
        address: options.address,
        port: options.kubelet_port,
        directory: options.kubelet_directory.clone(),
        runtime_endpoint: options.runtime.endpoint.clone(),
        cni_directory: options.runtime.cni_directory.clone(),
        cgroup_root: options.runtime.cgroup_root.clone(),
        labels: options.labels.clone(),
        logs: options.logs,
        cluster_dns: found::DNS_SERVICE_IP.into(),
        tokens,
        keyring,
        manifests: options.manifests.clone(),
        eviction: options.eviction.clone(),
        reserved: options.reserved.clone(),
        image_gc: options.image_gc,
        shutdown: options.shutdown,
        pressure: skein_kubelet::Pressure::default(),
        csi: skein_kubelet::Csi::new(&options.kubelet_directory),
        stats: skein_kubelet::Stats::default(),
        addresses: skein_kubelet::Addresses::default(),
        lease: skein_kubelet::Lease::of(&options.name),
    }
}

/// Who this node is: as its directory says, or founded or joined now.
async fn settle(directory: &Directory, options: &Options) -> Result<NodeFile, Error> {
    if let Some(node) = directory.node()? {
        if node.name != options.name {
            return Err(Error::ForeignDirectory { path: directory.path().into(), found: node.name, wanted: options.name.clone() });
        }
        if node.witness != options.witness.is_some() {
            return Err(Error::OtherKind { path: directory.path().into(), is_witness: node.witness });
        }
        return Ok(node);
    }
    match &options.join {
        Some(token) => join::join(directory, options, token).await,
        None => found::create(directory, options),
    }
}

/// Writes what every cluster has, as soon as there is a quorum to write it to.
async fn bootstrap(store: Store, ports: found::Ports, service_range: String, authority_pem: String) {
    while let Err(why) = found::bootstrap(&store, &ports, &service_range, &authority_pem).await {
        debug!(%why, "not bootstrapped yet");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// Who answers what is not the store's.
#[derive(Clone)]
struct Others {
    cluster: Endpoints,
    /// Not on a witness.
    kubelet: Option<Arc<skein_kubelet::Options>>,
}

/// Hands out the streams that peers open; the store's are served among the tasks of consensus.
async fn accept(mut incoming: mpsc::Receiver<Incoming>, consensus: Handle, others: Others) {
    while let Some(Incoming { peer, channel, stream }) = incoming.recv().await {
        let Others { cluster, kubelet } = others.clone();
        let store = cluster.store.clone();
        match channel {
            Channel::Report => drop(tokio::spawn(async move { report::receive(&peer, stream, &cluster.reports, &store).await })),
            Channel::Kubelet => {
                let Some(kubelet) = kubelet else { continue };
                tokio::spawn(skein_kubelet::serve(kubelet, store, Box::new(stream)));
            }
            Channel::Append | Channel::Call | Channel::Snapshot | Channel::State | Channel::Follow => drop(consensus.spawn(async move {
                if let Err(why) = store.serve(channel, Box::new(stream), |request| answer(request, &cluster)).await {
                    debug!(%peer, ?channel, %why, "a stream ended");
                }
            })),
        }
    }
}

/// The requests of peers that are not the store's.
async fn answer(request: Request, cluster: &Endpoints) -> Response {
    let failed = |why: &dyn std::fmt::Display| Response::Failed(why.to_string());
    match request {
        Request::InstallKeys(_) if cluster.store.is_witness() => failed(&"a witness keeps no keys"),
        Request::InstallKeys(json) => match serde_json::from_slice::<Keys>(&json) {
            Ok(keys) => match install(&keys, cluster) {
                Ok(()) => Response::Raft(bytes::Bytes::from_static(b"{}")),
                Err(why) => failed(&why),
            },
            Err(why) => failed(&why),
        },
        Request::Renew(json) => match serde_json::from_slice::<RenewalRequest>(&json) {
            Ok(request) => answered(cluster.readmit(&request).await),
            Err(why) => failed(&why),
        },
        Request::Join(json) => match serde_json::from_slice::<JoinRequest>(&json) {
            Ok(request) => answered(cluster.admit(&request).await),
            Err(why) => failed(&why),
        },
        Request::Authority(json) => match serde_json::from_slice::<Wish>(&json) {
            Ok(wish) => answered(cluster.lead_authority(&wish).await),
            Err(why) => failed(&why),
        },
        Request::SignToken(json) => match serde_json::from_slice::<TokenClaims>(&json) {
            Ok(claims) => answered(cluster.sign_for_peer(&claims).await),
            Err(why) => failed(&why),
        },
        Request::Authorities(_) => answered(Ok(Authorities::of(&cluster.store.local().state))),
        Request::SealingKey(_) => match sealing::own(&cluster.directory) {
            Ok(Some(keys)) => Response::Raft(keys.concat().into()),
            Ok(None) => Response::Failed("this node does not vote".into()),
            Err(why) => failed(&why),
        },
        _ => Response::Failed("not a request for this part of the node".into()),
    }
}

fn answered(answer: Result<impl serde::Serialize, Status>) -> Response {
    match answer {
        Ok(answer) => Response::Raft(serde_json::to_vec(&answer).unwrap_or_default().into()),
        Err(status) => Response::Failed(serde_json::to_string(&status).unwrap_or_default()),
    }
}

/// Keeps the keys of CAs, if they are those of the CAs that this node already trusts.
fn install(keys: &Keys, cluster: &Endpoints) -> Result<(), Error> {
    let known = cluster.directory.identity()?.map(|identity| identity.authority_pem);
    if known.as_ref() != Some(&keys.authority_certificate) {
        return Err(Error::Join("the keys are those of another CA".into()));
    }
    cluster.directory.save_authority_keys(&keys.authority_key)
}
