//! A keep-alive HTTPS client with the administrator's certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

#[derive(Clone)]
pub(crate) struct Credentials {
    tls: Arc<rustls::ClientConfig>,
}

pub(crate) struct Client {
    credentials: Credentials,
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// A connection that carries many requests at once (HTTP/2), as client-go's do, and gRPC's.
#[derive(Clone)]
pub(crate) struct Multiplexed {
    address: String,
    sender: http2::SendRequest<Full<Bytes>>,
}

// === impl Credentials ===

impl Credentials {
    pub(crate) fn read(kubeconfig: &Path) -> Result<Self> {
        let config: Value = serde_json::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let decode = |pointer: &str| -> Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str).context("the kubeconfig lacks a part")?;
            Ok(STANDARD.decode(text)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&decode("/clusters/0/cluster/certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let certificate = decode("/users/0/user/client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&decode("/users/0/user/client-key-data")?)?;
        Ok(Self { tls: Arc::new(client_config(roots, chain, key)?) })
    }

    /// A client of one node of the laboratory.
    pub(crate) fn client(&self, node: usize) -> Client {
        Client { credentials: self.clone(), address: format!("198.18.0.{}:6443", 10 + node), sender: None }
    }
}

/// Whom a client trusts, and who it is.
pub(crate) fn client_config(
    roots: rustls::RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ClientConfig> {
    Ok(rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

// === impl Client ===

impl Client {
    /// One request; the connection is made when it is needed and dropped when it fails.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Bytes)> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        let content = response.into_body().collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok((code, content))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.secured(&[]).await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(crate) async fn multiplexed(&self) -> Result<Multiplexed> {
        let stream = TokioIo::new(self.secured(&[b"h2".to_vec()]).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Multiplexed { address: self.address.clone(), sender })
    }

    async fn secured(&self, protocols: &[Vec<u8>]) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let host = self.address.split(':').next().unwrap_or_default().to_string();
        let mut tls = (*self.credentials.tls).clone();
        tls.alpn_protocols = protocols.to_vec();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        Ok(connector.connect(ServerName::try_from(host)?, stream).await?)
    }
}

// === impl Multiplexed ===

impl Multiplexed {
    /// One request among others on the connection.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: String) -> Result<(u16, Bytes)> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let code = response.status().as_u16();
        Ok((code, response.into_body().collect().await?.to_bytes()))
    }

    /// What is answered in this encoding.
    pub(crate) async fn read(&mut self, path: &str, accept: &str) -> Result<Bytes> {
        let request = http::Request::get(format!("https://{}{path}", self.address)).header("accept", accept).body(Full::default())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    }

    /// The events of a watch that has begun.
    pub(crate) async fn watch(&self, path: &str) -> Result<Incoming> {
        let uri = format!("https://{}{path}", self.address);
        let request = http::Request::get(uri).body(Full::new(Bytes::new()))?;
        let response = self.sender.clone().send_request(request).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(response.into_body())
    }
}
