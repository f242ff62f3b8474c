//! The cluster's certificate authority and the identities that it signs.
//!
//! A node's certificate carries Kubernetes' names for a node (`O=system:nodes, CN=system:node:NAME`) and, for the TLS
//! handshake, the DNS name `NAME.nodes.skein`. The same certificate serves the API.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

use crate::Error;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The CA lives long: a new one takes its place when somebody asks for it.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());

/// A person's certificate, which nobody renews by itself.
pub const USER_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());

/// Clocks of new machines are off by some minutes; a certificate is valid a little before it is made.
const BACKDATE_SECONDS: i64 = 600;

/// The CA with its key: what only voters hold.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The CAs that are trusted; the first one signs.
    pub certificate_pem: String,
    /// The keys of CAs that are held: that of the one that signs, in whatever place, and those of others.
    pub key_pem: String,
}

/// A CA that is to take another's place.
pub struct Successor {
    pub certificate_pem: String,
    /// The same name and key, certified by its predecessor: who trusts only that one trusts this one, too.
    pub cross_pem: String,
    pub key_pem: String,
}

/// A certificate with its key and the CA that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
    /// The CAs that are trusted; the first one signs.
    pub authority_pem: String,
    /// What leads to these from CAs that went before them.
    pub cross_pem: String,
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
        let certificate_pem = authority_params(cluster).self_signed(&key).map_err(failed)?.pem();
        Self::load(&certificate_pem, &key.serialize_pem())
    }

    /// The CA that signs is the first of the certificates; its key is among the keys.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let point = public_point_of(first(certificate_pem)?)?;
        let key = keys(key_pem)?.into_iter().find(|key| key.der_bytes() == point);
        let key = key.ok_or(Error::NotHeld)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(failed)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.into(), key_pem: key_pem.into() })
    }

    /// The private keys themselves (PKCS #8, DER), that of the CA which signs first: for who derives other keys from them.
    pub fn key_ders(&self) -> Result<Vec<Vec<u8>>, Error> {
        let own = self.issuer.key().serialize_der();
        let others = keys(&self.key_pem)?.into_iter().map(|key| key.serialize_der()).filter(|der| *der != own);
        Ok(std::iter::once(own.clone()).chain(others).collect())
    }

    /// A new CA, certified by this one. Its name is another, so that nobody takes one's certificates for the other's.
    pub fn successor(&self, cluster: &str) -> Result<Successor, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let name = format!("{cluster} {}", &hex(&Sha256::digest(key.subject_public_key_info()))[..8]);
        let certificate_pem = authority_params(&name).self_signed(&key).map_err(failed)?.pem();
        let mut cross = authority_params(&name);
        cross.use_authority_key_identifier_extension = true;
        let cross_pem = cross.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Successor { certificate_pem, cross_pem, key_pem: key.serialize_pem() })
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
        let (certificate_pem, authority_pem) = (certificate.pem(), self.certificate_pem.clone());
        Ok(Identity { certificate_pem, key_pem: key.serialize_pem(), authority_pem, cross_pem: String::new() })
    }
}

/// Those of the keys that belong to one of the certificates.
pub fn keys_of(key_pem: &str, certificate_pem: &str) -> Result<String, Error> {
    let points = certificates(certificate_pem)?.into_iter().map(public_point_of).collect::<Result<Vec<_>, _>>()?;
    let kept = keys(key_pem)?.into_iter().filter(|key| points.iter().any(|point| key.der_bytes() == point));
    Ok(kept.map(|key| key.serialize_pem()).collect())
}

/// The SHA-256 of those certificates whose keys are among these, in hex.
pub fn hashes_with_keys(certificate_pem: &str, key_pem: &str) -> Result<Vec<String>, Error> {
    let held: Vec<Vec<u8>> = keys(key_pem)?.iter().map(|key| key.der_bytes().to_vec()).collect();
    let hashes = certificates(certificate_pem)?.into_iter().map(|certificate| {
        let hash = hex(&Sha256::digest(&certificate));
        Ok(held.contains(&public_point_of(certificate)?).then_some(hash))
    });
    Ok(hashes.collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect())
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
    Ok(hex(&Sha256::digest(request.public_key.subject_public_key_info())))
}

