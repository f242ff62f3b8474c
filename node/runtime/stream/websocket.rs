//! Kubernetes' remote-command subprotocols: the first byte of a message is its channel
//! (`k8s.io/apimachinery/pkg/util/remotecommand`).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::process::{End, Input};

/// The subprotocols that this server speaks, the best first. They differ in how the end is told, and in whether
/// standard input can be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// v4, and a message that closes a channel.
    V5,
    /// The end is a Status.
    V4,
    /// The end is text; nothing on success.
    V1,
    /// No subprotocol was asked for: as v1.
    Unnamed,
}

const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

// === impl Protocol ===

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
            Self::Unnamed => "",
        }
    }
}

/// The best of what a client offers.
pub(super) fn choose(offered: &[&str]) -> Option<Protocol> {
    if offered.is_empty() {
        return Some(Protocol::Unnamed);
    }
    [Protocol::V5, Protocol::V4, Protocol::V1].into_iter().find(|p| offered.contains(&p.name()))
}

/// A terminal's size, as clients send it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    width: u16,
    height: u16,
}

impl From<Size> for Input {
    fn from(Size { width, height }: Size) -> Self {
        Self::Resize { width, height }
    }
}

/// What a client's message asks for.
pub(super) fn parse(protocol: Protocol, message: &Bytes) -> Input {
    match message.split_first() {
        Some((&STDIN, rest)) if !rest.is_empty() => Input::Stdin(message.slice(1..)),
        Some((&RESIZE, rest)) => serde_json::from_slice::<Size>(rest).map_or(Input::Nothing, Input::from),
        Some((&CLOSE, [STDIN])) if protocol == Protocol::V5 => Input::CloseStdin,
        _ => Input::Nothing,
    }
}

pub(super) fn message(channel: u8, content: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(content.len() + 1);
    message.push(channel);
    message.extend_from_slice(content);
    message.into()
}

/// How the end is told on the channel for errors; `None` where success is not told.
pub(super) fn end(protocol: Protocol, end: &End) -> Option<String> {
    let (status, text) = match end {
        Ok(0) => (json!({"metadata": {}, "status": "Success"}), String::new()),
        Ok(code) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            (
                json!({
                    "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
                    "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
                }),
                message,
            )
        }
        Err(why) => (json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": why}), why.clone()),
    };
    match protocol {
        Protocol::V5 | Protocol::V4 => Some(Value::to_string(&status)),
        Protocol::V1 | Protocol::Unnamed => (!text.is_empty()).then_some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_best_and_reads_channels() {
        assert_eq!(choose(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Some(Protocol::V5));
        assert_eq!(choose(&["channel.k8s.io"]), Some(Protocol::V1));
        assert_eq!(choose(&["base64.channel.k8s.io"]), None);
        let check = |protocol, bytes: &'static [u8], expected| assert_eq!(parse(protocol, &Bytes::from_static(bytes)), expected);
        check(Protocol::V4, b"\x00abc", Input::Stdin(Bytes::from_static(b"abc")));
        check(Protocol::V4, b"\x00", Input::Nothing);
        check(Protocol::V4, b"\xff\x00", Input::Nothing);
        check(Protocol::V5, b"\xff\x00", Input::CloseStdin);
        check(Protocol::V5, b"\x04{\"Width\":80,\"Height\":24}", Input::Resize { width: 80, height: 24 });
        check(Protocol::V5, b"\x04nonsense", Input::Nothing);
        check(Protocol::V5, b"", Input::Nothing);
    }

    #[test]
    fn tells_the_end_in_the_words_of_the_protocol() {
        let text = |protocol, result| end(protocol, &result);
        assert_eq!(text(Protocol::V1, Ok(0)), None);
        assert!(text(Protocol::V4, Ok(0)).is_some_and(|t| t.contains("Success")));
        assert!(text(Protocol::V5, Ok(7)).is_some_and(|t| t.contains("ExitCode") && t.contains("\"7\"")));
    }
}
