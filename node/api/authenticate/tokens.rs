//! Tokens of ServiceAccounts (KEP-1205), verified by every node.
//!
//! ```text
//!   a node's key     in its directory                       its Pods' tokens, renewed also while it is cut off
//!   a cluster's key  sealed in the state, opened by voters  what `kubectl create token` and Secrets with tokens get
//! ```
//!
//! The public halves are in the replicated state, so that a token holds everywhere. What a node's key has signed holds
//! only for a Pod that is bound to this node. A token is bound to its ServiceAccount and, where it says so, to a Pod, a
//! Secret or a Node: when that is gone, so is the token.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_object::{Key, Record, meta};
use skein_state::State;

use super::legacy;
use crate::Context;

/// The issuer of all tokens, and the audience of those that are for the API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const API_AUDIENCE: &str = ISSUER;

/// Public keys: of nodes by their names, and the cluster's by [`OF_CLUSTER`] and their ids.
pub const TOKEN_KEYS: &str = "tokenkeys.skein.dev";

/// No node's name begins like this.
pub const OF_CLUSTER: &str = "cluster:";

/// Verified signatures that are remembered. Whether a token still holds is looked up each time.
const REMEMBERED_MAX: usize = 4096;

/// Whom a token is for; empty means the API.
pub type Audience = Vec<String>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the token is malformed or has a wrong signature: {0}")]
    Signature(#[from] jsonwebtoken::errors::Error),
    #[error("the token was signed by a key that this cluster does not know")]
    UnknownKey,
    #[error("token has expired")]
    Expired,
    #[error("token audiences {found:?} is invalid for the target audiences {wanted:?}")]
    Audience { found: Audience, wanted: Audience },
    #[error("{0} is gone")]
    Gone(String),
    #[error("the token was signed by node {0}, which runs no Pod that it is bound to")]
    ForeignNode(String),
    #[error("the token is not that of its Secret any more")]
    Replaced,
}

/// A key for signing tokens.
pub struct TokenKey {
    id: String,
    public: PublicKey,
    signing: EncodingKey,
}

/// A key as a JSON Web Key says it: the point of a P-256 key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PublicKey {
    x: String,
    y: String,
}

/// What a token is bound to besides its ServiceAccount: name and uid.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub kind: String,
    pub name: String,
    pub uid: String,
    /// The node that a Pod is on: name and uid.
    pub node: Option<(String, String)>,
}

/// What a token says. The times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    pub(crate) aud: Audience,
    pub(crate) exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Kubernetes,
    nbf: i64,
    pub(crate) sub: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

/// A token whose signature is good.
#[derive(Clone)]
struct Signed {
    claims: Claims,
    /// The name of the key's object.
    key: Key,
    key_id: String,
}

// === impl TokenKey ===

impl TokenKey {
    /// From a P-256 key in PKCS#8 and its public half as an uncompressed point.
    pub fn new(pkcs8_pem: &str, public_point: &[u8]) -> Result<Self, Error> {
        let signing = EncodingKey::from_ec_pem(pkcs8_pem.as_bytes())?;
        let coordinates = public_point.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let public = PublicKey { x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
        let id = public.x.chars().take(16).collect::<String>();
        Ok(Self { id, public, signing })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half, as `key` of the object that makes it known to all nodes.
    pub fn public(&self) -> Value {
        json!({"id": self.id, "x": self.public.x, "y": self.public.y})
    }

    /// The object that makes a node's key known, which is good for this node's Pods.
    pub fn publication(&self, node: &str) -> (Key, Record) {
        let object = json!({"metadata": {"name": node}, "key": self.public(), "forPods": true});
        (Key::new(TOKEN_KEYS, "", node), Record::from_value(&object))
    }

    pub fn sign(&self, claims: &impl Serialize) -> Result<String, Error> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }
}

// === impl Claims ===

impl Claims {
    /// Of a token for a ServiceAccount.
    pub fn new(account: &Value, audience: &[String], bound: Option<&Bound>, seconds: i64) -> Self {
        let now = Timestamp::now().as_second();
        let (namespace, name) = (meta::text(account, "namespace"), meta::name(account));
        let reference = |bound: &Bound| Reference { name: bound.name.clone(), uid: bound.uid.clone() };
        let of_kind = |kind: &str| bound.filter(|b| b.kind == kind).map(reference);
        Self {
            aud: if audience.is_empty() { vec![API_AUDIENCE.into()] } else { audience.into() },
            exp: now + seconds,
            iat: now,
            iss: ISSUER.into(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: namespace.into(),
                node: bound.and_then(|b| b.node.clone()).map(|(name, uid)| Reference { name, uid }).or_else(|| of_kind("Node")),
                pod: of_kind("Pod"),
                secret: of_kind("Secret"),
                serviceaccount: Reference { name: name.into(), uid: meta::text(account, "uid").into() },
            },
            nbf: now,
            sub: subject(namespace, name),
        }
    }

    /// What a token of a Secret stands for; it names no audience, has no id and never ends.
    pub(super) fn of_legacy(namespace: &str, serviceaccount: Reference) -> Self {
        let sub = subject(namespace, &serviceaccount.name);
        let kubernetes = Kubernetes { namespace: namespace.into(), serviceaccount, ..Kubernetes::default() };
        Self { aud: vec![API_AUDIENCE.into()], exp: i64::MAX, iss: ISSUER.into(), kubernetes, sub, ..Self::default() }
    }

