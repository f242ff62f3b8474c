//! Tokens of ServiceAccounts (KEP-1205): signed by the node that issues them, verified by every node.
//!
//! Each node has a key of its own; the public halves are in the replicated state, so that a token holds everywhere and
//! a node can renew those of its Pods while it is cut off. A token is bound to its ServiceAccount and, where it says so,
//! to a Pod: when that is gone, so is the token.

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

use crate::Context;

/// The issuer of all tokens, and the audience of those that are for the API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const API_AUDIENCE: &str = ISSUER;

/// Public keys of all nodes, by the node's name.
const KEYS: &str = "tokenkeys.skein.dev";

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
}

/// A node's key for signing tokens.
pub struct TokenKey {
    node: String,
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

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Claims {
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
    pub(crate) uid: String,
}

// === impl TokenKey ===

impl TokenKey {
    /// From a P-256 key in PKCS#8 and its public half as an uncompressed point.
    pub fn new(node: &str, pkcs8_pem: &str, public_point: &[u8]) -> Result<Self, Error> {
        let signing = EncodingKey::from_ec_pem(pkcs8_pem.as_bytes())?;
        let coordinates = public_point.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let public = PublicKey { x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
        let id = public.x.chars().take(16).collect::<String>();
        Ok(Self { node: node.into(), id, public, signing })
    }

    /// The object that makes the key known to all nodes.
    pub fn publication(&self) -> (Key, Record) {
        let object = json!({"metadata": {"name": self.node}, "key": {"id": self.id, "x": self.public.x, "y": self.public.y}});
        (Key::new(KEYS, "", &self.node), Record::from_value(&object))
    }

    /// A token for a ServiceAccount, with the time at which it ends.
    pub fn issue(&self, account: &Value, audience: &[String], bound: Option<&Bound>, seconds: i64) -> Result<(String, Timestamp), Error> {
        let now = Timestamp::now().as_second();
        let (namespace, name) = (meta::text(account, "namespace"), meta::name(account));
        let reference = |bound: &Bound| Reference { name: bound.name.clone(), uid: bound.uid.clone() };
        let of_kind = |kind: &str| bound.filter(|b| b.kind == kind).map(reference);
        let claims = Claims {
            aud: if audience.is_empty() { vec![API_AUDIENCE.into()] } else { audience.into() },
            exp: now + seconds,
            iat: now,
            iss: ISSUER.into(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: namespace.into(),
                node: bound.and_then(|b| b.node.clone()).map(|(name, uid)| Reference { name, uid }),
                pod: of_kind("Pod"),
                secret: of_kind("Secret"),
                serviceaccount: Reference { name: name.into(), uid: meta::text(account, "uid").into() },
            },
            nbf: now,
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.signing)?;
        Ok((token, Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX)))
    }
}

// === impl Claims ===

impl Claims {
    pub(super) fn extra(&self) -> BTreeMap<String, Vec<String>> {
        let mut extra = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_string()]);
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
    fn still_holds(&self, state: &State) -> Result<(), Error> {
        let namespace = &self.kubernetes.namespace;
        let parts = [
            ("serviceaccounts", Some(&self.kubernetes.serviceaccount)),
            ("pods", self.kubernetes.pod.as_ref()),
            ("secrets", self.kubernetes.secret.as_ref()),
        ];
        for (resource, reference) in parts {
            let Some(reference) = reference else { continue };
            let found = state.get(&Key::new(resource, namespace, &reference.name)).and_then(|e| e.record.field("metadata"));
            if found.as_ref().and_then(|m| m["uid"].as_str()) != Some(&reference.uid) {
                return Err(Error::Gone(format!("{resource} {namespace}/{}", reference.name)));
            }
        }
        Ok(())
    }
}

/// The claims of a token that holds now, for one of these audiences.
pub(crate) fn verify(context: &Context, token: &str, audiences: &[&str]) -> Result<Claims, Error> {
    let state = context.store.local().state;
    let claims = signed(&state, token)?;
    let now = Timestamp::now().as_second();
    if claims.exp < now || claims.iss != ISSUER {
        return Err(Error::Expired);
    }
    if !claims.aud.iter().any(|a| audiences.contains(&a.as_str())) {
        let wanted = audiences.iter().map(|a| (*a).to_string()).collect();
        return Err(Error::Audience { found: claims.aud, wanted });
    }
    claims.still_holds(&state)?;
    Ok(claims)
}

/// Who says that he has issued a token; nothing of it has been verified.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?).ok()?;
    claims["iss"].as_str().map(String::from)
}

/// Checks the signature, or remembers that it was good.
fn signed(state: &State, token: &str) -> Result<Claims, Error> {
    static REMEMBERED: LazyLock<Mutex<HashMap<String, Arc<Claims>>>> = LazyLock::new(Mutex::default);
    if let Some(claims) = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner).get(token) {
        return Ok((**claims).clone());
    }
    let id = jsonwebtoken::decode_header(token)?.kid.ok_or(Error::UnknownKey)?;
    let key = keys(state).into_iter().find(|key| key["id"] == id.as_str()).ok_or(Error::UnknownKey)?;
    let part = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or_default();
    let decoding = DecodingKey::from_ec_components(part("x"), part("y"))?;
    let mut validation = Validation::new(Algorithm::ES256);
    // Times and audiences are checked each time, not only the first.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims: Claims = jsonwebtoken::decode(token, &decoding, &validation)?.claims;
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    if remembered.len() >= REMEMBERED_MAX {
        remembered.clear();
    }
    remembered.insert(token.into(), Arc::new(claims.clone()));
    Ok(claims)
}

fn keys(state: &State) -> Vec<Value> {
    let prefix = Key::prefix(KEYS, "");
    state.range(&prefix, None).filter_map(|(_, entry)| entry.record.field("key")).collect()
}

/// `/openid/v1/jwks`: the keys of all nodes (RFC 7517).
pub(crate) fn jwks(state: &State) -> Value {
    let jwk =
        |key: Value| json!({"use": "sig", "kty": "EC", "kid": key["id"], "crv": "P-256", "alg": "ES256", "x": key["x"], "y": key["y"]});
    json!({"keys": keys(state).into_iter().map(jwk).collect::<Vec<_>>()})
}

/// `/.well-known/openid-configuration`.
pub(crate) fn configuration() -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    })
}
