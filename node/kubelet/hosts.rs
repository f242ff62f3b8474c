//! A Pod's own names, and the `/etc/hosts` that its containers see (`pkg/kubelet/kubelet_pods.go`). Pure.

use k8s_openapi::api::core::v1::Pod;

use crate::dns::DOMAIN;

/// What the kernel takes as a host name, in bytes.
const HOSTNAME_MAX: usize = 64;
/// What a label of DNS may have, in bytes: longer names of Pods are cut.
const LABEL_MAX: usize = 63;

/// A Pod's host name and the domain below which it stands, if it has one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Names {
    host: String,
    domain: Option<String>,
}

// === impl Names ===

impl Names {
    pub(crate) fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let stated = |name: Option<String>| name.filter(|name| !name.is_empty());
        if let Some(host) = stated(spec.hostname_override) {
            return Self { host: cut(host), domain: None };
        }
        let host = stated(spec.hostname).unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = stated(spec.subdomain).map(|subdomain| format!("{subdomain}.{namespace}.svc.{DOMAIN}"));
        Self { host: cut(host), domain }
    }

    fn qualified(&self) -> Option<String> {
        self.domain.as_ref().map(|domain| format!("{}.{domain}", self.host))
    }

    /// What `hostname` says in the Pod.
    pub(crate) fn hostname(&self, pod: &Pod) -> Result<String, String> {
        let spec = pod.spec.as_ref();
        if spec.and_then(|s| s.host_network) == Some(true) {
            return Ok(String::new());
        }
        match self.qualified().filter(|_| spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true)) {
            Some(name) if name.len() > HOSTNAME_MAX => Err(format!(
                "failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long ({HOSTNAME_MAX} characters is the max, {} characters requested)",
                name.len()
            )),
            Some(name) => Ok(name),
            None => Ok(self.host.clone()),
        }
    }
}

fn cut(mut host: String) -> String {
    if host.len() > LABEL_MAX {
        host.truncate(LABEL_MAX);
        host.truncate(host.trim_end_matches(['-', '.']).len());
    }
    host
}

/// The file's text; `of_node` is that of the node, which a Pod in the node's network has too.
pub(crate) fn file(pod: &Pod, address: &str, of_node: &str) -> String {
    let mut text = if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{of_node}")
    } else {
        let names = Names::of(pod);
        let own = match names.qualified() {
            Some(qualified) => format!("{address}\t{qualified}\t{}\n", names.host),
            None => format!("{address}\t{}\n", names.host),
        };
        format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{own}"
        )
    };
    let aliases = pod.spec.iter().flat_map(|s| s.host_aliases.iter().flatten());
    let lines: Vec<String> =
        aliases.map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"))).collect();
    if !lines.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        text.push_str(&lines.concat());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})).expect("a Pod")
    }

    #[test]
    fn a_pod_is_called_by_its_name_unless_it_says_otherwise() {
        let long = format!("{}-x", "a".repeat(62));
        let check = |name: &str, spec: Value, expected: Result<&str, ()>| {
            let pod = pod(name, spec);
            assert_eq!(Names::of(&pod).hostname(&pod).map_err(|_| ()), expected.map(String::from));
        };
        check("p", json!({"containers": []}), Ok("p"));
        check(&long, json!({"containers": []}), Ok(&"a".repeat(62)));
        check("p", json!({"containers": [], "hostname": "h", "subdomain": "s"}), Ok("h"));
        check("p", json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}), Ok("p.s.n.svc.cluster.local"));
        check("p", json!({"containers": [], "subdomain": long, "setHostnameAsFQDN": true}), Err(()));
        check("p", json!({"containers": [], "hostNetwork": true}), Ok(""));
    }

    #[test]
    fn hosts_have_the_pods_names_and_its_aliases() {
        let alias = json!([{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]);
        let own = file(&pod("p", json!({"containers": [], "subdomain": "s", "hostAliases": alias})), "10.0.0.1", "node\n");
        assert!(own.contains("10.0.0.1\tp.s.n.svc.cluster.local\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{own}");
        let shared = file(&pod("p", json!({"containers": [], "hostNetwork": true})), "10.0.0.1", "node\n");
        assert_eq!(shared, "# Kubernetes-managed hosts file (host network).\nnode\n");
    }
}