    pub fn expires(&self) -> Timestamp {
        Timestamp::from_second(self.exp).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn extra(&self) -> BTreeMap<String, Vec<String>> {
        let mut extra = BTreeMap::new();
        if self.jti.is_empty() {
            return extra;
        }
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_string()]);
            }
        };
        put("credential-id", &format!("JTI={}", self.jti));
        for (what, reference) in [("pod", &self.kubernetes.pod), ("node", &self.kubernetes.node)] {
            if let Some(reference) = reference {
                put(&format!("{what}-name"), &reference.name);
                put(&format!("{what}-uid"), &reference.uid);
            }
        }
        extra
    }

    /// Whether what the token is bound to is still there.
    pub fn still_holds(&self, state: &State) -> Result<(), Error> {
        let namespace = &self.kubernetes.namespace;
        // A Pod's node is told, and only without a Pod what the token is bound to.
        let node = self.kubernetes.node.as_ref().filter(|_| self.kubernetes.pod.is_none());
        let parts = [
            ("serviceaccounts", namespace.as_str(), Some(&self.kubernetes.serviceaccount)),
            ("pods", namespace, self.kubernetes.pod.as_ref()),
            ("secrets", namespace, self.kubernetes.secret.as_ref()),
            ("nodes", "", node),
        ];
        for (resource, namespace, reference) in parts {
            let Some(reference) = reference else { continue };
            let found = state.get(&Key::new(resource, namespace, &reference.name)).and_then(|e| e.record.field("metadata"));
            if found.as_ref().and_then(|m| m["uid"].as_str()) != Some(&reference.uid) {
                return Err(Error::Gone(format!("{resource} {namespace}/{}", reference.name)));
            }
        }
        Ok(())
    }

    /// Whether the token is bound to a Pod that is bound to this node.
    fn is_on(&self, state: &State, node: &str) -> bool {
        let pod = self.kubernetes.pod.as_ref().and_then(|pod| state.get(&Key::new("pods", &self.kubernetes.namespace, &pod.name)));
        pod.and_then(|pod| pod.record.field("spec")).is_some_and(|spec| spec["nodeName"] == node)
    }
}

pub(super) fn subject(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// The claims of a token that holds now, for one of these audiences.
pub(crate) fn verify(context: &Context, token: &str, audiences: &[&str]) -> Result<Claims, Error> {
    let state = context.store.local().state;
    if issuer_of(token).as_deref() == Some(legacy::ISSUER) {
        let claims = legacy::verify(context, &state, token)?;
        return holds_for(claims, audiences, &state);
    }
    let Signed { claims, key, key_id } = signed(&state, token)?;
    let published = state.get(&key).ok_or(Error::UnknownKey)?;
    if published.record.field("key").is_none_or(|key| key["id"] != key_id.as_str()) {
        return Err(Error::UnknownKey);
    }
    let claims = holds_for(claims, audiences, &state)?;
    let for_pods = published.record.field("forPods").is_some_and(|for_pods| for_pods == true);
    if for_pods && !claims.is_on(&state, key.name()) {
        return Err(Error::ForeignNode(key.name().into()));
    }
    Ok(claims)
}

fn holds_for(claims: Claims, audiences: &[&str], state: &State) -> Result<Claims, Error> {
    if claims.exp < Timestamp::now().as_second() || claims.iss != ISSUER {
        return Err(Error::Expired);
    }
    if !claims.aud.iter().any(|a| audiences.contains(&a.as_str())) {
        let wanted = audiences.iter().map(|a| (*a).to_string()).collect();
        return Err(Error::Audience { found: claims.aud, wanted });
    }
    claims.still_holds(state)?;
    Ok(claims)
}

/// Who says that he has issued a token; nothing of it has been verified.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?).ok()?;
    claims["iss"].as_str().map(String::from)
}

/// Checks the signature, or remembers that it was good.
fn signed(state: &State, token: &str) -> Result<Signed, Error> {
    static REMEMBERED: LazyLock<Mutex<HashMap<String, Arc<Signed>>>> = LazyLock::new(Mutex::default);
    if let Some(signed) = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner).get(token) {
        return Ok((**signed).clone());
    }
    let (key, key_id, claims) = decode(state, token)?;
    let signed = Signed { claims, key, key_id };
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    if remembered.len() >= REMEMBERED_MAX {
        remembered.clear();
    }
    remembered.insert(token.into(), Arc::new(signed.clone()));
    Ok(signed)
}

/// What a token says, and by which key. Times and audiences are for the caller to check, each time anew.
pub(super) fn decode<T: serde::de::DeserializeOwned>(state: &State, token: &str) -> Result<(Key, String, T), Error> {
    let id = jsonwebtoken::decode_header(token)?.kid.ok_or(Error::UnknownKey)?;
    let (place, key) = keys(state).into_iter().find(|(_, key)| key["id"] == id.as_str()).ok_or(Error::UnknownKey)?;
    let part = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or_default();
    let decoding = DecodingKey::from_ec_components(part("x"), part("y"))?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    Ok((place, id, jsonwebtoken::decode(token, &decoding, &validation)?.claims))
}

fn keys(state: &State) -> Vec<(Key, Value)> {
    let prefix = Key::prefix(TOKEN_KEYS, "");
    state.range(&prefix, None).filter_map(|(place, entry)| Some((place.clone(), entry.record.field("key")?))).collect()
}

/// `/openid/v1/jwks`: the keys of the cluster and of all nodes (RFC 7517).
pub(crate) fn jwks(state: &State) -> Value {
    let jwk = |(_, key): (Key, Value)| json!({"use": "sig", "kty": "EC", "kid": key["id"], "crv": "P-256", "alg": "ES256", "x": key["x"], "y": key["y"]});
    json!({"keys": keys(state).into_iter().map(jwk).collect::<Vec<_>>()})
}

/// `/.well-known/openid-configuration`.
pub(crate) fn configuration() -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    })
}
