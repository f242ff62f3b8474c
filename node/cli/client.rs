//! A small HTTPS client for the cluster's own endpoints, with the credentials of a kubeconfig.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Args, Clone)]
pub(crate) struct Access {
    /// The kubeconfig to use [default: $KUBECONFIG, then /var/lib/skein/admin.kubeconfig]
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The context to use [default: all in turn, until one answers]
    #[arg(long)]
    context: Option<String>,
    /// The mark of its connections' packets, by which a firewall knows them
    #[arg(skip)]
    mark: Option<u32>,
}

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// What is asked of a node.
#[derive(Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    body: Option<&'a Value>,
}

// === impl Access ===

impl Access {
    pub(crate) fn path(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| "/var/lib/skein/admin.kubeconfig".into())
    }

    /// With this kubeconfig, and all of its contexts.
    pub(crate) fn of(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig: Some(kubeconfig), context: None, mark: None }
    }

    pub(crate) fn marked(self, mark: u32) -> Self {
        Self { mark: Some(mark), ..self }
    }

    fn config(&self) -> Result<Value> {
        let file = self.path();
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {} (give --kubeconfig)", file.display()))?;
        serde_yaml_ng::from_str(&text).with_context(|| format!("{} is not a kubeconfig", file.display()))
    }

    /// The names of the nodes, but for their `stale` twins.
    pub(crate) fn contexts(&self) -> Result<Vec<String>> {
        let config = self.config()?;
        let clusters = config["clusters"].as_array().into_iter().flatten();
        let own = clusters.filter(|cluster| !cluster["cluster"]["server"].as_str().unwrap_or_default().ends_with("/stale"));
        Ok(own.filter_map(|cluster| cluster["name"].as_str().map(String::from)).collect())
    }

    /// Code and body of what one node answers, whatever it is.
    pub(crate) async fn exchange(&self, context: &str, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>)> {
        let answer = self.answer_of(context, method, path, body).await?;
        let code = answer.status().as_u16();
        Ok((code, answer.into_body().collect().await?.to_bytes().into()))
    }

    /// Waits until one node's answer, which must be a success, begins or ends.
    pub(crate) async fn first_line(&self, context: &str, path: &str) -> Result<()> {
        let mut body = accepted(self.answer_of(context, "GET", path, None)).await?;
        body.frame().await.transpose()?;
        Ok(())
    }

    async fn answer_of(&self, context: &str, method: &str, path: &str, body: Option<&Value>) -> Result<Response<Incoming>> {
        let config = self.config()?;
        let clusters = config["clusters"].as_array().into_iter().flatten();
        let cluster =
            { clusters }.find(|cluster| cluster["name"] == context).with_context(|| format!("there is no context {context:?}"))?;
        let server = cluster["cluster"]["server"].as_str().unwrap_or_default();
        self.send_to(&config, cluster, server, Request { method, path, body }).await
    }

    /// Asks the first node that answers.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.send(method, path, body).await?;
        Ok(serde_json::from_slice(&answer.collect().await?.to_bytes()).unwrap_or_default())
    }

    /// A long answer, as it comes.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming> {
        self.send("GET", path, None).await
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Incoming> {
        let (file, config) = (self.path(), self.config()?);
        let mut last = anyhow!("{} has no cluster", file.display());
        for cluster in config["clusters"].as_array().into_iter().flatten() {
            let name = cluster["name"].as_str().unwrap_or_default();
            let server = cluster["cluster"]["server"].as_str().unwrap_or_default();
            let wanted = self.context.as_deref().map_or(!server.ends_with("/stale"), |c| c == name);
            if !wanted {
                continue;
            }
            match accepted(self.send_to(&config, cluster, server, Request { method, path, body })).await {
                Ok(answer) => return Ok(answer),
                Err(why) => last = why.context(format!("node {name} at {server}")),
            }
        }
        Err(last)
    }

    async fn send_to(&self, config: &Value, cluster: &Value, server: &str, request: Request<'_>) -> Result<Response<Incoming>> {
        let user = &config["users"][0]["user"];
        let tls = client_config(&cluster["cluster"], user)?;
        let uri: http::Uri = server.parse()?;
        let host = uri.host().context("the server has no host")?.trim_matches(['[', ']']).to_string();
        let connect = self.connect(&host, uri.port_u16().unwrap_or(443));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| anyhow!("no answer within 3 s"))??;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from(host.clone())?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let content = request.body.map(Value::to_string).unwrap_or_default();
        let mut head = http::Request::builder().method(request.method).uri(request.path).header("host", host);
        head = head.header("content-type", "application/json");
        if let Some(token) = user["token"].as_str() {
            head = head.header("authorization", format!("Bearer {token}"));
        }
        Ok(sender.send_request(head.body(Full::new(Bytes::from(content)))?).await?)
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let address = tokio::net::lookup_host((host, port)).await?.next().with_context(|| format!("{host} has no address"))?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, &mark).context("cannot mark a connection")?;
        }
        Ok(socket.connect(address).await?)
    }
}

/// Whom a kubeconfig trusts, and who its user is: by a certificate, unless he has a token.
fn client_config(cluster: &Value, user: &Value) -> Result<rustls::ClientConfig> {
    let decode =
        |value: &Value| -> Result<Vec<u8>> { Ok(STANDARD.decode(value.as_str().context("the kubeconfig lacks a certificate or key")?)?) };
    let mut roots = rustls::RootCertStore::empty();
    let authority = decode(&cluster["certificate-authority-data"])?;
    for certificate in CertificateDer::pem_slice_iter(&authority) {
        roots.add(certificate?)?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    if user["token"].is_string() {
        return Ok(tls.with_no_client_auth());
    }
    let certificate = decode(&user["client-certificate-data"])?;
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&decode(&user["client-key-data"])?)?;
    Ok(tls.with_client_auth_cert(chain, key)?)
}

/// The body of an answer that is a success.
async fn accepted(answer: impl Future<Output = Result<Response<Incoming>>>) -> Result<Incoming> {
    let answer = answer.await?;
    let code = answer.status();
    if !code.is_success() {
        let bytes = answer.into_body().collect().await?.to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        bail!("{}", value["message"].as_str().unwrap_or(code.as_str()));
    }
    Ok(answer.into_body())
}
