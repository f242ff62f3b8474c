//! A Pod's own certificates: a key that never leaves the node, a request that a signer answers, and both renewed in time
//! (KEP-4317, `pkg/kubelet/podcertificate`). A daemon that starts anew asks anew.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection, Volume};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};
use skein_object::{Key, meta, registry};
use skein_store::Handle as Store;

use crate::env::Source;
use crate::{Error, write};

const REQUESTS: &str = "podcertificaterequests.certificates.k8s.io";

/// A request that is not to be found is asked for again after this: somebody has deleted it.
const ABANDONED_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// Renewals are spread over this, or over a tenth of what is left of the certificate.
const JITTER_SECONDS_MAX: i64 = 300;
const EXPIRATION_SECONDS_DEFAULT: i32 = 86_400;

/// Where a certificate goes: the volume's name, and the number of the source within it.
type Place = (String, usize);

/// One Pod's certificates.
#[derive(Debug, Default)]
pub(crate) struct Credentials(BTreeMap<Place, Credential>);

#[derive(Debug, Default)]
struct Credential {
    issued: Option<Issued>,
    asked: Option<Asked>,
    /// Why there will never be one.
    refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Issued {
    key: String,
    chain: String,
    refresh_at: Timestamp,
}

#[derive(Debug)]
struct Asked {
    key: String,
    request: Key,
    at: Timestamp,
}

/// What a signer has said.
#[derive(Debug, PartialEq)]
enum Answer {
    Pending,
    Issued(Issued),
    Refused(String),
}

/// The certificates that a volume wants, each with its number.
fn wanted(volume: &Volume) -> impl Iterator<Item = (usize, &PodCertificateProjection)> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.enumerate().filter_map(|(index, source)| Some((index, source.pod_certificate.as_ref()?)))
}

/// Whether a volume has certificates.
pub(crate) fn has_certificates(volume: &Volume) -> bool {
    wanted(volume).next().is_some()
}

/// Whether any of a Pod's volumes has.
pub(crate) fn pod_has_certificates(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(has_certificates)
}

// === impl Credentials ===

impl Credentials {
    /// Key and chain for one place, as PEM.
    pub(crate) fn get(&self, volume: &str, index: usize) -> Result<(&str, &str), Error> {
        let found = self.0.get(&(volume.to_string(), index));
        match found {
            Some(Credential { refused: Some(why), .. }) => Err(Error::Config(why.clone())),
            Some(Credential { issued: Some(issued), .. }) => Ok((&issued.key, &issued.chain)),
            _ => Err(Error::Config("credential bundle is not issued yet".into())),
        }
    }

    /// Whether a volume has all that it wants, or never will.
    pub(crate) fn is_settled(&self, volume: &Volume) -> bool {
        let settled = |index: usize| {
            let found = self.0.get(&(volume.name.clone(), index));
            found.is_some_and(|credential| credential.issued.is_some() || credential.refused.is_some())
        };
        wanted(volume).all(|(index, _)| settled(index))
    }

    /// Takes in what signers have said, and asks where something is missing or near its end.
    pub(crate) async fn keep(&mut self, source: &Source<'_>, store: &Store) -> Result<(), Error> {
        let now = Timestamp::now();
        for volume in source.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            for (index, projection) in wanted(volume) {
                let credential = self.0.entry((volume.name.clone(), index)).or_default();
                credential.hear(source, now);
                if credential.is_due(now) {
                    credential.asked = Some(ask(source, store, projection, now).await?);
                }
            }
        }
        Ok(())
    }
}

// === impl Credential ===

impl Credential {
    /// Whether a signer is to be asked: there is no certificate, or it is time for the next one.
    fn is_due(&self, now: Timestamp) -> bool {
        self.refused.is_none() && self.asked.is_none() && self.issued.as_ref().is_none_or(|issued| now >= issued.refresh_at)
    }

