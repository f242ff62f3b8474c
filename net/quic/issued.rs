//! Certificates that others issue for a key, as signers of Pods' certificates do (KEP-4317): whether a request proves its
//! key, and whether what was issued is for it.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

/// What is wrong with a request or a chain, in Kubernetes' words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("must be a valid PKCS#10 CSR")]
    Request,
    #[error("invalid signature")]
    Signature,
    /// What it is, and what it may be.
    #[error("{1}")]
    Key(String, &'static str),
    #[error("issued certificate chain must contain at least one certificate")]
    Empty,
    #[error("issued certificate chain must consist entirely of CERTIFICATE PEM blocks")]
    Foreign,
    #[error("leaf certificate does not parse as valid X.509")]
    Leaf,
    #[error("intermediate certificate does not parse as valid X.509")]
    Intermediate,
}

/// The key that a request proves: its `SubjectPublicKeyInfo`.
#[derive(Debug, PartialEq, Eq)]
pub struct Proof(Vec<u8>);

/// The first certificate of a chain.
#[derive(Debug)]
pub struct Issued {
    key: Vec<u8>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    pub dns_names: Vec<String>,
}

// === impl Proof ===

impl Proof {
    pub fn from_der(der: &[u8]) -> Result<Self, Flaw> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| Flaw::Request)?;
        if !rest.is_empty() {
            return Err(Flaw::Request);
        }
        let key = &request.certification_request_info.subject_pki;
        allowed(key)?;
        let signed = CertificateSigningRequestDer::from(der.to_vec());
        rcgen::CertificateSigningRequestParams::from_der(&signed).map_err(|_| Flaw::Signature)?;
        Ok(Self(key.raw.to_vec()))
    }
}

/// Keys that nobody should use are refused.
fn allowed(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Flaw> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if !matches!(rsa.key_size(), 3072 | 4096) => {
            Err(Flaw::Key(format!("{}-bit modulus", rsa.key_size()), "RSA keys must have modulus size 3072 or 4096"))
        }
        Ok(PublicKey::EC(point)) if !matches!(point.key_size(), 256 | 384 | 521 | 528) => {
            Err(Flaw::Key(format!("curve P-{}", point.key_size()), "elliptic public keys must use curve P256, P384, or P521"))
        }
        _ => Ok(()),
    }
}

// === impl Issued ===

impl Issued {
    pub fn from_chain(pem: &str) -> Result<Self, Flaw> {
        let blocks = pem.matches("-----BEGIN ").count();
        let certificates: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| Flaw::Foreign)?;
        if blocks == 0 {
            return Err(Flaw::Empty);
        }
        if certificates.len() != blocks {
            return Err(Flaw::Foreign);
        }
        let [leaf, above @ ..] = certificates.as_slice() else { return Err(Flaw::Empty) };
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| Flaw::Leaf)?;
        if above.iter().any(|certificate| X509Certificate::from_der(certificate).is_err()) {
            return Err(Flaw::Intermediate);
        }
        let names = leaf.subject_alternative_name().ok().flatten();
        let dns = |name: &GeneralName<'_>| if let GeneralName::DNSName(name) = name { Some((*name).to_string()) } else { None };
        Ok(Self {
            key: leaf.public_key().raw.to_vec(),
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
            dns_names: names.into_iter().flat_map(|names| names.value.general_names.iter().filter_map(dns)).collect(),
        })
    }

    pub fn is_for(&self, proof: &Proof) -> bool {
        self.key == proof.0
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair};

    use super::*;
    use crate::Authority;

    #[test]
    fn what_is_issued_is_for_the_key_that_was_proved() {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        let proof = Proof::from_der(request.der()).expect("a proof");
        let (cut, mut torn) = (&request.der()[1..], request.der().to_vec());
        assert_eq!(Proof::from_der(cut), Err(Flaw::Request));
        *torn.last_mut().expect("bytes") ^= 1;
        assert_eq!(Proof::from_der(&torn), Err(Flaw::Signature));

        let params = CertificateSigningRequestParams::from_der(request.der()).expect("a request");
        let authority = Authority::create("test").expect("an authority");
        let chain = params.signed_by(authority.issuer()).expect("a certificate").pem();
        let issued = Issued::from_chain(&chain).expect("a chain");
        assert!(issued.is_for(&proof) && issued.not_after > issued.not_before);
        let other = CertificateParams::default().serialize_request(&KeyPair::generate().expect("a key")).expect("a request");
        assert!(!issued.is_for(&Proof::from_der(other.der()).expect("a proof")));

        assert_eq!(Issued::from_chain("x").map(|_| ()), Err(Flaw::Empty));
        assert_eq!(Issued::from_chain(&format!("{chain}{}", key.serialize_pem())).map(|_| ()), Err(Flaw::Foreign));
    }
}
