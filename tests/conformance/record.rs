//! Asks a running Kubernetes all cases and writes down what it answers: `make record`. The namespace of the cases must
//! be there.
//!
//! The arguments are its URL and the files of a CA, a certificate and a key that may do everything.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use skein_conformance_tests::{Server, cases, reduced};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, authority, certificate, key] = arguments.as_slice() else {
        eprintln!("usage: skein-record URL CA CERTIFICATE KEY > tests/conformance/answers.json");
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let files: Vec<PathBuf> = [authority, certificate, key].into_iter().map(PathBuf::from).collect();
    let server = Server { url: url.clone(), authority: &files[0], certificate: &files[1], key: &files[2] };
    let cases = cases();
    let answers = reduced(&cases, server.ask(&cases));
    let answers: BTreeMap<&str, _> = cases.iter().map(|case| case.name.as_str()).zip(answers).collect();
    let lines: Vec<String> = answers
        .iter()
        .map(|(name, answer)| Ok(format!("{}: {}", serde_json::to_string(name)?, serde_json::to_string(answer)?)))
        .collect::<serde_json::Result<_>>()?;
    writeln!(std::io::stdout(), "{{\n{}\n}}", lines.join(",\n"))
}
