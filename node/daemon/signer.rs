//! Signs CertificateSigningRequests that have been approved (`pkg/controller/certificates/signer`): on the leader, which
//! holds the CA's key as every voter does.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};
use serde_json::{Value, json};
use skein_command::Write;
use skein_object::{Key, meta, registry};
use skein_quic::{Authority, SigningRequest};
use skein_store::{Handle, View};
use tracing::{info, warn};

use crate::cluster::Endpoints;
use crate::kept::Kept;

const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";

/// Nothing shorter is signed: clocks differ.
const LIFETIME_MIN: Duration = Duration::from_secs(600);

/// A pause after the leader has changed or the log refused: then everything is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    Sign,
    Refuse(String),
    /// Not approved, done already, or somebody else's.
    Leave,
}

pub(crate) async fn run(cluster: Endpoints) {
    let store = &cluster.store;
    let mut requests = Kept::<CertificateSigningRequest>::new(REQUESTS, &store.local());
    let mut changes = store.subscribe(&[REQUESTS]);
    let mut leads = false;
    loop {
        let was_leading = std::mem::replace(&mut leads, store.leadership().is_self);
        if !requests.observe(store).is_empty() | (leads && !was_leading) && leads {
            for (key, request) in &requests.objects {
                if let Err(why) = settle(&cluster, key, request).await {
                    warn!(%key, %why, "a certificate signing request is left as it is");
                    leads = false;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !leads => {}
        }
    }
}

async fn settle(cluster: &Endpoints, key: &Key, request: &CertificateSigningRequest) -> Result<(), String> {
    let parsed = SigningRequest::from_pem(&request.spec.request.0);
    let change = match decide(request, parsed.as_ref().map_err(ToString::to_string)) {
        Verdict::Leave => return Ok(()),
        Verdict::Refuse(why) => {
            let condition = json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
                "lastUpdateTime": meta::time(jiff::Timestamp::now())});
            ("/status/conditions", condition)
        }
        Verdict::Sign => {
            let Ok(Some(authority)) = cluster.directory.authority() else { return Err("this node does not vote yet".into()) };
            let signed = sign(&authority, request, parsed.map_err(|e| e.to_string())?, cluster.lifetime)?;
            info!(%key, "signed");
            ("/status/certificate", signed)
        }
    };
    write(&cluster.store, &cluster.store.local(), key, change).await
}

fn sign(
    authority: &Authority,
    request: &CertificateSigningRequest,
    parsed: SigningRequest,
    lifetime_max: Duration,
) -> Result<Value, String> {
    use base64::Engine;
    let usages: Vec<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    let asked = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let lifetime = asked.map_or(lifetime_max, |asked| asked.max(LIFETIME_MIN).min(lifetime_max));
    let signed = authority.sign_request(parsed, &usages, lifetime).map_err(|e| e.to_string())?;
    Ok(base64::engine::general_purpose::STANDARD.encode(signed).into())
}

/// Writes on the condition that the request is still what was read.
async fn write(store: &Handle, view: &View, key: &Key, (place, value): (&str, Value)) -> Result<(), String> {
    let resource = registry::by_key(REQUESTS).expect("the registry has it");
    let Some(entry) = view.state.get(key) else { return Ok(()) };
    let old = resource.show(&entry.record, entry.revision);
    let mut new = old.clone();
    match (place, new["status"]["conditions"].as_array_mut()) {
        ("/status/conditions", Some(conditions)) => conditions.push(value),
        ("/status/conditions", None) => new["status"]["conditions"] = json!([value]),
        _ => new["status"]["certificate"] = value,
    }
    meta::at_update(&mut new, &old, resource);
    let write = Write::update(key, entry.revision, &entry.record, &resource.record(&new));
    // Whoever changed it meanwhile is seen in the next round.
    store.propose(write.into()).await.map(drop).map_err(|e| e.to_string())
}

