//! Small HTTPS servers as tests need them: with a certificate of their own and a function that answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// Serves until the process ends.
pub struct Server {
    /// `host:port`
    pub address: String,
    /// The `caBundle` that trusts it.
    pub bundle: String,
}

/// A request.
#[derive(Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// With names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

/// How a server is made.
pub struct Options<'a> {
    /// An address of this machine that the nodes reach.
    pub host: &'a str,
    /// The names in its certificate.
    pub names: Vec<String>,
    /// The CA, in PEM, that clients must be certified by.
    pub client_authority: Option<Vec<u8>>,
}

// === impl Server ===

impl Server {
    pub fn serve(options: Options<'_>, answer: impl Fn(&Asked) -> Value + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(options.names).expect("a name").self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().expect("versions");
        let builder = match options.client_authority {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("it can be trusted");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()));
        let config = Arc::new(config.expect("a configuration"));
        let ip: IpAddr = options.host.parse().expect("an address");
        let listener = TcpListener::bind((ip, 0)).expect("the address is this machine's");
        let address = format!("{}:{}", options.host, listener.local_addr().expect("it is bound").port());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).expect("a connection");
                    let _ = respond(StreamOwned::new(connection, stream), &*answer);
                });
            }
        });
        Self { address, bundle: STANDARD.encode(certificate.pem()) }
    }

    /// A webhook for admission and conversion: `answer` makes a response of a request, both without their uid.
    pub fn webhook(host: &str, answer: fn(&Value) -> Value) -> Self {
        Self::serve(Options { host, names: vec![host.into()], client_authority: None }, move |asked| {
            let review = &asked.body;
            let mut response = answer(&review["request"]);
            response["uid"] = review["request"]["uid"].clone();
            json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response})
        })
    }
}

fn respond(stream: StreamOwned<ServerConnection, std::net::TcpStream>, answer: &dyn Fn(&Asked) -> Value) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_string());
    }
    let mut first = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default().to_string(), first.next().unwrap_or_default().to_string());
    let headers: Vec<(String, String)> =
        lines.iter().skip(1).filter_map(|line| line.split_once(':').map(|(n, v)| (n.to_lowercase(), v.trim().to_string()))).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let asked = Asked { method, path, headers, body: serde_json::from_slice(&body).unwrap_or_default() };
    let text = answer(&asked).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