    fn hear(&mut self, source: &Source<'_>, now: Timestamp) {
        let Some(asked) = &self.asked else { return };
        let entry = source.state.get(&asked.request);
        let Some(request) = entry.and_then(|e| e.record.typed::<PodCertificateRequest>(e.revision)) else {
            if now.duration_since(asked.at) > ABANDONED_AFTER {
                self.asked = None;
            }
            return;
        };
        match answer(&request, &asked.key) {
            Answer::Pending => return,
            Answer::Issued(issued) => self.issued = Some(issued),
            Answer::Refused(why) => self.refused = Some(why),
        }
        self.asked = None;
    }
}

fn answer(request: &PodCertificateRequest, key: &str) -> Answer {
    let Some(status) = &request.status else { return Answer::Pending };
    for condition in status.conditions.iter().flatten() {
        let refused = |how: &str| {
            let (reason, message) = (&condition.reason, &condition.message);
            Answer::Refused(format!("PodCertificateRequest was permanently {how}: reason={reason:?} message={message:?}"))
        };
        match condition.type_.as_str() {
            "Denied" => return refused("denied"),
            "Failed" => return refused("failed"),
            "Issued" => {
                let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.as_ref().map(|time| time.0);
                let begin = time(&status.begin_refresh_at).unwrap_or(Timestamp::MAX);
                let left = time(&status.not_after).map_or(0, |end| (end.as_second() - begin.as_second()).max(0));
                let spread = (left / 10).min(JITTER_SECONDS_MAX);
                let jitter = i64::try_from(random() % (spread.unsigned_abs() + 1)).unwrap_or(0);
                let refresh_at = begin.checked_add(SignedDuration::from_secs(jitter)).unwrap_or(begin);
                let chain = certificates(status.certificate_chain.as_deref().unwrap_or_default());
                return Answer::Issued(Issued { key: key.into(), chain, refresh_at });
            }
            _ => {}
        }
    }
    Answer::Pending
}

fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// Only the certificates of a chain: what stands between them is nobody's to project.
fn certificates(chain: &str) -> String {
    let mut found = String::new();
    let mut inside = false;
    for line in chain.lines().map(str::trim_end) {
        inside |= line.starts_with("-----BEGIN ");
        if inside && line.starts_with("-----") {
            let mark = if line.starts_with("-----BEGIN ") { "BEGIN" } else { "END" };
            found.push_str(&format!("-----{mark} CERTIFICATE-----\n"));
            inside = mark == "BEGIN";
        } else if inside && !line.is_empty() && !line.contains(':') {
            found.push_str(line);
            found.push('\n');
        }
    }
    found
}

fn algorithm(key_type: &str) -> Result<&'static SignatureAlgorithm, Error> {
    match key_type {
        "ECDSAP256" => Ok(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => Ok(&rcgen::PKCS_ECDSA_P384_SHA384),
        "ED25519" => Ok(&rcgen::PKCS_ED25519),
        other => Err(Error::Config(format!("keys of type {other:?} cannot be made here yet"))),
    }
}

