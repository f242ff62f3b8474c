//! A small webhook for admission and conversion, as tests need it: HTTPS, a certificate of its own, a function that answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// Serves until the process ends.
pub struct Webhook {
    /// `host:port`
    pub address: String,
    /// The `caBundle` that trusts it.
    pub bundle: String,
}

impl Webhook {
    /// Listens on an address of this machine that the nodes reach; `answer` makes a response of a request, both without
    /// their uid.
    pub fn serve(host: &str, answer: fn(&Value) -> Value) -> Self {
        let names = vec![host.to_string()];
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(names).expect("a name").self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("a configuration");
        let config = Arc::new(config);
        let ip: IpAddr = host.parse().expect("an address");
        let listener = TcpListener::bind((ip, 0)).expect("the address is this machine's");
        let address = format!("{host}:{}", listener.local_addr().expect("it is bound").port());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).expect("a connection");
                    let _ = respond(StreamOwned::new(connection, stream), answer);
                });
            }
        });
        Self { address, bundle: STANDARD.encode(certificate.pem()) }
    }
}

fn respond(stream: StreamOwned<ServerConnection, std::net::TcpStream>, answer: fn(&Value) -> Value) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut response = answer(&review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    let text = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
