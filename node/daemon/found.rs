//! A new cluster: its CA, its first node, and the objects that every cluster has.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::claim::CLUSTER_IPS;
use skein_object::managed::{self, Writer};
use skein_object::meta::{self, Birth};
use skein_object::registry::{self, Subresource};
use skein_object::{Key, Record, Resource};
use skein_quic::authority::{USER_LIFETIME, node_dns_name};
use skein_quic::{Authority, Subject};
use skein_store::Handle;

use crate::directory::{Directory, NodeFile};
use crate::{Error, Options};

/// The ClusterIP of the Service `kubernetes`, in every node's certificate.
const API_SERVICE_IP: &str = "10.96.0.1";

/// The ClusterIP of DNS, which kubelets write into Pods' resolv.conf.
pub(crate) const DNS_SERVICE_IP: &str = "10.96.0.10";

/// A founder's first certificate: enough to start with, since it signs the next one itself, at once.
const FIRST_LIFETIME: Duration = Duration::from_secs(600);

/// Where every node serves what the cluster's own Services lead to.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) api_port: u16,
    pub(crate) dns_port: u16,
}

/// Makes the CA, the node's identity and the administrator's kubeconfig.
pub(crate) fn create(directory: &Directory, options: &Options) -> Result<NodeFile, Error> {
    if options.witness.is_some() {
        return Err(Error::Join("a witness keeps no state, so it cannot found a cluster: give --join TOKEN".into()));
    }
    let (name, address) = (options.name.clone(), options.address);
    let node = NodeFile { format: 1, name, id: draw_id(), address, founder: true, epoch: 0, witness: false };
    equip(directory, &Authority::create("skein")?, &node, options.api_port)?;
    Ok(node)
}

/// Gives a directory what the first node of a cluster with this CA has; the node's own file comes last.
pub(crate) fn equip(directory: &Directory, authority: &Authority, node: &NodeFile, api_port: u16) -> Result<(), Error> {
    directory.save_authority_keys(&authority.key_pem)?;
    let names = names(&node.name, &node.address.to_string());
    let identity = authority.issue(&Subject::node(&node.name), &names, FIRST_LIFETIME)?;
    directory.save_identity(&identity)?;
    equip_admin(directory, authority, SocketAddr::new(node.address, api_port))?;
    directory.save_node(node)
}

/// Gives the administrator a certificate, and a kubeconfig with it.
pub(crate) fn equip_admin(directory: &Directory, authority: &Authority, api: SocketAddr) -> Result<(), Error> {
    let admin = Subject { user: "admin".into(), groups: vec!["system:masters".into()] };
    directory.save_admin(&authority.issue(&admin, &[], USER_LIFETIME)?, api.ip(), api.port())
}

/// Node ids are random and never reused; 53 bits pass through JSON unharmed.
pub(crate) fn draw_id() -> u64 {
    rand::random_range(1..1 << 53)
}

/// The names in a node's certificate.
pub(crate) fn names(node: &str, address: &str) -> Vec<String> {
    let services = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let own = [node, &node_dns_name(node), address, "127.0.0.1", "localhost", API_SERVICE_IP].map(String::from);
    own.into_iter().chain(services.map(String::from)).collect()
}

/// Writes the objects that every cluster has, where they are missing.
pub(crate) async fn bootstrap(store: &Handle, options: &Ports, service_range: &str, authority_pem: &str) -> Result<(), Error> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let resource = registry::find("", "v1", "namespaces").expect("the registry has namespaces");
        ensure(store, resource, "", json!({"metadata": {"name": name}})).await?;
    }
    let map = registry::find("", "v1", "configmaps").expect("the registry has ConfigMaps");
    ensure(store, map, "kube-system", json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": authority_pem}})).await?;
    let ranges = registry::find("networking.k8s.io", "v1", "servicecidrs").expect("the registry has ServiceCIDRs");
    ensure(store, ranges, "", default_range(service_range)).await?;
    ensure_all(store, serde_json::from_str(DEFAULTS).expect("the defaults are a list of objects")).await?;
    // The API's address is in every node's certificate, and that of DNS in every Pod: nobody else may have them.
    let api = json!([{"name": "https", "protocol": "TCP", "port": 443, "targetPort": options.api_port}]);
    let dns = json!([
        {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": options.dns_port},
        {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": options.dns_port},
    ]);
    for (namespace, name, address, ports) in
        [("default", "kubernetes", API_SERVICE_IP, api), ("kube-system", "kube-dns", DNS_SERVICE_IP, dns)]
    {
        let resource = registry::find("", "v1", "services").expect("the registry has services");
        let service = json!({
            "metadata": {"name": name, "labels": {"provider": "skein"}},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports,
                "trafficDistribution": "PreferSameNode"},
        });
        let claim = Record::from_value(&json!({"metadata": {"name": address}, "service": format!("{namespace}/{name}")}));
        let claim = Write::create(&Key::new(CLUSTER_IPS, "", address), claim);
        store.propose(Transaction { epoch: 0, writes: vec![claim, creation(resource, namespace, service)] }).await?;
    }
    Ok(())
}

/// The range that ClusterIPs are taken from, as clients look it up.
fn default_range(service_range: &str) -> Value {
    let ready = json!({"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": meta::time(Timestamp::now())});
    json!({"metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": [service_range]}, "status": {"conditions": [ready]}})
}

/// Kubernetes' own roles, bindings and priority classes.
const DEFAULTS: &str = include_str!("defaults/objects.json");

/// Writes these objects, where they are missing.
pub(crate) async fn ensure_all(store: &Handle, objects: Vec<Value>) -> Result<(), Error> {
    let text = |object: &Value, field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
    let new = objects.into_iter().filter_map(|object| {
        let resource = registry::by_kind(&text(&object, "apiVersion"), &text(&object, "kind"))?;
        let namespace = meta::text(&object, "namespace").to_string();
        Some(creation(resource, &namespace, object).into())
    });
    store.propose_all(new.collect()).await?;
    Ok(())
}

async fn ensure(store: &Handle, resource: &Resource, namespace: &str, object: Value) -> Result<(), Error> {
    // One that is there already is what was wanted.
    store.propose(creation(resource, namespace, object).into()).await?;
    Ok(())
}

pub(crate) fn creation(resource: &Resource, namespace: &str, mut object: Value) -> Write {
    let now = meta::time(Timestamp::now());
    let birth = Birth { uid: &uuid::Uuid::new_v4().to_string(), now: &now, suffix: "" };
    meta::at_creation(&mut object, resource, namespace, &birth);
    resource.fill_defaults(&mut object);
    let (api_version, status_apart) = (resource.api_version(), resource.has(Subresource::Status));
    let writer = Writer { manager: "kube-apiserver", api_version: &api_version, subresource: "", now: &now, status_apart };
    managed::update(None, &mut object, resource.shape(), &writer);
    let key = Key::new(resource.stored(), namespace, meta::name(&object));
    Write::create(&key, resource.record(&object))
}
