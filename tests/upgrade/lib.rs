//! What a version has written, the next one reads: golden bytes of everything that is stored or sent.
//!
//! A golden file is never changed. A format that changes gets a new number, a reader for the old one (`migrate`), and a
//! file of its own beside the old; `GOLDEN=write` writes those that are missing. The files are text: what is printable
//! stands for itself, other bytes are escaped as in Rust's strings, and line breaks mean nothing.

#[cfg(test)]
mod command;
#[cfg(test)]
mod log;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod state;

#[cfg(test)]
mod golden {
    use std::fmt::Debug;
    use std::path::PathBuf;

    use prost::Message;

    const LINE_CHARACTERS: usize = 110;

    fn path(name: &str) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "golden", name].iter().collect()
    }

    /// The bytes of a golden file; written first where it is not there yet and that is asked for.
    pub(crate) fn read(name: &str, now: &[u8]) -> Vec<u8> {
        let path = path(name);
        if !path.exists() && std::env::var("GOLDEN").is_ok_and(|what| what == "write") {
            std::fs::write(&path, escape(now)).expect("the golden file can be written");
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}; GOLDEN=write writes it", path.display()));
        unescape(&text)
    }

    /// What is written now is what was written ever since.
    pub(crate) fn check_bytes(name: &str, now: &[u8]) {
        let golden = read(name, now);
        assert!(golden == now, "{name} is written otherwise than it was:\n{}\nwas\n{}", escape(now), escape(&golden));
    }

    /// A message is written as it was, and what was written is read as it is.
    pub(crate) fn check<M: Message + Default + PartialEq + Debug>(name: &str, message: &M) {
        let bytes = message.encode_to_vec();
        check_bytes(name, &bytes);
        assert_eq!(M::decode(read(name, &bytes).as_slice()).as_ref(), Ok(message), "{name} is read otherwise than it was written");
    }

    fn escape(bytes: &[u8]) -> String {
        let mut text = String::new();
        let mut line = 0;
        for byte in bytes {
            let escaped = std::ascii::escape_default(*byte).to_string();
            if line + escaped.len() > LINE_CHARACTERS {
                text.push('\n');
                line = 0;
            }
            line += escaped.len();
            text.push_str(&escaped);
        }
        text.push('\n');
        text
    }

    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.bytes().filter(|byte| *byte != b'\n');
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'\\' => match rest.next().expect("something is escaped") {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let digits: Vec<u8> = rest.by_ref().take(2).collect();
                        let digits = std::str::from_utf8(&digits).expect("two digits");
                        u8::from_str_radix(digits, 16).expect("two digits")
                    }
                    other => other,
                },
                other => other,
            });
        }
        bytes
    }

    #[test]
    fn any_bytes_can_be_kept_as_text() {
        let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(unescape(&escape(&all)), all);
    }
}
