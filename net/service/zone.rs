//! The cluster's names: the Kubernetes DNS specification 1.1 (`kubernetes/dns`, docs/specification.md). Pure.
//!
//! ```text
//!   SERVICE.NAMESPACE.svc.cluster.local                   A: the ClusterIP, or each endpoint where it is headless
//!   HOSTNAME.SERVICE.NAMESPACE.svc.cluster.local          A: one endpoint of a headless Service
//!   _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.cluster.local   SRV
//!   10-244-0-2.NAMESPACE.pod.cluster.local                A: the address that the name spells
//! ```

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The zone that the cluster answers for.
pub const DOMAIN: &str = "cluster.local";

/// What the names come from.
pub trait Source {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service>;
    fn slices<'a>(&'a self, namespace: &'a str, service: &'a str) -> Box<dyn Iterator<Item = &'a EndpointSlice> + 'a>;
    fn has_namespace(&self, namespace: &str) -> bool;
    /// The Service that has this ClusterIP, or the slices that hold this endpoint.
    fn services(&self) -> Box<dyn Iterator<Item = &Service> + '_>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    A,
    Srv,
    Ptr,
    Txt,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Srv { port: u16, target: String },
    Cname(String),
    Ptr(String),
    Txt(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not a name of the cluster's: somebody else must be asked.
    Outside,
    /// NXDOMAIN.
    NoName,
    /// Records of the wanted kind; none: the name has others.
    Records(Vec<Data>),
}

/// One endpoint of a headless Service, by its name there.
struct Host {
    name: String,
    address: Ipv4Addr,
    ports: Vec<(String, String, u16)>,
}

/// Looks a name up; `name` is in lower case and without the last dot.
pub fn resolve(source: &dyn Source, name: &str, kind: Kind) -> Found {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        return reverse(source, reversed, kind);
    }
    let Some(inside) = name.strip_suffix(DOMAIN).and_then(|rest| if rest.is_empty() { Some("") } else { rest.strip_suffix('.') }) else {
        return Found::Outside;
    };
    let labels: Vec<&str> = inside.split('.').filter(|l| !l.is_empty()).collect();
    match labels.as_slice() {
        ["dns-version"] => only(kind, Kind::Txt, vec![Data::Txt("1.1.0".into())]),
        [] | ["svc" | "pod"] => Found::Records(Vec::new()),
        [namespace, "svc" | "pod"] if source.has_namespace(namespace) => Found::Records(Vec::new()),
        [address, namespace, "pod"] if source.has_namespace(namespace) => match address.replace('-', ".").parse() {
            Ok(address) => only(kind, Kind::A, vec![Data::A(address)]),
            Err(_) => Found::NoName,
        },
        [service, namespace, "svc"] => of_service(source, namespace, service, kind),
        [host, service, namespace, "svc"] if !host.starts_with('_') => of_host(source, namespace, service, host, kind),
        [port, protocol, service, namespace, "svc"] => of_port(source, (namespace, service), (port, protocol), kind),
        _ => Found::NoName,
    }
}

fn only(asked: Kind, has: Kind, records: Vec<Data>) -> Found {
    Found::Records(if asked == has { records } else { Vec::new() })
}

fn of_service(source: &dyn Source, namespace: &str, name: &str, kind: Kind) -> Found {
    let Some(spec) = source.service(namespace, name).and_then(|s| s.spec.as_ref()) else { return Found::NoName };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Found::Records(spec.external_name.iter().map(|target| Data::Cname(target.clone())).collect());
    }
    if let Some(ip) = cluster_ip(source, namespace, name) {
        return only(kind, Kind::A, vec![Data::A(ip)]);
    }
    let hosts = hosts(source, namespace, name);
    // A headless Service without endpoints has no records, and so no name.
    if hosts.is_empty() { Found::NoName } else { only(kind, Kind::A, hosts.iter().map(|h| Data::A(h.address)).collect()) }
}

