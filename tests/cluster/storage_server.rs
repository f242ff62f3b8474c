//! S3-compatible storage for tests: objects in memory, and Signature Version 4 in URLs, checked as Amazon documents it
//! ("Authenticating Requests: Using Query Parameters").

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use ring::{digest, hmac};

pub const KEY: &str = "who-writes";
pub const SECRET: &str = "a secret of this test";
pub const REGION: &str = "eu-north-7";

/// The server; it lives as long as the process.
pub struct StorageServer {
    pub url: String,
    objects: Objects,
}

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

// === impl StorageServer ===

impl StorageServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let objects = Objects::default();
        let kept = Arc::clone(&objects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever breaks off has no answer to wait for.
                let _ = serve(&stream, &kept);
            }
        });
        Self { url, objects }
    }

    /// What is there, by path.
    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// How many parts are there that nobody has put together.
    pub fn parts(&self) -> usize {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).keys().filter(|name| name.contains('#')).count()
    }
}

fn serve(stream: &TcpStream, objects: &Objects) -> std::io::Result<()> {
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut host, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        from.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "host" => host = value.trim().into(),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| query.split('&').find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
    let (is_begun, upload, part) = (parameter("uploads").is_some(), parameter("uploadId"), parameter("partNumber"));
    let mut objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
    let error = |code: &str, message: &str| format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>").into_bytes();
    let (code, answer) = match (is_signed(method, path, query, &host), method) {
        (false, _) => (403, error("SignatureDoesNotMatch", "The request signature we calculated does not match.")),
        // Each second part is asked for twice.
        (true, "PUT") if part == Some("2") && objects.insert("stumbled".into(), Vec::new()).is_none() => {
            (503, error("SlowDown", "Please reduce your request rate."))
        }
        (true, "PUT") if upload.is_some() => {
            objects.insert(part_name(path, upload, part), body);
            (200, Vec::new())
        }
        (true, "POST") if is_begun => (200, result("InitiateMultipartUpload", "<UploadId>one</UploadId>")),
        (true, "POST") => {
            let numbers = (1..).map(|number: u16| part_name(path, upload, Some(&number.to_string())));
            let parts: Vec<Vec<u8>> = numbers.map_while(|name| objects.remove(&name)).collect();
            let listed = String::from_utf8_lossy(&body).matches("<PartNumber>").count();
            if parts.is_empty() || listed != parts.len() {
                (200, error("InvalidPart", "One or more of the specified parts could not be found."))
            } else {
                objects.insert(path.into(), parts.concat());
                (200, result("CompleteMultipartUpload", "<ETag>\"whole\"</ETag>"))
            }
        }
        (true, "PUT") => {
            objects.insert(path.into(), body);
            (200, Vec::new())
        }
        (true, _) => match objects.get(path) {
            Some(object) => (200, object.clone()),
            None => (404, error("NoSuchKey", "The specified key does not exist.")),
        },
    };
    let mut to = stream;
    to.write_all(
        format!("HTTP/1.1 {code} -\r\ncontent-length: {}\r\netag: \"a part\"\r\nconnection: close\r\n\r\n", answer.len()).as_bytes(),
    )?;
    to.write_all(&answer)
}

fn part_name(path: &str, upload: Option<&str>, part: Option<&str>) -> String {
    format!("{path}#{}/{}", upload.unwrap_or_default(), part.unwrap_or_default())
}

fn result(of: &str, inside: &str) -> Vec<u8> {
    format!("<{of}Result xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inside}</{of}Result>").into_bytes()
}

fn is_signed(method: &str, path: &str, query: &str, host: &str) -> bool {
    let mut parameters: Vec<&str> = query.split('&').collect();
    let of = |name: &str| parameters.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_string();
    let (signature, time) = (of("X-Amz-Signature"), of("X-Amz-Date"));
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    if of("X-Amz-Credential") != format!("{KEY}/{scope}").replace('/', "%2F") {
        return false;
    }
    parameters.retain(|one| !one.starts_with("X-Amz-Signature="));
    parameters.sort_unstable();
    let canonical = format!("{method}\n{path}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", parameters.join("&"));
    let signed = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()));
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let secret = format!("AWS4{SECRET}").into_bytes();
    let key = [day, REGION, "s3", "aws4_request"].iter().fold(secret, |key, part| sign(&key, part));
    hex(&sign(&key, &signed)) == signature
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
