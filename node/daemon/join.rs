//! A new node asks to be let in. It trusts whoever shows the CA that its token names, and nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use skein_quic::Identity;
use skein_quic::authority::{certificate_hash, signing_request};
use tokio::net::TcpStream;
use tracing::{info, warn};

use crate::cluster::{JoinAnswer, JoinRequest};
use crate::directory::{Directory, NodeFile};
use crate::{Error, Options, Token};

/// A cluster without a quorum may get one; a new node waits this long for it.
const ATTEMPTS: u32 = 30;
const INTERVAL: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Joins, and leaves the identity in the directory. Can be repeated after a crash: the key is kept before it is sent.
pub(crate) async fn join(directory: &Directory, options: &Options, token: &Token) -> Result<NodeFile, Error> {
    let (key_pem, request_pem) = match directory.pending_join()? {
        Some(pair) => pair,
        None => {
            let pair = signing_request()?;
            directory.save_pending_join(&pair.0, &pair.1)?;
            pair
        }
    };
    let request = JoinRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        signing_request: request_pem,
        name: options.name.clone(),
        address: options.address,
        peer_port: options.peer_port,
    };
    let answer = ask_any(token, &request).await?;
    let shown = certificate_hash(&answer.authority)?;
    if shown != token.ca {
        return Err(Error::Join("the cluster's CA is not the one that the token names".into()));
    }
    directory.save_identity(&Identity { certificate_pem: answer.certificate, key_pem, authority_pem: answer.authority })?;
    let node = NodeFile { format: 1, name: options.name.clone(), id: answer.id, address: options.address, founder: false };
    directory.save_node(&node)?;
    Ok(node)
}

async fn ask_any(token: &Token, request: &JoinRequest) -> Result<JoinAnswer, Error> {
    let mut last = String::from("the token names no address");
    for attempt in 0..ATTEMPTS {
        for address in &token.addresses {
            info!(%address, "asking to join");
            match tokio::time::timeout(REQUEST_TIMEOUT, ask(address, token, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Refused::Final(why))) => return Err(Error::Join(why)),
                Ok(Err(Refused::Retry(why))) => last = format!("{address}: {why}"),
                Err(_) => last = format!("{address}: no answer within {REQUEST_TIMEOUT:?}"),
            }
        }
        if attempt + 1 < ATTEMPTS {
            warn!(%last, "not joined yet, trying again");
            tokio::time::sleep(INTERVAL).await;
        }
    }
    Err(Error::Join(last))
}

enum Refused {
    Retry(String),
    Final(String),
}

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Retry(error.to_string())
    }
}

async fn ask(address: &str, token: &Token, request: &JoinRequest) -> Result<JoinAnswer, Refused> {
    let target: SocketAddr = address.parse()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedAuthority { ca: token.ca.clone(), provider: Arc::clone(&provider) });
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
    let post = http::Request::post("/skein/v1/join")
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

/// Accepts a server whose chain holds the CA with the pinned hash and whose certificate that CA signed: nodes send the
/// CA's certificate along with their own for this.
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
        verifier.verify_server_cert(end, &[], name, ocsp, now)
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
