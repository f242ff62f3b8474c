//! HTTP and HTTPS requests to containers: any status from 200 to 399 is a success. HTTP/1.1 on a connection of its own:
//! a probe must not share one. Whose certificate it is, is not asked (`pkg/probe/http`).

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Asks what a probe or a hook says, at the Pod's address unless it names another host.
pub(crate) async fn get(action: &HTTPGetAction, address: &str, container: &Container) -> Result<(), String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address);
    let port = super::port(&action.port, container);
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let is_tls = action.scheme.as_deref() == Some("HTTPS");
    let url = format!("{}://{host}:{port}{path}", if is_tls { "https" } else { "http" });
    let failed = |why: std::io::Error| format!("Get {url:?}: {why}");
    let request = request(action, &path, &format!("{host}:{port}"));
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let code = if is_tls {
        let name = ServerName::try_from(host.to_string()).map_err(|why| format!("Get {url:?}: {why}"))?;
        exchange(CONNECTOR.connect(name, stream).await.map_err(failed)?, &request).await
    } else {
        exchange(stream, &request).await
    };
    let code = code.map_err(failed)?;
    if (200..400).contains(&code) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {code}")) }
}

/// The action's own headers replace those that every request has.
fn request(action: &HTTPGetAction, path: &str, authority: &str) -> String {
    let mut headers = vec![("Host", authority), ("User-Agent", "kube-probe/1.37"), ("Accept", "*/*"), ("Connection", "close")];
    for own in action.http_headers.iter().flatten() {
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case(&own.name));
        headers.push((&own.name, &own.value));
    }
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\n{lines}\r\n")
}

/// The status that is answered; 0 for what is not HTTP.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0u8; 64];
    let mut filled = 0;
    while filled < 12 {
        match stream.read(&mut head[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    let text = String::from_utf8_lossy(&head[..filled]).into_owned();
    Ok(text.split(' ').nth(1).and_then(|code| code.get(..3)).and_then(|code| code.parse().ok()).unwrap_or(0))
}

static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("ring knows the default versions of TLS");
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth();
    Arc::new(config).into()
});

/// Takes any certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn own_headers_replace_the_usual_ones() {
        let action = json!({"port": 80, "httpHeaders": [{"name": "host", "value": "x.example"}, {"name": "X-A", "value": "b"}]});
        let action: HTTPGetAction = serde_json::from_value(action).expect("an action");
        let text = request(&action, "/p", "10.0.0.1:80");
        assert_eq!(
            text,
            "GET /p HTTP/1.1\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\nhost: x.example\r\nX-A: b\r\n\r\n"
        );
    }
}
