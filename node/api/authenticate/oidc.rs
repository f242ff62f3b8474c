//! Tokens of an OpenID provider (OpenID Connect Core 1.0, section 2): verified with the keys that the issuer publishes,
//! which are fetched when one is needed that is not known yet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::User;
use crate::call;

/// Between two looks at the issuer's keys: who sends tokens of unknown keys must not make this node ask for each.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// The certificates that Debian trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Whose tokens are believed, and how their claims are read; in the words of kube-apiserver's flags.
#[derive(Clone, Debug)]
pub struct Options {
    pub issuer_url: String,
    /// What a token must be for.
    pub client_id: String,
    pub username_claim: String,
    /// Before the name; unset it is the issuer and `#`, but for e-mail addresses; `-` is none.
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    pub groups_prefix: String,
    pub required_claims: BTreeMap<String, String>,
    pub signing_algorithms: Vec<String>,
    /// The CA of the issuer, instead of those that this machine trusts.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--oidc-issuer-url: {0:?} is not an https URL")]
    Issuer(String),
    #[error("--oidc-signing-algs: unknown signing algorithm {0:?}")]
    Algorithm(String),
    #[error("--oidc-ca-file: cannot read {path}: {source}")]
    Authority { path: PathBuf, source: std::io::Error },
    #[error("--oidc-ca-file: {0}")]
    Certificates(String),
}

pub(crate) struct Provider {
    options: Options,
    algorithms: Vec<Algorithm>,
    client: Arc<rustls::ClientConfig>,
    known: Mutex<(JwkSet, Option<Instant>)>,
}

// === impl Provider ===