/// The SHA-256 of the first certificate, in hex: what a join token pins.
pub fn certificate_hash(certificate_pem: &str) -> Result<String, Error> {
    Ok(hex(&Sha256::digest(first(certificate_pem)?)))
}

/// The SHA-256 of each certificate, in hex.
pub fn certificate_hashes(certificate_pem: &str) -> Result<Vec<String>, Error> {
    Ok(certificates(certificate_pem)?.iter().map(|der| hex(&Sha256::digest(der))).collect())
}

/// Whom the first certificate names, and until when it holds, in seconds of Unix time.
pub fn name_and_end(certificate_pem: &str) -> Result<(String, i64), Error> {
    let certificate = first(certificate_pem)?;
    let (_, parsed) = parsed(&certificate)?;
    Ok((parsed.subject().to_string(), parsed.validity().not_after.timestamp()))
}

/// The DNS name in a node's certificate, which the TLS handshake checks.
pub fn node_dns_name(node: &str) -> String {
    format!("{node}.nodes.skein")
}

// === impl Identity ===

impl Identity {
    /// The certificate, what leads to its CA from former ones, and the CA. The last is sent along for those who know only
    /// its hash: nodes that join. It comes behind the others because OpenSSL takes the first that fits.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let parts = [&self.certificate_pem, &self.cross_pem, &self.authority_pem];
        Ok(parts.into_iter().map(|pem| certificates(pem)).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Whether the CA that signs has signed this certificate, and not one before it.
    pub fn is_of_signing_authority(&self) -> Result<bool, Error> {
        is_issued(&first(&self.certificate_pem)?, &first(&self.authority_pem)?)
    }

    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))?;
        Ok(key.into())
    }

    /// Whether one of the CAs that are trusted has: if not, nobody believes it.
    pub fn is_of_trusted_authority(&self) -> Result<bool, Error> {
        let leaf = first(&self.certificate_pem)?;
        let issued = certificates(&self.authority_pem)?.into_iter().map(|authority| is_issued(&leaf, &authority));
        Ok(issued.collect::<Result<Vec<bool>, Error>>()?.contains(&true))
    }

    /// How long the certificate is meant to be used.
    pub fn life(&self) -> Result<Life, Error> {
        let leaf = first(&self.certificate_pem)?;
        let (_, parsed) = parsed(&leaf)?;
        let validity = parsed.validity();
        Ok(Life { begin: validity.not_before.timestamp() + BACKDATE_SECONDS, end: validity.not_after.timestamp() })
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
    let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(failed)?;
    Ok(request.public_key.der_bytes().to_vec())
}

/// A new P-256 key: PKCS#8 in PEM.
pub fn new_key() -> Result<String, Error> {
    Ok(KeyPair::generate().map_err(failed)?.serialize_pem())
}

/// The public half of a key, as an uncompressed point.
pub fn public_point(key_pem: &str) -> Result<Vec<u8>, Error> {
    Ok(KeyPair::from_pem(key_pem).map_err(failed)?.der_bytes().to_vec())
}

// === impl Life ===

