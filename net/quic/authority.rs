//! The cluster's certificate authority and the identities that it signs.
//!
//! A node's certificate carries Kubernetes' names for a node (`O=system:nodes, CN=system:node:NAME`) and, for the TLS
//! handshake, the DNS name `NAME.nodes.skein`. The same certificate serves the API.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::Error;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The CA lives long: rotating it is an operation of its own.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());

/// A person's certificate, which nobody renews by itself.
pub const USER_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());

/// Clocks of new machines are off by some minutes; a certificate is valid a little before it is made.
const BACKDATE: Duration = Duration::from_secs(600);

/// The CA with its key: what only voters hold.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate_pem: String,
    pub key_pem: String,
}

/// A certificate with its key and the CA that signed it.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
    pub authority_pem: String,
}

/// From when to when a certificate is meant to hold, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub begin: i64,
    pub end: i64,
}

/// Whom a certificate names, in Kubernetes' reading: CN is the user, O are its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub user: String,
    pub groups: Vec<String>,
}

// === impl Authority ===

impl Authority {
    pub fn create(cluster: &str) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(&[(DnType::CommonName, cluster.to_string())], AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate_pem = params.self_signed(&key).map_err(failed)?.pem();
        Self::load(&certificate_pem, &key.serialize_pem())
    }

    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(failed)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.into(), key_pem: key_pem.into() })
    }

    /// The private key itself (PKCS #8, DER): whoever derives other keys from it.
    pub fn key_der(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// Signs a node's request. Only its key is taken from it; the names are those that the cluster gives.
    pub fn sign_node(&self, request_pem: &str, subject: &Subject, names: &[String], lifetime: Duration) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(failed)?;
        let params = leaf(subject, names, lifetime);
        let signed = params.signed_by(&request.public_key, &self.issuer).map_err(failed)?;
        Ok(signed.pem())
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A fresh key and certificate, for users and for the founding node.
    pub fn issue(&self, subject: &Subject, names: &[String], lifetime: Duration) -> Result<Identity, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = leaf(subject, names, lifetime).signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), authority_pem: self.certificate_pem.clone() })
    }
}

/// A request to sign this key.
pub fn signing_request(key_pem: &str) -> Result<String, Error> {
    let key = KeyPair::from_pem(key_pem).map_err(failed)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(failed)?;
    request.pem().map_err(failed)
}

/// The SHA-256 of a request's public key, in hex: what a join token binds to.
pub fn request_key_hash(request_pem: &str) -> Result<String, Error> {
    let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(failed)?;
    use rcgen::PublicKeyData;
    Ok(hex(&Sha256::digest(request.public_key.subject_public_key_info())))
}

/// The SHA-256 of a certificate, in hex: what a join token pins.
pub fn certificate_hash(certificate_pem: &str) -> Result<String, Error> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))?;
    Ok(hex(&Sha256::digest(&der)))
}

/// The DNS name in a node's certificate, which the TLS handshake checks.
pub fn node_dns_name(node: &str) -> String {
    format!("{node}.nodes.skein")
}

// === impl Identity ===

impl Identity {
    /// The certificate and its CA. The CA is sent along for those who know only its hash: nodes that join.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let mut chain = certificates(&self.certificate_pem)?;
        chain.extend(certificates(&self.authority_pem)?);
        Ok(chain)
    }

    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))?;
        Ok(key.into())
    }

    /// How long the certificate is meant to be used.
    pub fn life(&self) -> Result<Life, Error> {
        let chain = certificates(&self.certificate_pem)?;
        let leaf = chain.first().ok_or_else(|| Error::Certificate("there is none".into()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| Error::Certificate(e.to_string()))?;
        let backdate = i64::try_from(BACKDATE.as_secs()).unwrap_or(0);
        let validity = parsed.validity();
        Ok(Life { begin: validity.not_before.timestamp() + backdate, end: validity.not_after.timestamp() })
    }

    pub fn roots(&self) -> Result<rustls::RootCertStore, Error> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&self.authority_pem)? {
            roots.add(certificate)?;
        }
        Ok(roots)
    }
}

/// The public half of a request's key, as an uncompressed point.
pub fn request_point(request_pem: &str) -> Result<Vec<u8>, Error> {
    use rcgen::PublicKeyData;
    let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(failed)?;
    Ok(request.public_key.der_bytes().to_vec())
}

/// A new P-256 key: PKCS#8 in PEM.
pub fn new_key() -> Result<String, Error> {
    Ok(KeyPair::generate().map_err(failed)?.serialize_pem())
}

/// The public half of a key, as an uncompressed point.
pub fn public_point(key_pem: &str) -> Result<Vec<u8>, Error> {
    use rcgen::PublicKeyData;
    Ok(KeyPair::from_pem(key_pem).map_err(failed)?.der_bytes().to_vec())
}

// === impl Subject ===

impl Subject {
    pub fn node(name: &str) -> Self {
        Self { user: format!("system:node:{name}"), groups: vec!["system:nodes".into()] }
    }

    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(String::from);
        let user = parsed.subject().iter_common_name().next().and_then(text)?;
        let groups = parsed.subject().iter_organization().filter_map(text).collect();
        Some(Self { user, groups })
    }

    /// The node that this subject is, if it is one.
    pub fn node_name(&self) -> Option<&str> {
        self.user.strip_prefix("system:node:").filter(|_| self.groups.iter().any(|g| g == "system:nodes"))
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| Error::Certificate(e.to_string()))
}

fn leaf(subject: &Subject, names: &[String], lifetime: Duration) -> CertificateParams {
    let mut parts = vec![(DnType::CommonName, subject.user.clone())];
    parts.extend(subject.groups.iter().map(|g| (DnType::OrganizationName, g.clone())));
    let mut params = params(&parts, lifetime);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names.iter().filter_map(|name| alternative_name(name)).collect();
    params
}

fn alternative_name(name: &str) -> Option<SanType> {
    match name.parse() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => Some(SanType::DnsName(name.to_string().try_into().ok()?)),
    }
}

fn params(parts: &[(DnType, String)], lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind.clone(), value.clone());
    }
    hold(&mut params, lifetime);
    params
}

/// From now on, and for so long.
pub(crate) fn hold(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
}

pub(crate) fn failed(error: rcgen::Error) -> Error {
    Error::Certificate(error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_who_its_certificate_says() {
        let authority = Authority::create("test").expect("a CA can be made");
        let request = new_key().and_then(|key| signing_request(&key)).expect("a request can be made");
        let pem = authority
            .sign_node(&request, &Subject::node("a"), &[node_dns_name("a"), "127.0.0.1".into()], DAY)
            .expect("the request is sound");
        let chain = certificates(&pem).expect("the certificate was just made");
        let subject = Subject::of_certificate(&chain[0]).expect("it has a subject");
        assert_eq!(subject, Subject::node("a"));
        assert_eq!(subject.node_name(), Some("a"));
        let reloaded = Authority::load(&authority.certificate_pem, &authority.key_pem);
        assert!(reloaded.is_ok());
    }
}
