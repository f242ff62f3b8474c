//! A question to the API of a node that is known by its CA only: what a node asks that has no valid certificate yet, or
//! no longer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) enum Refused {
    Retry(String),
    Final(String),
}

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Retry(error.to_string())
    }
}

/// Posts to whoever shows the CA with this hash, and nobody else.
pub(crate) async fn ask<T: DeserializeOwned>(address: &str, ca: &str, path: &str, request: &impl Serialize) -> Result<T, Refused> {
    match tokio::time::timeout(TIMEOUT, exchange(address, ca, path, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(Refused::Retry(format!("no answer within {TIMEOUT:?}"))),
    }
}

async fn exchange<T: DeserializeOwned>(address: &str, ca: &str, path: &str, request: &impl Serialize) -> Result<T, Refused> {
    let target: SocketAddr = address.parse()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedAuthority { ca: ca.into(), provider: Arc::clone(&provider) });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::IpAddress(target.ip().into()), TcpStream::connect(target).await?).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(request).expect("plain data");
    let post = http::Request::post(path)
        .header("host", address)
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body)))?;
    let answer = sender.send_request(post).await?;
    let code = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if code.is_success() {
        return Ok(serde_json::from_slice(&body)?);
    }
    let message = serde_json::from_slice::<Value>(&body).ok().and_then(|v| v["message"].as_str().map(String::from));
    let message = message.unwrap_or_else(|| code.to_string());
    if code.is_client_error() { Err(Refused::Final(message)) } else { Err(Refused::Retry(message)) }
}

/// Accepts a server whose chain holds the CA with the pinned hash and whose certificate leads to that CA: nodes send it, and
/// what its successors have of it, along with their own for this.
#[derive(Debug)]
struct PinnedAuthority {
    ca: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = chain.iter().find(|certificate| hash(certificate) == self.ca);
        let authority = pinned.ok_or(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn hash(certificate: &CertificateDer<'_>) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(certificate).iter().map(|b| format!("{b:02x}")).collect()
}