/// A new key, as PEM, and an empty request that proves who has it.
fn key_and_proof(key_type: &str) -> Result<(String, Vec<u8>), Error> {
    let failed = |why: rcgen::Error| Error::Config(format!("while generating keypair: {why}"));
    let key = KeyPair::generate_for(algorithm(key_type)?).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

async fn ask(source: &Source<'_>, store: &Store, projection: &PodCertificateProjection, now: Timestamp) -> Result<Asked, Error> {
    let (key, proof) = key_and_proof(&projection.key_type)?;
    let pod = &source.pod.metadata;
    let (name, uid) = (pod.name.as_deref().unwrap_or_default(), pod.uid.as_deref().unwrap_or_default());
    let account = source.pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let uid_of = |key: &Key| {
        let metadata = source.state.get(key).and_then(|entry| entry.record.field("metadata"));
        metadata.and_then(|metadata| metadata["uid"].as_str().map(String::from))
    };
    let account_uid = uid_of(&Key::new("serviceaccounts", source.namespace(), account));
    let account_uid =
        account_uid.ok_or_else(|| Error::Config(format!("while fetching service account: serviceaccounts {account:?} not found")))?;
    let mut object: Value = json!({
        "metadata": {
            "generateName": "req-",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}],
        },
        "spec": {
            "signerName": projection.signer_name, "podName": name, "podUID": uid,
            "serviceAccountName": account, "serviceAccountUID": account_uid,
            "nodeName": source.node, "nodeUID": uid_of(&Key::new("nodes", "", source.node)),
            "maxExpirationSeconds": projection.max_expiration_seconds.unwrap_or(EXPIRATION_SECONDS_DEFAULT),
            "stubPKCS10Request": STANDARD.encode(proof),
        },
    });
    if let Some(annotations) = &projection.user_annotations {
        object["spec"]["unverifiedUserAnnotations"] = json!(annotations);
    }
    let resource = registry::by_key(REQUESTS).expect("the registry has PodCertificateRequests");
    let (born, suffix) = (meta::time(now), meta::suffix(random));
    let birth = meta::Birth { uid: &uuid::Uuid::new_v4().to_string(), now: &born, suffix: &suffix };
    meta::at_creation(&mut object, resource, source.namespace(), &birth);
    let request = Key::new(REQUESTS, source.namespace(), meta::name(&object));
    store.propose(write::create(resource, source.namespace(), object).into()).await?;
    Ok(Asked { key, request, at: now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signer_says_is_heard() {
        let check = |status: Value, expected: Answer| {
            let request: PodCertificateRequest = serde_json::from_value(json!({
                "metadata": {"name": "r"}, "status": status,
                "spec": {"signerName": "a.b/c", "podName": "p", "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "v",
                    "nodeName": "n", "nodeUID": "w", "stubPKCS10Request": ""},
            }))
            .expect("a request");
            assert_eq!(answer(&request, "key"), expected);
        };
        let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        check(json!({}), Answer::Pending);
        check(
            json!({"conditions": condition("Denied")}),
            Answer::Refused("PodCertificateRequest was permanently denied: reason=\"R\" message=\"m\"".into()),
        );
        let begin = "2026-01-01T00:00:00Z";
        let chain = "x\n-----BEGIN CERTIFICATE-----\nNote: y\n\nAAAA\n-----END CERTIFICATE-----\nz\n";
        check(
            json!({"conditions": condition("Issued"), "certificateChain": chain, "beginRefreshAt": begin, "notAfter": begin}),
            Answer::Issued(Issued {
                key: "key".into(),
                chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
                refresh_at: begin.parse().expect("a time"),
            }),
        );
    }

    #[test]
    fn a_certificate_is_renewed_in_time() {
        let refresh_at: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let before = refresh_at.checked_sub(SignedDuration::from_secs(1)).expect("a time");
        let issued = || Some(Issued { key: String::new(), chain: String::new(), refresh_at });
        let check = |credential: Credential, now: Timestamp, expected: bool| assert_eq!(credential.is_due(now), expected, "{credential:?}");
        check(Credential::default(), before, true);
        check(Credential { issued: issued(), ..Credential::default() }, before, false);
        check(Credential { issued: issued(), ..Credential::default() }, refresh_at, true);
        check(Credential { refused: Some(String::new()), ..Credential::default() }, refresh_at, false);
        let asked = Some(Asked { key: String::new(), request: Key::new(REQUESTS, "n", "r"), at: before });
        check(Credential { issued: issued(), asked, ..Credential::default() }, refresh_at, false);
    }

    #[test]
    fn keys_of_common_types_are_made() {
        for kind in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let (key, proof) = key_and_proof(kind).expect("a key");
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----") && !proof.is_empty(), "{kind}");
        }
        assert!(key_and_proof("RSA3072").is_err());
    }
}
