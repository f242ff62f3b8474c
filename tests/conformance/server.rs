//! Asks a server, many requests in one run of curl, so that they share a connection.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Case;
use crate::answer::{Answer, normalised};

/// Requests in one run of curl.
const BATCH: usize = 200;

/// Stands before each code; no answer has it.
const CODE: &str = "=== code ";

/// Where to ask, and as whom: files for curl.
pub struct Server<'a> {
    pub url: String,
    pub authority: &'a Path,
    pub certificate: &'a Path,
    pub key: &'a Path,
}

impl Server<'_> {
    /// The answers to all cases, in their order.
    pub fn ask(&self, cases: &[Case]) -> Vec<Answer> {
        cases.chunks(BATCH).flat_map(|batch| self.ask_batch(batch)).collect()
    }

    fn ask_batch(&self, cases: &[Case]) -> Vec<Answer> {
        let requests: Vec<String> = cases.iter().map(|case| self.request(case)).collect();
        let config = std::env::temp_dir().join(format!("skein-conformance-{}", std::process::id()));
        std::fs::write(&config, requests.join("next\n")).expect("the requests can be written down");
        let output = Command::new("curl").arg("-sS").arg("-K").arg(&config).stdin(Stdio::null()).output().expect("curl can be run");
        let _ = std::fs::remove_file(&config);
        let text = String::from_utf8_lossy(&output.stdout);
        let answers: Vec<Answer> = text.split_inclusive(CODE).collect::<Vec<_>>().windows(2).map(answer).collect();
        assert_eq!(answers.len(), cases.len(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        answers
    }

    /// As curl's configuration.
    fn request(&self, case: &Case) -> String {
        let mut config = String::new();
        let mut line = |option: &str, value: &str| {
            let _ = writeln!(config, "{option} = \"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        };
        line("url", &format!("{}{}", self.url, case.path));
        line("request", case.method);
        line("max-time", "20");
        line("cacert", &self.authority.to_string_lossy());
        line("cert", &self.certificate.to_string_lossy());
        line("key", &self.key.to_string_lossy());
        line("header", &format!("Accept: {}", case.accept));
        if let Some(body) = &case.body {
            line("header", &format!("Content-Type: {}", case.content_type));
            line("data-binary", &body.to_string());
        }
        config + "write-out = \"" + CODE + "%{http_code}\\n\"\n"
    }
}

/// Of two parts, the first ends with the mark and the second begins with the code.
fn answer(parts: &[&str]) -> Answer {
    let content = parts[0].strip_suffix(CODE).unwrap_or(parts[0]);
    // The code of the request before is the rest of its line.
    let content = content.split_once('\n').map_or(content, |(first, rest)| if is_code(first) { rest } else { content });
    let code = parts[1].split('\n').next().unwrap_or_default();
    let body = serde_json::from_str(content).unwrap_or_else(|_| content.trim().into());
    Answer { code: code.trim().parse().unwrap_or(0), body: normalised(body) }
}

fn is_code(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}
