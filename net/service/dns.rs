//! The DNS server of a node: the cluster's names from the local replica, everything else from the node's own resolvers.
//!
//! It answers also without a quorum. UDP and TCP on a port of the node's address, to which the rules lead what is sent
//! to the ClusterIP of `kube-system/kube-dns`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tracing::debug;

use crate::zone::{DOMAIN, Data, Found, Kind, Source, resolve};

/// CoreDNS' default for the cluster's names.
const TTL_SECONDS: u32 = 5;
/// Without EDNS a UDP message has no more (RFC 1035, 2.3.4).
const UDP_BYTES: u16 = 512;
const UDP_BYTES_MAX: u16 = 4096;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers of others that are remembered, and for how long at most.
const CACHE_ENTRIES_MAX: usize = 4096;
const CACHE_TIME: Duration = Duration::from_secs(30);
/// A client that says nothing on its connection is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How deep a CNAME within the cluster is followed.
const CNAMES_MAX: usize = 4;

/// Gives the names as they are now.
pub type Names = Arc<dyn Fn(&mut dyn FnMut(&dyn Source)) + Send + Sync>;

pub struct Options {
    pub bind: SocketAddr,
    /// Who answers for the rest of the world; none: such names fail.
    pub upstream: Vec<SocketAddr>,
    pub names: Names,
}

struct Server {
    upstream: Vec<SocketAddr>,
    names: Names,
    cache: Mutex<HashMap<(Name, RecordType), (Instant, Message)>>,
}

/// Serves for as long as the process lives.
pub async fn serve(options: Options) -> std::io::Result<()> {
    let udp = Arc::new(UdpSocket::bind(options.bind).await?);
    let tcp = TcpListener::bind(options.bind).await?;
    let server = Arc::new(Server { upstream: options.upstream, names: options.names, cache: Mutex::default() });
    let for_tcp = Arc::clone(&server);
    tokio::spawn(async move {
        loop {
            if let Ok((stream, _)) = tcp.accept().await {
                let server = Arc::clone(&for_tcp);
                tokio::spawn(async move { server.converse(stream).await });
            }
        }
    });
    let mut buffer = vec![0; usize::from(UDP_BYTES_MAX)];
    loop {
        // An answer that nobody took shows as an error here.
        let Ok((length, from)) = udp.recv_from(&mut buffer).await else { continue };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let (server, udp) = (Arc::clone(&server), Arc::clone(&udp));
        tokio::spawn(async move {
            let room = query.edns.as_ref().map_or(UDP_BYTES, |e| e.max_payload()).clamp(UDP_BYTES, UDP_BYTES_MAX);
            let answer = server.answer(&query).await;
            let mut bytes = answer.to_vec().unwrap_or_default();
            if bytes.len() > usize::from(room) {
                // The client asks again over TCP.
                bytes = answer.truncate().to_vec().unwrap_or_default();
            }
            let _ = udp.send_to(&bytes, from).await;
        });
    }
}

// === impl Server ===

