//! Requests for certificates (PKCS #10) that others than nodes make, as `certificates.k8s.io` brings them.

use std::time::Duration;

use rcgen::{CertificateSigningRequestParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;

use crate::Error;
use crate::authority::{Authority, Subject, failed, hold};

/// A request whose signature is good.
pub struct SigningRequest(CertificateSigningRequestParams);

/// How many names of each sort a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: usize,
    pub ips: usize,
    pub emails: usize,
    pub uris: usize,
}

// === impl SigningRequest ===

impl SigningRequest {
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem);
        let der = der.map_err(|_| Error::Certificate("PEM block type must be CERTIFICATE REQUEST".into()))?;
        Ok(Self(CertificateSigningRequestParams::from_der(&der).map_err(failed)?))
    }

    pub fn subject(&self) -> Subject {
        let name = &self.0.params.distinguished_name;
        let texts = |wanted: DnType| name.iter().filter(move |(kind, _)| **kind == wanted).filter_map(|(_, value)| text(value));
        Subject { user: texts(DnType::CommonName).next().unwrap_or_default(), groups: texts(DnType::OrganizationName).collect() }
    }

    pub fn names(&self) -> Names {
        let mut names = Names::default();
        for name in &self.0.params.subject_alt_names {
            match name {
                SanType::DnsName(_) => names.dns += 1,
                SanType::IpAddress(_) => names.ips += 1,
                SanType::Rfc822Name(_) => names.emails += 1,
                SanType::URI(_) => names.uris += 1,
                _ => {}
            }
        }
        names
    }
}

fn text(value: &DnValue) -> Option<String> {
    Some(match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.to_string(),
        DnValue::Ia5String(text) => text.to_string(),
        _ => return None,
    })
}

// === impl Authority ===

impl Authority {
    /// Signs with the request's subject and names, for these usages in Kubernetes' words; it becomes no CA.
    pub fn sign_request(&self, request: SigningRequest, usages: &[&str], lifetime: Duration) -> Result<String, Error> {
        let SigningRequest(mut request) = request;
        let params = &mut request.params;
        params.is_ca = IsCa::NoCa;
        params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
        params.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
        if params.distinguished_name.iter().next().is_none() {
            params.distinguished_name = DistinguishedName::new();
        }
        hold(params, lifetime);
        Ok(request.signed_by(self.issuer()).map_err(failed)?.pem())
    }
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        // "cert sign" would be a CA.
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn request(user: &str, names: &[&str]) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, "devs");
        params.serialize_request(&key).and_then(|request| request.pem()).expect("a request")
    }

    #[test]
    fn what_is_signed_is_what_was_asked_for_and_no_authority() {
        let pem = request("ada", &["a.example", "10.0.0.1"]);
        let request = SigningRequest::from_pem(pem.as_bytes()).expect("it is sound");
        assert_eq!(request.subject(), Subject { user: "ada".into(), groups: vec!["devs".into()] });
        assert_eq!(request.names(), Names { dns: 1, ips: 1, ..Names::default() });
        let authority = Authority::create("test").expect("a CA");
        let signed = authority.sign_request(request, &["client auth", "cert sign"], Duration::from_secs(3600)).expect("it is signed");
        let der = rustls::pki_types::CertificateDer::from_pem_slice(signed.as_bytes()).expect("PEM");
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        assert!(!parsed.is_ca());
        assert_eq!(Subject::of_certificate(&der).map(|s| s.user).as_deref(), Some("ada"));
        let usage = parsed.extended_key_usage().ok().flatten().expect("it says what for");
        assert!(usage.value.client_auth && !usage.value.server_auth);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(SigningRequest::from_pem(b"nonsense").is_err());
        let (before, after) = (request("ada", &[]), request("eve", &[]));
        // The body of one with the signature of another.
        let (a, b) = (before.lines().collect::<Vec<_>>(), after.lines().collect::<Vec<_>>());
        let mixed = [&a[..a.len() - 2], &b[b.len() - 2..]].concat().join("\n");
        assert!(SigningRequest::from_pem(mixed.as_bytes()).is_err());
    }
}
