//! The variables by which a container finds Services (`pkg/kubelet/envvars`). Pure.

use k8s_openapi::api::core::v1::{Pod, Service};
use skein_state::State;

/// Where every Pod finds the API.
const API: (&str, &str) = ("default", "kubernetes");

/// Name and value of each variable: of the API's Service, and of those in the Pod's namespace, unless it does not want
/// them.
pub(crate) fn variables(pod: &Pod, state: &State) -> Vec<(String, String)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false);
    let services = |namespace: &str| {
        let prefix = format!("services/{namespace}/");
        let entries = state.range(&prefix, None).filter_map(|(_, entry)| entry.record.typed::<Service>(entry.revision));
        entries.collect::<Vec<_>>()
    };
    let api = services(API.0).into_iter().filter(|service| service.metadata.name.as_deref() == Some(API.1));
    let own = services(namespace).into_iter().filter(|_| links);
    // The namespace's own Service of that name is the nearer one.
    api.chain(own).flat_map(|service| of_service(&service)).collect()
}

fn of_service(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.filter(|address| !address.is_empty() && address != "None");
    let (Some(address), ports) = (address, spec.ports.unwrap_or_default()) else { return Vec::new() };
    let Some(first) = ports.first() else { return Vec::new() };
    let prefix = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let joined = |port: i32| if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let protocol = |stated: &Option<String>| stated.clone().unwrap_or_else(|| "TCP".into());
    let url = |port: i32, stated: &Option<String>| format!("{}://{}", protocol(stated).to_lowercase(), joined(port));
    let mut all = vec![(format!("{prefix}_SERVICE_HOST"), address.clone()), (format!("{prefix}_SERVICE_PORT"), first.port.to_string())];
    for port in &ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            all.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string()));
        }
    }
    // What Docker's links looked like.
    all.push((format!("{prefix}_PORT"), url(first.port, &first.protocol)));
    for port in &ports {
        let protocol = protocol(&port.protocol);
        let one = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.push((one.clone(), url(port.port, &port.protocol)));
        all.push((format!("{one}_PROTO"), protocol.to_lowercase()));
        all.push((format!("{one}_PORT"), port.port.to_string()));
        all.push((format!("{one}_ADDR"), address.clone()));
    }
    all
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_found_by_host_and_port() {
        let service = json!({"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.0.0.1", "ports": [
            {"name": "sql", "port": 5432, "protocol": "TCP"}, {"name": "gossip", "port": 7000, "protocol": "UDP"}]}});
        let service: Service = serde_json::from_value(service).expect("a Service");
        let found = of_service(&service);
        let value = |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        for (name, expected) in [
            ("MY_DB_SERVICE_HOST", "10.0.0.1"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_GOSSIP", "7000"),
            ("MY_DB_PORT", "tcp://10.0.0.1:5432"),
            ("MY_DB_PORT_7000_UDP", "udp://10.0.0.1:7000"),
            ("MY_DB_PORT_7000_UDP_PROTO", "udp"),
            ("MY_DB_PORT_7000_UDP_PORT", "7000"),
            ("MY_DB_PORT_7000_UDP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(value(name), Some(expected), "{name}");
        }
        let headless = Service { spec: serde_json::from_value(json!({"clusterIP": "None", "ports": [{"port": 1}]})).ok(), ..service };
        assert!(of_service(&headless).is_empty());
    }
}