impl Server {
    /// One client over TCP: messages with their length before them (RFC 1035, 4.2.2).
    async fn converse(&self, mut stream: TcpStream) {
        while let Ok(Ok(length)) = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await {
            let mut bytes = vec![0; usize::from(length)];
            let Ok(Ok(_)) = tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut bytes)).await else { return };
            let Ok(query) = Message::from_vec(&bytes) else { return };
            let answer = self.answer(&query).await.to_vec().unwrap_or_default();
            if stream.write_all(&framed(&answer)).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, query: &Message) -> Message {
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_queries(query.queries.iter().cloned());
        let [asked] = query.queries.as_slice() else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer;
        };
        if query.metadata.op_code != OpCode::Query || query.metadata.message_type != MessageType::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer;
        }
        let mut name = asked.name().to_lowercase();
        for _ in 0..CNAMES_MAX {
            match self.look_up(&name, asked.query_type()) {
                Found::Outside => return self.forward(&name, asked.query_type(), answer).await,
                Found::NoName => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    answer.metadata.authoritative = true;
                    answer.authorities.extend(authority());
                    return answer;
                }
                Found::Records(records) => {
                    answer.metadata.authoritative = true;
                    let aliased = records.iter().find_map(|r| if let Data::Cname(target) = r { Some(target.clone()) } else { None });
                    let owner = if answer.answers.is_empty() { asked.name().clone() } else { name.clone() };
                    answer.answers.extend(records.iter().filter_map(|data| record(&owner, data)));
                    match aliased.and_then(|target| fqdn(&target)) {
                        Some(target) if asked.query_type() != RecordType::CNAME => name = target,
                        _ => break,
                    }
                }
            }
        }
        if answer.answers.is_empty() {
            answer.authorities.extend(authority());
        }
        answer
    }

    fn look_up(&self, name: &Name, kind: RecordType) -> Found {
        let kind = match kind {
            RecordType::A => Kind::A,
            RecordType::SRV => Kind::Srv,
            RecordType::PTR => Kind::Ptr,
            RecordType::TXT => Kind::Txt,
            _ => Kind::Other,
        };
        let text = name.to_ascii();
        let mut found = Found::Outside;
        (self.names)(&mut |source| found = resolve(source, text.trim_end_matches('.'), kind));
        found
    }

    /// Asks the node's own resolvers; what was found so far (a CNAME) stays in the answer.
    async fn forward(&self, name: &Name, kind: RecordType, mut answer: Message) -> Message {
        let key = (name.clone(), kind);
        let heard = match self.cached(&key) {
            Some(message) => Some(message),
            None => self.ask_upstream(name, kind).await.inspect(|message| self.remember(key, message)),
        };
        match heard {
            Some(message) => {
                answer.metadata.response_code = message.metadata.response_code;
                answer.metadata.authoritative = false;
                answer.answers.extend(message.answers);
                answer.authorities.extend(message.authorities);
            }
            None => answer.metadata.response_code = ResponseCode::ServFail,
        }
        answer
    }

    /// All of them at once, as their number is small and one that is dead must not cost its time-out.
    async fn ask_upstream(&self, name: &Name, kind: RecordType) -> Option<Message> {
        let mut asked = JoinSet::new();
        for upstream in self.upstream.iter().copied() {
            let name = name.clone();
            asked.spawn(async move { ask(upstream, &name, kind).await });
        }
        let first = async {
            while let Some(answered) = asked.join_next().await {
                match answered {
                    Ok(Ok(message)) => return Some(message),
                    Ok(Err(why)) => debug!(%why, "an upstream resolver failed"),
                    Err(why) => debug!(%why, "asking an upstream resolver failed"),
                }
            }
            None
        };
        tokio::time::timeout(UPSTREAM_TIMEOUT, first).await.ok().flatten()
    }

    fn cached(&self, key: &(Name, RecordType)) -> Option<Message> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, message)| message.clone())
    }

    fn remember(&self, key: (Name, RecordType), message: &Message) {
        let ttl = message.answers.iter().map(|r| r.ttl).min().unwrap_or(TTL_SECONDS);
        let until = Instant::now() + Duration::from_secs(ttl.into()).min(CACHE_TIME);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES_MAX {
            let now = Instant::now();
            cache.retain(|_, (until, _)| now < *until);
            if cache.len() >= CACHE_ENTRIES_MAX {
                cache.clear();
            }
        }
        cache.insert(key, (until, message.clone()));
    }
}

/// One question over UDP, again over TCP where the answer was cut.
async fn ask(upstream: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Message> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(hickory_proto::op::Query::query(name.clone(), kind));
    let bytes = query.to_vec().map_err(std::io::Error::other)?;
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(UDP_BYTES_MAX)];
    let answer = loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == query.metadata.id => break answer,
            _ => {}
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&framed(&bytes)).await?;
    let length = stream.read_u16().await?;
    let mut whole = vec![0; usize::from(length)];
    stream.read_exact(&mut whole).await?;
    Message::from_vec(&whole).map_err(std::io::Error::other)
}

/// A message as TCP carries it: its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap_or(0).to_be_bytes()[..], message].concat()
}

fn record(owner: &Name, data: &Data) -> Option<Record> {
    let data = match data {
        Data::A(address) => RData::A(A(*address)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, fqdn(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(fqdn(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(fqdn(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Record::from_rdata(owner.clone(), TTL_SECONDS, data))
}

fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_str(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Says for how long a name's absence may be remembered.
fn authority() -> Option<Record> {
    let soa = SOA::new(fqdn(&format!("ns.dns.{DOMAIN}"))?, fqdn(&format!("hostmaster.{DOMAIN}"))?, 1, 7200, 1800, 86400, TTL_SECONDS);
    Some(Record::from_rdata(fqdn(DOMAIN)?, TTL_SECONDS, RData::SOA(soa)))
}