fn of_host(source: &dyn Source, namespace: &str, service: &str, host: &str, kind: Kind) -> Found {
    if source.service(namespace, service).is_none() || cluster_ip(source, namespace, service).is_some() {
        return Found::NoName;
    }
    let hosts = hosts(source, namespace, service);
    let found: Vec<Data> = hosts.iter().filter(|h| h.name == host).map(|h| Data::A(h.address)).collect();
    if found.is_empty() { Found::NoName } else { only(kind, Kind::A, found) }
}

fn of_port(source: &dyn Source, (namespace, name): (&str, &str), (port, protocol): (&str, &str), kind: Kind) -> Found {
    let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else { return Found::NoName };
    let Some(spec) = source.service(namespace, name).and_then(|s| s.spec.as_ref()) else { return Found::NoName };
    let suffix = format!("{name}.{namespace}.svc.{DOMAIN}");
    let records: Vec<Data> = if cluster_ip(source, namespace, name).is_some() {
        let ports = spec.ports.iter().flatten();
        let matching =
            ports.filter(|p| p.name.as_deref() == Some(port) && p.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(protocol));
        matching.filter_map(|p| Some(Data::Srv { port: u16::try_from(p.port).ok()?, target: suffix.clone() })).collect()
    } else {
        let of = |host: &Host| {
            let found = host.ports.iter().find(|(name, kind, _)| name == port && kind == protocol);
            found.map(|(_, _, number)| Data::Srv { port: *number, target: format!("{}.{suffix}", host.name) })
        };
        hosts(source, namespace, name).iter().filter_map(of).collect()
    };
    if records.is_empty() { Found::NoName } else { only(kind, Kind::Srv, records) }
}

fn reverse(source: &dyn Source, reversed: &str, kind: Kind) -> Found {
    let octets: Vec<&str> = reversed.rsplit('.').collect();
    let Ok(address) = octets.join(".").parse::<Ipv4Addr>() else { return Found::Outside };
    let text = address.to_string();
    for service in source.services() {
        let (namespace, name) = names(service);
        let suffix = format!("{name}.{namespace}.svc.{DOMAIN}");
        if service.spec.as_ref().and_then(|s| s.cluster_ip.as_ref()) == Some(&text) {
            return only(kind, Kind::Ptr, vec![Data::Ptr(suffix)]);
        }
        if cluster_ip(source, namespace, name).is_none()
            && let Some(host) = hosts(source, namespace, name).into_iter().find(|h| h.address == address)
        {
            return only(kind, Kind::Ptr, vec![Data::Ptr(format!("{}.{suffix}", host.name))]);
        }
    }
    Found::Outside
}

fn names(service: &Service) -> (&str, &str) {
    (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default())
}

