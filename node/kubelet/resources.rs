//! From Kubernetes' resources and security contexts to what the runtime is told. Pure.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use skein_cri as v1;
use skein_object::quantity::Quantity;

/// CPU bandwidth is given in periods of 100 ms.
const CPU_PERIOD_US: i64 = 100_000;

pub(crate) fn linux_resources(pod: &Pod, container: &Container) -> v1::LinuxContainerResources {
    let amount = |kind: &str, name: &str| -> Option<Quantity> {
        let resources = container.resources.as_ref()?;
        let map = if kind == "limits" { resources.limits.as_ref() } else { resources.requests.as_ref() };
        map?.get(name)?.0.parse().ok()
    };
    let clamp = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
    let cpu_request = amount("requests", "cpu").or(amount("limits", "cpu")).map_or(0, |q| clamp(q.milli()));
    let cpu_limit = amount("limits", "cpu").map_or(0, |q| clamp(q.milli()));
    let memory = amount("limits", "memory").map_or(0, |q| clamp(q.units()));
    let class = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()).unwrap_or("BestEffort");
    v1::LinuxContainerResources {
        cpu_period: if cpu_limit > 0 { CPU_PERIOD_US } else { 0 },
        cpu_quota: if cpu_limit > 0 { (cpu_limit * CPU_PERIOD_US / 1000).max(1000) } else { 0 },
        cpu_shares: (cpu_request * 1024 / 1000).clamp(2, 262_144),
        memory_limit_in_bytes: memory,
        oom_score_adj: match class {
            "Guaranteed" => -997,
            "BestEffort" => 1000,
            _ => 500,
        },
        ..Default::default()
    }
}

/// `profiles` is the directory in which the node's own seccomp profiles are.
pub(crate) fn security_context(
    pod: &Pod,
    container: &Container,
    profiles: &Path,
    users: Option<&v1::IdMapping>,
) -> v1::LinuxContainerSecurityContext {
    let own = container.security_context.clone().unwrap_or_default();
    let shared = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let capabilities = own.capabilities.clone().map(|c| v1::Capability {
        add_capabilities: c.add.unwrap_or_default(),
        drop_capabilities: c.drop.unwrap_or_default(),
        ..Default::default()
    });
    let user = own.run_as_user.or(shared.run_as_user);
    let group = own.run_as_group.or(shared.run_as_group);
    let mut groups = shared.supplemental_groups.unwrap_or_default();
    groups.extend(shared.fs_group);
    let profile = own.seccomp_profile.or(shared.seccomp_profile).filter(|_| own.privileged != Some(true)).unwrap_or_default();
    let seccomp = match profile.type_.as_str() {
        "Localhost" => v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost.into(),
            localhost_ref: profiles.join(profile.localhost_profile.unwrap_or_default()).display().to_string(),
        },
        "RuntimeDefault" => {
            v1::SecurityProfile { profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(), ..Default::default() }
        }
        _ => v1::SecurityProfile { profile_type: v1::security_profile::ProfileType::Unconfined.into(), ..Default::default() },
    };
    let strict = shared.supplemental_groups_policy.as_deref() == Some("Strict");
    let groups_policy = if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge };
    v1::LinuxContainerSecurityContext {
        capabilities,
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(pod, users)),
        run_as_user: user.map(|value| v1::Int64Value { value }),
        run_as_group: group.map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: Some(seccomp),
        supplemental_groups_policy: groups_policy.into(),
        ..Default::default()
    }
}

pub(crate) fn must_not_be_root(pod: &Pod, container: &Container) -> bool {
    let own = container.security_context.as_ref().and_then(|c| c.run_as_non_root);
    own.or(pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.run_as_non_root)) == Some(true)
}

/// Whether a container that must not run as root would (`verifyRunAsNonRoot`).
pub(crate) fn verify_non_root(pod: &Pod, container: &Container, image: &v1::Image) -> Result<(), String> {
    if !must_not_be_root(pod, container) {
        return Ok(());
    }
    let own = container.security_context.as_ref();
    let shared = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let about = format!("(pod: {:?}, container: {})", pod.metadata.name.as_deref().unwrap_or_default(), container.name);
    match own.and_then(|c| c.run_as_user).or(shared.and_then(|c| c.run_as_user)) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {about}")),
        Some(_) => Ok(()),
        None if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {about}",
            image.username
        )),
        None if image.uid.as_ref().is_none_or(|uid| uid.value == 0) => {
            Err(format!("container has runAsNonRoot and image will run as root {about}"))
        }
        None => Ok(()),
    }
}

/// Which namespaces a Pod shares with its node.
/// `users` are those of a Pod that has its own.
pub(crate) fn namespaces(pod: &Pod, users: Option<&v1::IdMapping>) -> v1::NamespaceOption {
    let spec = pod.spec.clone().unwrap_or_default();
    let node_or = |host: Option<bool>, other: v1::NamespaceMode| if host == Some(true) { v1::NamespaceMode::Node } else { other };
    let pid = if spec.share_process_namespace == Some(true) { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    v1::NamespaceOption {
        network: node_or(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: node_or(spec.host_pid, pid).into(),
        ipc: node_or(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        userns_options: users.map(|users| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: vec![*users],
            gids: vec![*users],
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_root_out_where_it_is_not_wanted() {
        let check = |shared: serde_json::Value, own: serde_json::Value, uid: Option<i64>, username: &str, expected: &str| {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"securityContext": shared, "containers": []}}))
                    .expect("a Pod");
            let container: Container = serde_json::from_value(json!({"name": "c", "securityContext": own})).expect("a container");
            let image = v1::Image { uid: uid.map(|value| v1::Int64Value { value }), username: username.into(), ..Default::default() };
            let found = verify_non_root(&pod, &container, &image).err().unwrap_or_default();
            assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{found}");
        };
        let non_root = || json!({"runAsNonRoot": true});
        check(json!({}), json!({}), Some(0), "", "");
        check(non_root(), json!({}), Some(0), "", "image will run as root");
        check(non_root(), json!({}), None, "", "image will run as root");
        check(non_root(), json!({}), Some(7), "", "");
        check(non_root(), json!({}), None, "web", "non-numeric user (web)");
        check(non_root(), json!({"runAsUser": 0}), Some(7), "", "breaks non-root policy");
        check(non_root(), json!({"runAsUser": 5}), Some(0), "", "");
        check(non_root(), json!({"runAsNonRoot": false}), Some(0), "", "");
    }
}