impl Provider {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        if !options.issuer_url.starts_with("https://") {
            return Err(Error::Issuer(options.issuer_url.clone()));
        }
        let algorithm = |name: &String| name.parse::<Algorithm>().map_err(|_| Error::Algorithm(name.clone()));
        // Who knows a public key must not be able to sign with it as a secret.
        let is_asymmetric = |a: &Algorithm| !matches!(a, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        let algorithms = options.signing_algorithms.iter().map(algorithm).collect::<Result<Vec<_>, _>>()?;
        if let Some(wrong) = algorithms.iter().find(|a| !is_asymmetric(a)) {
            return Err(Error::Algorithm(format!("{wrong:?}")));
        }
        let path = options.ca_file.clone().unwrap_or_else(|| SYSTEM_ROOTS.into());
        let pem = std::fs::read(&path).map_err(|source| Error::Authority { path, source })?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|why| Error::Certificates(why.to_string()))?;
            // Of the many that a machine trusts, one that is not understood is no reason to trust none.
            if let Err(why) = roots.add(certificate)
                && options.ca_file.is_some()
            {
                return Err(Error::Certificates(why.to_string()));
            }
        }
        let client = call::trusting(roots).map_err(Error::Certificates)?;
        let empty = JwkSet { keys: Vec::new() };
        Ok(Self { options: options.clone(), algorithms, client: Arc::new(client), known: Mutex::new((empty, None)) })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.options.issuer_url
    }

    /// Whom a token stands for; `Err` says why it is not believed.
    pub(crate) async fn user(&self, token: &str) -> Result<User, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|why| why.to_string())?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!("id token signed with unsupported algorithm {:?}", header.alg));
        }
        let id = header.kid.as_deref();
        let key = match self.key(id) {
            Some(key) => key,
            None => {
                self.look().await?;
                self.key(id).ok_or("no key of the issuer has signed it")?
            }
        };
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.options.issuer_url]);
        validation.set_audience(&[&self.options.client_id]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(|why| why.to_string())?.claims;
        user_of(&self.options, &claims)
    }

    fn key(&self, id: Option<&str>) -> Option<DecodingKey> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match id {
            Some(id) => known.0.find(id),
            // An issuer with one key need not name it.
            None => known.0.keys.first().filter(|_| known.0.keys.len() == 1),
        };
        found.and_then(|key| DecodingKey::from_jwk(key).ok())
    }

    /// Fetches the issuer's keys, if that was not tried just now.
    async fn look(&self) -> Result<(), String> {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.1.is_some_and(|last| last.elapsed() < LOOK_INTERVAL) {
                return Ok(());
            }
            known.1 = Some(Instant::now());
        }
        let issuer = self.options.issuer_url.trim_end_matches('/');
        let configuration = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if configuration["issuer"] != self.options.issuer_url.as_str() {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {issuer:?} got {}",
                configuration["issuer"]
            ));
        }
        let place = configuration["jwks_uri"].as_str().ok_or("the issuer names no jwks_uri")?;
        let keys: JwkSet = serde_json::from_value(self.get(place).await?).map_err(|why| format!("{place}: {why}"))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).0 = keys;
        Ok(())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        match tokio::time::timeout(PATIENCE, call::get(url, &self.client)).await {
            Ok(answer) => answer.map_err(|why| format!("Get {url:?}: {why}")),
            Err(_) => Err(format!("Get {url:?}: no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// The claims of a token that is the issuer's, as a user.
fn user_of(options: &Options, claims: &Value) -> Result<User, String> {
    let text = |claim: &str| {
        claims[claim].as_str().filter(|text| !text.is_empty()).ok_or(format!("parse username claims {claim:?}: claim not present"))
    };
    let name = text(&options.username_claim)?;
    let is_email = options.username_claim == "email";
    if is_email && claims.get("email_verified").is_some_and(|verified| *verified != true) {
        return Err("oidc: email not verified".into());
    }
    let prefix = match options.username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) => prefix.to_string(),
        None if is_email => String::new(),
        None => format!("{}#", options.issuer_url),
    };
    for (claim, wanted) in &options.required_claims {
        if claims[claim] != wanted.as_str() {
            return Err(format!("oidc: required claim {claim} value does not match"));
        }
    }
    let groups = match options.groups_claim.as_ref().map(|claim| &claims[claim]) {
        Some(Value::String(group)) => vec![group.clone()],
        Some(Value::Array(list)) => list.iter().filter_map(|group| group.as_str().map(String::from)).collect(),
        _ => Vec::new(),
    };
    let groups = groups.into_iter().map(|group| format!("{}{group}", options.groups_prefix)).chain(["system:authenticated".into()]);
    Ok(User { name: format!("{prefix}{name}"), groups: groups.collect(), ..User::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options() -> Options {
        Options {
            issuer_url: "https://issuer".into(),
            client_id: "skein".into(),
            username_claim: "sub".into(),
            username_prefix: None,
            groups_claim: Some("groups".into()),
            groups_prefix: "oidc:".into(),
            required_claims: BTreeMap::new(),
            signing_algorithms: vec!["RS256".into()],
            ca_file: None,
        }
    }

    #[test]
    fn claims_make_users() {
        let check = |change: &dyn Fn(&mut Options), claims: Value, expected: Result<(&str, &str), &str>| {
            let mut options = options();
            change(&mut options);
            let found = user_of(&options, &claims).map(|user| (user.name, user.groups.join(" ")));
            let found = found.as_ref().map(|(name, groups)| (name.as_str(), groups.as_str())).map_err(String::as_str);
            assert_eq!(found, expected, "{claims}");
        };
        let all = "system:authenticated";
        check(&|_| {}, json!({"sub": "ada"}), Ok(("https://issuer#ada", all)));
        check(&|_| {}, json!({"sub": "ada", "groups": ["a", "b"]}), Ok(("https://issuer#ada", "oidc:a oidc:b system:authenticated")));
        check(&|o| o.username_prefix = Some("-".into()), json!({"sub": "ada", "groups": "a"}), Ok(("ada", "oidc:a system:authenticated")));
        check(&|o| o.username_prefix = Some("x:".into()), json!({"sub": "ada"}), Ok(("x:ada", all)));
        check(&|_| {}, json!({}), Err("parse username claims \"sub\": claim not present"));
        let by_mail = |o: &mut Options| o.username_claim = "email".into();
        check(&by_mail, json!({"email": "a@b", "email_verified": true}), Ok(("a@b", all)));
        check(&by_mail, json!({"email": "a@b", "email_verified": false}), Err("oidc: email not verified"));
        let required = |o: &mut Options| o.required_claims = [("tenant".to_string(), "t".to_string())].into();
        check(&required, json!({"sub": "ada", "tenant": "t"}), Ok(("https://issuer#ada", all)));
        check(&required, json!({"sub": "ada"}), Err("oidc: required claim tenant value does not match"));
    }

    #[test]
    fn refuses_what_cannot_be_trusted() {
        let with = |change: &dyn Fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            Provider::new(&options).err().map(|why| why.to_string())
        };
        assert!(with(&|o| o.issuer_url = "http://issuer".into()).is_some_and(|why| why.contains("not an https URL")));
        assert!(with(&|o| o.signing_algorithms = vec!["HS256".into()]).is_some_and(|why| why.contains("HS256")));
        assert!(with(&|o| o.ca_file = Some("/nothing".into())).is_some_and(|why| why.contains("cannot read")));
    }
}