fn cluster_ip(source: &dyn Source, namespace: &str, name: &str) -> Option<Ipv4Addr> {
    source.service(namespace, name)?.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

/// Ready endpoints, named by their host names, or by their addresses where they have none.
fn hosts(source: &dyn Source, namespace: &str, service: &str) -> Vec<Host> {
    let mut found = Vec::new();
    for slice in source.slices(namespace, service).filter(|s| s.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten().filter_map(|p| {
            let protocol = p.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            Some((p.name.clone().unwrap_or_default(), protocol, u16::try_from(p.port?).ok()?))
        });
        let ports: Vec<_> = ports.collect();
        let ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        for endpoint in slice.endpoints.iter().flatten().filter(ready) {
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<Ipv4Addr>().ok()) {
                let name = endpoint.hostname.clone().unwrap_or_else(|| address.to_string().replace('.', "-"));
                found.push(Host { name, address, ports: ports.clone() });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed {
        services: Vec<Service>,
        slices: Vec<EndpointSlice>,
    }

    impl Source for Fixed {
        fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
            self.services.iter().find(|s| names(s) == (namespace, name))
        }

        fn slices<'a>(&'a self, _: &'a str, service: &'a str) -> Box<dyn Iterator<Item = &'a EndpointSlice> + 'a> {
            let of = move |s: &&EndpointSlice| {
                s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|n| n == service)
            };
            Box::new(self.slices.iter().filter(of))
        }

        fn has_namespace(&self, namespace: &str) -> bool {
            namespace == "n"
        }

        fn services(&self) -> Box<dyn Iterator<Item = &Service> + '_> {
            Box::new(self.services.iter())
        }
    }

    fn fixed() -> Fixed {
        let service = |name: &str, spec: serde_json::Value| {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})).expect("a Service")
        };
        let port = json!([{"name": "http", "port": 80}]);
        let slice = json!({
            "metadata": {"name": "h-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "h"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.244.0.2"], "hostname": "h-0"}, {"addresses": ["10.244.0.3"]},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": false}}],
        });
        Fixed {
            services: vec![
                service("w", json!({"clusterIP": "10.96.0.9", "ports": port})),
                service("h", json!({"clusterIP": "None", "ports": port})),
                service("x", json!({"type": "ExternalName", "externalName": "example.org"})),
                service("e", json!({"clusterIP": "None"})),
            ],
            slices: vec![serde_json::from_value(slice).expect("a slice")],
        }
    }

    #[test]
    fn answers_as_the_specification_says() {
        let a = |ip: [u8; 4]| Data::A(ip.into());
        let check = |name: &str, kind: Kind, expected: Found| assert_eq!(resolve(&fixed(), name, kind), expected, "{name}");
        let records = Found::Records;
        check("w.n.svc.cluster.local", Kind::A, records(vec![a([10, 96, 0, 9])]));
        check("w.n.svc.cluster.local", Kind::Other, records(vec![]));
        check("w.other.svc.cluster.local", Kind::A, Found::NoName);
        check("h.n.svc.cluster.local", Kind::A, records(vec![a([10, 244, 0, 2]), a([10, 244, 0, 3])]));
        check("h-0.h.n.svc.cluster.local", Kind::A, records(vec![a([10, 244, 0, 2])]));
        check("10-244-0-3.h.n.svc.cluster.local", Kind::A, records(vec![a([10, 244, 0, 3])]));
        check("h-0.w.n.svc.cluster.local", Kind::A, Found::NoName);
        check("e.n.svc.cluster.local", Kind::A, Found::NoName);
        check("x.n.svc.cluster.local", Kind::A, records(vec![Data::Cname("example.org".into())]));
        let target = "w.n.svc.cluster.local".to_string();
        check("_http._tcp.w.n.svc.cluster.local", Kind::Srv, records(vec![Data::Srv { port: 80, target: target.clone() }]));
        check(
            "_http._tcp.h.n.svc.cluster.local",
            Kind::Srv,
            records(vec![
                Data::Srv { port: 8080, target: "h-0.h.n.svc.cluster.local".into() },
                Data::Srv { port: 8080, target: "10-244-0-3.h.n.svc.cluster.local".into() },
            ]),
        );
        check("_none._tcp.w.n.svc.cluster.local", Kind::Srv, Found::NoName);
        check("10-244-9-9.n.pod.cluster.local", Kind::A, records(vec![a([10, 244, 9, 9])]));
        check("nonsense.n.pod.cluster.local", Kind::A, Found::NoName);
        check("9.0.96.10.in-addr.arpa", Kind::Ptr, records(vec![Data::Ptr(target)]));
        check("2.0.244.10.in-addr.arpa", Kind::Ptr, records(vec![Data::Ptr("h-0.h.n.svc.cluster.local".into())]));
        check("dns-version.cluster.local", Kind::Txt, records(vec![Data::Txt("1.1.0".into())]));
        check("example.org", Kind::A, Found::Outside);
        check("notcluster.local", Kind::A, Found::Outside);
        check("8.8.8.8.in-addr.arpa", Kind::Ptr, Found::Outside);
    }
}