impl Life {
    /// Whether it has not ended, and has begun: a clock may have been ahead when this was signed.
    pub fn holds(&self, now: i64) -> bool {
        (self.begin - BACKDATE_SECONDS..self.end).contains(&now)
    }
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

fn first(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<(&'a [u8], X509Certificate<'a>), Error> {
    x509_parser::parse_x509_certificate(certificate).map_err(|e| Error::Certificate(e.to_string()))
}

/// Whether this CA has, as the issuer's name says: no two CAs of a cluster share one.
fn is_issued(leaf: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> Result<bool, Error> {
    Ok(parsed(leaf)?.1.issuer().as_raw() == parsed(authority)?.1.subject().as_raw())
}

fn public_point_of(certificate: CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    Ok(parsed(&certificate)?.1.public_key().subject_public_key.data.to_vec())
}

fn keys(pem: &str) -> Result<Vec<KeyPair>, Error> {
    let keys = PrivatePkcs8KeyDer::pem_slice_iter(pem.as_bytes());
    keys.map(|key| KeyPair::try_from(&key.map_err(|e| Error::Certificate(e.to_string()))?).map_err(failed)).collect()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(&[(DnType::CommonName, name.to_string())], AUTHORITY_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
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
    params.not_before = now - time::Duration::seconds(BACKDATE_SECONDS);
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
    fn what_a_clock_signed_that_was_ahead_holds_later() {
        let life = Life { begin: 4600, end: 9000 };
        assert_eq!([3999, 4000, 8999, 9000].map(|now| life.holds(now)), [false, true, true, false]);
    }

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

    /// Whether somebody who trusts these CAs believes the server.
    fn is_believed(server: &Identity, trusted_pem: &str) -> bool {
        use rustls::client::danger::ServerCertVerifier;
        let mut roots = rustls::RootCertStore::empty();
        certificates(trusted_pem).expect("certificates").into_iter().for_each(|root| roots.add(root).expect("a root"));
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(roots), provider);
        let chain = server.chain().expect("a chain");
        let name = rustls::pki_types::ServerName::try_from("a.nodes.skein").expect("a name");
        let now = rustls::pki_types::UnixTime::now();
        verifier.build().expect("a verifier").verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
    }

    #[test]
    fn who_trusts_a_former_authority_believes_its_successors() {
        let first = Authority::create("skein").expect("a CA");
        let next = first.successor("skein").expect("a successor");
        let names = [node_dns_name("a")];
        let issue = |authority: &Authority| authority.issue(&Subject::node("a"), &names, DAY).expect("an identity");
        let keys = format!("{}{}", first.key_pem, next.key_pem);
        let both = Authority::load(&format!("{}{}", next.certificate_pem, first.certificate_pem), &keys).expect("the keys are there");
        assert_eq!(both.key_ders().expect("keys").len(), 2);
        assert_ne!(both.key_ders().expect("keys")[0], first.key_ders().expect("a key")[0]);
        assert!(Authority::load(&next.certificate_pem, &first.key_pem).is_err());
        let before = issue(&first);
        let during = Identity { cross_pem: next.cross_pem.clone(), ..issue(&both) };
        let second = Authority::load(&next.certificate_pem, &keys).expect("the key is there");
        let third = second.successor("skein").expect("a successor");
        let authority = Authority::load(&third.certificate_pem, &third.key_pem).expect("a CA");
        let cross_pem = format!("{}{}{}", third.cross_pem, next.certificate_pem, next.cross_pem);
        let after = Identity { cross_pem, ..issue(&authority) };
        let check = |server: &Identity, trusted: &str, expected: bool| assert_eq!(is_believed(server, trusted), expected);
        check(&before, &first.certificate_pem, true);
        check(&before, &next.certificate_pem, false);
        check(&during, &first.certificate_pem, true);
        check(&during, &next.certificate_pem, true);
        check(&after, &first.certificate_pem, true);
        check(&after, &next.certificate_pem, true);
        check(&after, &third.certificate_pem, true);
        check(&after, &Authority::create("skein").expect("another").certificate_pem, false);
        assert_eq!(before.is_of_signing_authority().ok(), Some(true));
        let trusting = |authority_pem: &str| Identity { authority_pem: authority_pem.into(), ..before.clone() };
        assert_eq!(trusting(&during.authority_pem).is_of_signing_authority().ok(), Some(false));
        assert_eq!(trusting(&during.authority_pem).is_of_trusted_authority().ok(), Some(true));
        assert_eq!(trusting(&after.authority_pem).is_of_trusted_authority().ok(), Some(false));
        assert_eq!(keys_of(&keys, &next.certificate_pem).expect("keys"), next.key_pem);
    }
}