fn decide(request: &CertificateSigningRequest, parsed: Result<&SigningRequest, String>) -> Verdict {
    let status = request.status.as_ref();
    let holds = |kind: &str| conditions(status).any(|(found, value)| found == kind && value == "True");
    let signed = status.and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty());
    if !holds("Approved") || holds("Denied") || holds("Failed") || signed {
        return Verdict::Leave;
    }
    let mut usages: Vec<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    usages.sort_unstable();
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(why) => return Verdict::Refuse(why),
    };
    let judged = match request.spec.signer_name.as_str() {
        "kubernetes.io/kube-apiserver-client" => client(&usages),
        "kubernetes.io/kube-apiserver-client-kubelet" => kubelet_client(parsed, &usages),
        "kubernetes.io/kubelet-serving" => kubelet_serving(parsed, &usages),
        _ => return Verdict::Leave,
    };
    judged.map_or_else(Verdict::Refuse, |()| Verdict::Sign)
}

fn conditions(status: Option<&CertificateSigningRequestStatus>) -> impl Iterator<Item = (&str, &str)> {
    status.into_iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| (c.type_.as_str(), c.status.as_str()))
}

/// `validAPIServerClientUsages`
fn client(usages: &[&str]) -> Result<(), String> {
    if let Some(other) = usages.iter().find(|usage| !["client auth", "digital signature", "key encipherment"].contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.contains(&"client auth") { Ok(()) } else { Err("missing required usage for client certificate: client auth".into()) }
}

/// `ValidateKubeletClientCSR`
fn kubelet_client(request: &SigningRequest, usages: &[&str]) -> Result<(), String> {
    let names = request.names();
    of_node(request)?;
    for (count, sort) in [(names.dns, "DNS"), (names.emails, "Email"), (names.ips, "IP"), (names.uris, "URI")] {
        if count > 0 {
            return Err(format!("{sort} subjectAltNames are not allowed"));
        }
    }
    used_for(usages, "client auth", "[client auth digital signature key encipherment]")
}

/// `ValidateKubeletServingCSR`
fn kubelet_serving(request: &SigningRequest, usages: &[&str]) -> Result<(), String> {
    let names = request.names();
    of_node(request)?;
    if names.dns + names.ips == 0 {
        return Err("DNS or IP subjectAltName is required".into());
    }
    for (count, sort) in [(names.emails, "Email"), (names.uris, "URI")] {
        if count > 0 {
            return Err(format!("{sort} subjectAltNames are not allowed"));
        }
    }
    used_for(usages, "server auth", "[digital signature key encipherment server auth]")
}

fn of_node(request: &SigningRequest) -> Result<(), String> {
    let subject = request.subject();
    if subject.groups != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if subject.user.starts_with("system:node:") { Ok(()) } else { Err("subject common name does not begin with system:node:".into()) }
}

/// RSA keys are for enciphering too.
fn used_for(usages: &[&str], purpose: &str, all: &str) -> Result<(), String> {
    let others: Vec<&&str> = usages.iter().filter(|usage| !["key encipherment", purpose, "digital signature"].contains(usage)).collect();
    let fits = others.is_empty() && usages.contains(&purpose) && usages.contains(&"digital signature");
    if fits { Ok(()) } else { Err(format!("usages did not match {all}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_quic::authority::{new_key, signing_request};

    #[test]
    fn only_what_is_approved_and_fits_its_signer_is_signed() {
        let pem = new_key().and_then(|key| signing_request(&key)).expect("a request");
        let parsed = SigningRequest::from_pem(pem.as_bytes()).expect("it is sound");
        let check = |signer: &str, usages: &[&str], conditions: &[&str], expected: Verdict| {
            let conditions: Vec<Value> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            let request = json!({"metadata": {}, "spec": {"request": "", "signerName": signer, "usages": usages}, "status": {"conditions": conditions}});
            let request = serde_json::from_value(request).expect("a request");
            assert_eq!(decide(&request, Ok(&parsed)), expected, "{signer} {usages:?}");
        };
        let client = "kubernetes.io/kube-apiserver-client";
        check(client, &["client auth"], &["Approved"], Verdict::Sign);
        check(client, &["client auth"], &[], Verdict::Leave);
        check(client, &["client auth"], &["Approved", "Denied"], Verdict::Leave);
        check("example.com/own", &["client auth"], &["Approved"], Verdict::Leave);
        check(client, &["server auth"], &["Approved"], Verdict::Refuse("invalid usage for client certificate: server auth".into()));
        check(client, &[], &["Approved"], Verdict::Refuse("missing required usage for client certificate: client auth".into()));
        let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
        check(kubelet, &["client auth"], &["Approved"], Verdict::Refuse("subject organization is not system:nodes".into()));
    }
}
