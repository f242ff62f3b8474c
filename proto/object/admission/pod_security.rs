//! The Pod Security Standards (KEP-2579): what a namespace's labels let its Pods ask for.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::meta;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// Capabilities that the runtime gives anyhow, and that `baseline` allows to add.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that stay within the Pod.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// Volumes that `restricted` allows.
const FREE_VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Baseline,
    Restricted,
}

/// What is done about a Pod that asks for too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Enforce,
    Warn,
}

/// `violates PodSecurity "restricted:latest": …`, where a Pod (or the template of one) asks for more than the labels of
/// its namespace let it.
pub fn violation(mode: Mode, namespace: &Value, pod: &Value) -> Option<String> {
    let labels = meta::labels(namespace);
    let name = if mode == Mode::Enforce { "enforce" } else { "warn" };
    let stated = labels.get(&format!("{PREFIX}{name}"))?;
    let level = match stated.as_str() {
        "baseline" => Level::Baseline,
        "restricted" => Level::Restricted,
        _ => return None,
    };
    let version = labels.get(&format!("{PREFIX}{name}-version")).map_or("latest", String::as_str);
    let found = check(level, &pod["spec"]);
    let verb = if mode == Mode::Enforce { "violates" } else { "would violate" };
    (!found.is_empty()).then(|| format!("{verb} PodSecurity \"{stated}:{version}\": {}", found.join(", ")))
}

/// The checks that fail, in Kubernetes' order and words: `reason (detail)`.
fn check(level: Level, spec: &Value) -> Vec<String> {
    let mut found = Found { spec, told: Vec::new() };
    let is_restricted = level == Level::Restricted;
    found.app_armor();
    if !is_restricted {
        found.added_capabilities();
    }
    found.host_namespaces();
    found.host_path();
    found.host_ports();
    found.probe_hosts();
    found.privileged();
    found.proc_mount();
    found.se_linux();
    if !is_restricted {
        found.seccomp_baseline();
    }
    found.sysctls();
    if is_restricted {
        found.privilege_escalation();
        found.restricted_capabilities();
        found.restricted_volumes();
        found.non_root();
        found.root_user();
        found.seccomp_restricted();
    }
    found.told
}

struct Found<'a> {
    spec: &'a Value,
    told: Vec<String>,
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(one: &str, many: &str, count: usize) -> String {
    if count == 1 { one.into() } else { many.into() }
}

/// `container "a"`, `containers "a", "b"`
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

fn security(of: &Value) -> &Value {
    &of["securityContext"]
}

// === impl Found ===

impl<'a> Found<'a> {
    fn tell(&mut self, reason: &str, detail: &str) {
        self.told.push(format!("{reason} ({detail})"));
    }

