//! Who asks: the subject of a client certificate, or nobody.

use skein_quic::Subject;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// The certificate was verified against the cluster's CA in the handshake.
    pub(crate) fn of_connection(connection: &rustls::ServerConnection) -> Self {
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        match certificate.and_then(Subject::of_certificate) {
            Some(Subject { user, mut groups }) => {
                groups.push("system:authenticated".into());
                Self { name: user, groups }
            }
            None => Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] },
        }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
