//! Certificates of clients. The handshake asks for one and takes any whose key the client has; whether it is believed is
//! found when a request comes, as Kubernetes' x509 authenticator does. So who shows one that is not believed is told so in
//! an answer, and one whose CA is retired is good for nothing on connections that are there already.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConnection, SignatureScheme};
use skein_quic::{Identity, Subject};
use tokio::sync::watch;

use crate::Error;

/// Takes any certificate whose key the client has.
#[derive(Debug)]
struct Any(Arc<dyn ClientCertVerifier>);

/// What a connection showed, and whom that makes its client as long as the node trusts the same CAs.
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    identity: watch::Receiver<Identity>,
    subject: Result<Option<Subject>, String>,
}

/// Who is believed to be whom by a node that trusts these CAs.
fn verifier(identity: &Identity, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(identity.roots()?), provider).allow_unauthenticated();
    builder.build().map_err(|why| Error::Tls(why.to_string()))
}

/// For the handshake.
pub(crate) fn any(identity: &Identity, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    Ok(Arc::new(Any(verifier(identity, provider)?)))
}

// === impl Shown ===

impl Shown {
    pub(crate) fn of(connection: &ServerConnection, mut identity: watch::Receiver<Identity>) -> Self {
        let chain: Vec<_> = connection.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let subject = believed(&chain, &identity.borrow_and_update());
        Self { chain, identity, subject }
    }

    /// Whom the client is, if it showed that; `Err` says why that is not believed.
    pub(crate) fn subject(&mut self) -> Result<Option<Subject>, String> {
        if self.identity.has_changed().unwrap_or(false) {
            self.subject = believed(&self.chain, &self.identity.borrow_and_update());
        }
        self.subject.clone()
    }
}

fn believed(chain: &[CertificateDer<'_>], identity: &Identity) -> Result<Option<Subject>, String> {
    let [leaf, intermediates @ ..] = chain else { return Ok(None) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(identity, provider).map_err(|why| why.to_string())?;
    verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).map_err(|why| why.to_string())?;
    Ok(Subject::of_certificate(leaf))
}

// === impl Any ===

impl ClientCertVerifier for Any {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skein_quic::Authority;

    use super::*;

    #[test]
    fn a_certificate_is_believed_as_long_as_its_ca_is_trusted() {
        let (own, other) = (Authority::create("skein").expect("a CA"), Authority::create("other").expect("another"));
        let ada = Subject { user: "ada".into(), groups: vec!["devs".into()] };
        let issue = |authority: &Authority| authority.issue(&ada, &[], Duration::from_secs(3600)).expect("a certificate");
        let node = issue(&own);
        let check = |shown: &Identity, trusts: &Identity, expected: Option<&Subject>| {
            let leaf = shown.chain().expect("a chain").swap_remove(0);
            assert_eq!(believed(&[leaf], trusts).ok().flatten().as_ref(), expected);
        };
        check(&issue(&own), &node, Some(&ada));
        check(&issue(&other), &node, None);
        let changed = Identity { authority_pem: other.certificate_pem.clone(), ..node.clone() };
        check(&issue(&own), &changed, None);
        assert_eq!(believed(&[], &node), Ok(None));
    }
}