    fn all(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| spec[list].as_array()).flatten()
    }

    fn named(&self, is_bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.all().filter(|container| is_bad(container)).map(name).collect()
    }

    fn app_armor(&mut self) {
        let kind = |of: &'a Value| security(of).pointer("/appArmorProfile/type").and_then(Value::as_str).unwrap_or("RuntimeDefault");
        let is_bad = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost");
        let bad: Vec<&str> = self.all().filter(|c| is_bad(kind(c))).map(name).collect();
        let mut setters = Vec::new();
        let mut values: BTreeSet<&str> = self.all().map(kind).filter(|k| is_bad(k)).collect();
        if is_bad(kind(self.spec)) {
            setters.push("pod".to_string());
            values.insert(kind(self.spec));
        }
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        if !setters.is_empty() {
            let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
            self.tell(&reason, &format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(values)));
        }
    }

    fn capabilities(&self, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
        let added = |c: &'a Value| {
            security(c).pointer("/capabilities/add").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        };
        let bad = self.all().filter(|c| added(c).any(|capability| !allowed.contains(&capability))).map(name).collect();
        (bad, self.all().flat_map(added).filter(|capability| !allowed.contains(capability)).collect())
    }

    fn added_capabilities(&mut self) {
        let (bad, capabilities) = self.capabilities(DEFAULT_CAPABILITIES);
        if !bad.is_empty() {
            let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(capabilities));
            self.tell("non-default capabilities", &detail);
        }
    }

    fn host_namespaces(&mut self) {
        let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
            .into_iter()
            .filter(|field| self.spec[*field] == true)
            .map(|f| format!("{f}=true"))
            .collect();
        if !shared.is_empty() {
            self.tell("host namespaces", &shared.join(", "));
        }
    }

    fn host_path(&mut self) {
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let bad: Vec<&str> = volumes.filter(|volume| volume["hostPath"].is_object()).map(name).collect();
        if !bad.is_empty() {
            self.tell("hostPath volumes", &format!("{} {}", plural("volume", "volumes", bad.len()), quoted(bad)));
        }
    }

    fn host_ports(&mut self) {
        let ports =
            |c: &'a Value| c["ports"].as_array().into_iter().flatten().filter_map(|p| p["hostPort"].as_i64()).filter(|port| *port != 0);
        let bad: Vec<&str> = self.all().filter(|c| ports(c).next().is_some()).map(name).collect();
        let used: BTreeSet<String> = self.all().flat_map(ports).map(|port| port.to_string()).collect();
        if !bad.is_empty() {
            let (uses, kind) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", used.len()));
            let used: Vec<String> = used.into_iter().collect();
            self.tell("hostPort", &format!("{} {uses} {kind} {}", containers(&bad), used.join(", ")));
        }
    }

    fn probe_hosts(&mut self) {
        const PLACES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"];
        let hosts = |c: &'a Value| {
            let at =
                |place: &&str, kind: &str| c.pointer(&format!("/{place}/{kind}/host")).and_then(Value::as_str).filter(|h| !h.is_empty());
            PLACES.iter().flat_map(move |place| [at(place, "httpGet"), at(place, "tcpSocket")]).flatten()
        };
        let bad: BTreeSet<&str> = self.all().filter(|c| hosts(c).next().is_some()).map(name).collect();
        let used: BTreeSet<&str> = self.all().flat_map(hosts).collect();
        if !bad.is_empty() {
            let (uses, kind) =
                (plural("uses", "use", bad.len()), plural("probe or lifecycle host", "probe or lifecycle hosts", used.len()));
            let bad: Vec<&str> = bad.into_iter().collect();
            self.tell("probe or lifecycle host", &format!("{} {uses} {kind} {}", containers(&bad), quoted(used)));
        }
    }

    fn privileged(&mut self) {
        let bad = self.named(|c| security(c)["privileged"] == true);
        if !bad.is_empty() {
            self.tell("privileged", &format!("{} must not set securityContext.privileged=true", containers(&bad)));
        }
    }

    fn proc_mount(&mut self) {
        let mount = |c: &'a Value| security(c)["procMount"].as_str().filter(|mount| *mount != "Default");
        let bad: Vec<&str> = self.all().filter(|c| mount(c).is_some()).map(name).collect();
        let used: BTreeSet<&str> = self.all().filter_map(mount).collect();
        if !bad.is_empty() {
            self.tell("procMount", &format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(used)));
        }
    }

    fn se_linux(&mut self) {
        let options = |of: &'a Value| &security(of)["seLinuxOptions"];
        let text = |options: &'a Value, field: &str| options[field].as_str().unwrap_or_default();
        let is_type = |kind: &str| ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"].contains(&kind);
        let is_bad = |o: &'a Value| !is_type(text(o, "type")) || !text(o, "user").is_empty() || !text(o, "role").is_empty();
        let bad: Vec<&str> = self.all().filter(|c| is_bad(options(c))).map(name).collect();
        let mut setters: Vec<String> = Vec::new();
        if is_bad(options(self.spec)) {
            setters.push("pod".into());
        }
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        if setters.is_empty() {
            return;
        }
        let everywhere = || self.all().map(options).chain([options(self.spec)]);
        let types: BTreeSet<&str> = everywhere().map(|o| text(o, "type")).filter(|kind| !is_type(kind)).collect();
        let mut data = Vec::new();
        if !types.is_empty() {
            data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
        }
        for (field, told) in [("user", "user may not be set"), ("role", "role may not be set")] {
            if everywhere().any(|o| !text(o, field).is_empty()) {
                data.push(told.into());
            }
        }
        let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), data.join("; "));
        self.tell("seLinuxOptions", &detail);
    }

    fn sysctls(&mut self) {
        let sysctls = security(self.spec)["sysctls"].as_array().into_iter().flatten();
        let bad: Vec<&str> = sysctls.map(name).filter(|sysctl| !SAFE_SYSCTLS.contains(sysctl)).collect();
        if !bad.is_empty() {
            self.tell("forbidden sysctls", &bad.join(", "));
        }
    }

    fn seccomp_baseline(&mut self) {
        self.seccomp_setters();
    }

    /// Whether somebody sets a profile that is never allowed; says so.
    fn seccomp_setters(&mut self) -> bool {
        let kind = |of: &'a Value| security(of).pointer("/seccompProfile/type").and_then(Value::as_str);
        let is_bad = |kind: Option<&str>| kind.is_some_and(|kind| !matches!(kind, "RuntimeDefault" | "Localhost"));
        let bad: Vec<&str> = self.all().filter(|c| is_bad(kind(c))).map(name).collect();
        let mut values: BTreeSet<&str> = self.all().map(kind).filter(|k| is_bad(*k)).flatten().collect();
        let mut setters = Vec::new();
        if is_bad(kind(self.spec)) {
            setters.push("pod".to_string());
            values.extend(kind(self.spec));
        }
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        if !setters.is_empty() {
            let detail = format!("{} must not set securityContext.seccompProfile.type to {}", setters.join(" and "), quoted(values));
            self.tell("seccompProfile", &detail);
        }
        !setters.is_empty()
    }

    fn seccomp_restricted(&mut self) {
        let is_set = |of: &Value| security(of).pointer("/seccompProfile/type").is_some();
        if self.seccomp_setters() || is_set(self.spec) {
            return;
        }
        let bad = self.named(|c| !is_set(c));
        if !bad.is_empty() {
            let must = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
            self.tell("seccompProfile", &format!("pod or {} {must}", containers(&bad)));
        }
    }

    fn privilege_escalation(&mut self) {
        let bad = self.named(|c| security(c)["allowPrivilegeEscalation"] != false);
        if !bad.is_empty() {
            let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
            self.tell("allowPrivilegeEscalation != false", &detail);
        }
    }

    fn restricted_capabilities(&mut self) {
        let drops_all =
            |c: &Value| security(c).pointer("/capabilities/drop").and_then(Value::as_array).is_some_and(|d| d.iter().any(|c| c == "ALL"));
        let missing = self.named(|c| !drops_all(c));
        let (bad, capabilities) = self.capabilities(&["NET_BIND_SERVICE"]);
        let mut details = Vec::new();
        if !missing.is_empty() {
            details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&missing)));
        }
        if !bad.is_empty() {
            details.push(format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(capabilities)));
        }
        if !details.is_empty() {
            self.tell("unrestricted capabilities", &details.join("; "));
        }
    }

    fn restricted_volumes(&mut self) {
        let kind =
            |volume: &'a Value| volume.as_object().into_iter().flatten().map(|(field, _)| field.as_str()).find(|field| *field != "name");
        let volumes = || self.spec["volumes"].as_array().into_iter().flatten();
        let is_bad = |volume: &&'a Value| kind(volume).is_some_and(|kind| !FREE_VOLUMES.contains(&kind));
        let bad: Vec<&str> = volumes().filter(is_bad).map(name).collect();
        let kinds: BTreeSet<&str> = volumes().filter(is_bad).filter_map(kind).collect();
        if !bad.is_empty() {
            let (word, uses) = (plural("volume", "volumes", bad.len()), plural("uses", "use", bad.len()));
            let types = plural("restricted volume type", "restricted volume types", kinds.len());
            self.tell("restricted volume types", &format!("{word} {} {uses} {types} {}", quoted(bad), quoted(kinds)));
        }
    }

    fn non_root(&mut self) {
        let stated = |of: &Value| security(of)["runAsNonRoot"].as_bool();
        let explicit = self.named(|c| stated(c) == Some(false));
        let mut setters = Vec::new();
        if stated(self.spec) == Some(false) {
            setters.push("pod".to_string());
        }
        if !explicit.is_empty() {
            setters.push(containers(&explicit));
        }
        if !setters.is_empty() {
            let detail = format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "));
            return self.tell("runAsNonRoot != true", &detail);
        }
        let implicit = self.named(|c| stated(c).is_none());
        if stated(self.spec).is_none() && !implicit.is_empty() {
            self.tell("runAsNonRoot != true", &format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit)));
        }
    }

    fn root_user(&mut self) {
        let bad = self.named(|c| security(c)["runAsUser"] == 0);
        let mut setters = Vec::new();
        if security(self.spec)["runAsUser"] == 0 {
            setters.push("pod".to_string());
        }
        if !bad.is_empty() {
            setters.push(containers(&bad));
        }
        if !setters.is_empty() {
            self.tell("runAsUser=0", &format!("{} must not set runAsUser=0", setters.join(" and ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(level: &str, spec: Value) -> Option<String> {
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
        violation(Mode::Enforce, &namespace, &json!({"spec": spec}))
    }

    #[test]
    fn says_what_kubernetes_says_of_an_ordinary_pod() {
        let plain = json!({"containers": [{"name": "nginx", "image": "nginx"}]});
        assert_eq!(told("baseline", plain.clone()), None);
        assert_eq!(told("privileged", json!({"hostNetwork": true})), None);
        let expected = "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"nginx\" must set \
            securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"nginx\" must set \
            securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"nginx\" must set \
            securityContext.runAsNonRoot=true), seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \
            \"RuntimeDefault\" or \"Localhost\")";
        assert_eq!(told("restricted", plain).as_deref(), Some(expected));
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(told("restricted", good), None);
    }

    #[test]
    fn the_baseline_keeps_pods_off_their_node() {
        let check = |spec: Value, expected: &str| {
            let found = told("baseline", spec).unwrap_or_default();
            assert_eq!(found.trim_start_matches("violates PodSecurity \"baseline:latest\": "), expected);
        };
        check(json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)");
        check(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")");
        let one = |security: Value| json!({"containers": [{"name": "a", "securityContext": security}, {"name": "b"}]});
        check(one(json!({"privileged": true})), "privileged (container \"a\" must not set securityContext.privileged=true)");
        check(
            one(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}})),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
        );
        check(
            one(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        );
        check(json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}]}), "hostPort (container \"a\" uses hostPort 80)");
        check(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}), "forbidden sysctls (kernel.msgmax)");
    }
}
