//! The cluster's own endpoints: joining, tokens, status.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_api::{Cluster, TokenClaims};
use skein_command::{Cause, Write};
use skein_lead::{Log, Reports};
use skein_object::cipher::Keyring;
use skein_object::{Key, Record, Status};
use skein_peer::{Request, Response};
use skein_quic::Identity;
use skein_quic::authority::{certificate_hash, request_key_hash};
use skein_store::{Handle, Member, Role};

use crate::backup::Frames;
use crate::directory::Directory;
use crate::renewal::{self, RenewalAnswer, RenewalRequest};
use crate::rotation::Wish;
use crate::{Token, found};

/// Where tokens are kept: beside the objects, outside the API.
const TOKENS: &str = "jointokens.skein.dev";

const TOKEN_LIFETIME_DEFAULT_SECONDS: i64 = 24 * 3600;

/// What a new node sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JoinRequest {
    pub(crate) token_id: String,
    pub(crate) token_secret: String,
    /// PKCS #10, PEM.
    pub(crate) signing_request: String,
    pub(crate) name: String,
    pub(crate) address: std::net::IpAddr,
    pub(crate) peer_port: u16,
    /// Of one that is to vote and to keep no state: `REGION/ZONE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witness: Option<String>,
}

/// What it gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JoinAnswer {
    pub(crate) id: u64,
    pub(crate) certificate: String,
    pub(crate) authority: String,
    #[serde(default)]
    pub(crate) cross: String,
    #[serde(default)]
    pub(crate) epoch: u64,
    /// Whether it has been taken for a witness.
    #[serde(default)]
    pub(crate) witness: bool,
}

/// A token at rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptToken {
    secret_hash: String,
    expires: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound: Option<Bound>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    key_hash: String,
    id: u64,
    name: String,
}

#[derive(Clone)]
pub(crate) struct Endpoints {
    pub(crate) store: Handle,
    pub(crate) directory: Directory,
    pub(crate) api_port: u16,
    pub(crate) epoch: u64,
    /// How long the certificates hold that this node signs for nodes.
    pub(crate) lifetime: Duration,
    pub(crate) keyring: Keyring,
    pub(crate) reports: Reports,
}

#[async_trait]
impl Cluster for Endpoints {
    async fn join(&self, request: Value) -> Result<Value, Status> {
        let request: JoinRequest = serde_json::from_value(request).map_err(|e| Status::bad_request(format!("join request: {e}")))?;
        if self.can_sign() {
            let answer = self.admit(&request).await?;
            return Ok(serde_json::to_value(answer).unwrap_or_default());
        }
        self.ask_leader(Request::Join(serde_json::to_vec(&request).unwrap_or_default().into())).await
    }

    async fn renew(&self, request: Value) -> Result<Value, Status> {
        let request: RenewalRequest = serde_json::from_value(request).map_err(|e| Status::bad_request(format!("renewal: {e}")))?;
        if self.can_sign() {
            let answer = self.readmit(&request).await?;
            return Ok(serde_json::to_value(answer).unwrap_or_default());
        }
        self.ask_leader(Request::Renew(serde_json::to_vec(&request).unwrap_or_default().into())).await
    }

    async fn status(&self) -> Value {
        let leadership = self.store.leadership();
        let view = self.store.local();
        let name_of = |id: u64| self.store.member(id).map(|m| m.name);
        let mut pods = BTreeMap::<String, usize>::new();
        for (_, entry) in view.state.range("pods/", None) {
            let node = entry.record.field("spec").and_then(|s| s["nodeName"].as_str().map(String::from));
            *pods.entry(node.unwrap_or_default()).or_default() += 1;
        }
        let members = self.store.members();
        let last = members.iter().filter_map(|m| m.matched).max().unwrap_or(view.applied);
        // The leader feeds few; of the others it knows what they report.
        let mut logs = if leadership.is_self { self.reports.logs() } else { BTreeMap::new() };
        let own = self.store.member(self.store.id()).map(|member| member.name).unwrap_or_default();
        logs.insert(own, Log { applied: view.applied, follows: self.store.follows() });
        let nodes: Vec<Value> = members.iter().map(|member| {
            let name = &member.member.name;
            let node = view.state.get(&Key::new("nodes", "", name));
            let conditions = node.and_then(|n| n.record.field("status")).map(|s| s["conditions"].clone()).unwrap_or_default();
            let is_ready = conditions.as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
            // A witness has no Node.
            let ready = (!member.is_witness()).then_some(is_ready);
            let labels = node.and_then(|n| n.record.field("metadata")).map(|m| m["labels"].clone()).unwrap_or_default();
            let (region, zone) = match member.member.witness.as_ref().and_then(|place| place.split_once('/')) {
                Some((region, zone)) => (region.into(), zone.into()),
                None => (labels["topology.kubernetes.io/region"].clone(), labels["topology.kubernetes.io/zone"].clone()),
            };
            let log = logs.get(name);
            let at = member.matched.or(log.map(|log| log.applied));
            json!({
                "follows": log.map(|log| log.follows.as_str()).filter(|follows| !follows.is_empty()), "region": region, "zone": zone, "name": name, "id": member.id, "role": role(member.role), "ready": ready,
                "address": member.member.address.rsplit_once(':').map(|(ip, _)| ip), "lag": at.map(|at| last.saturating_sub(at)),
                "pods": pods.get(name).copied().unwrap_or(0),
            })
        }).collect();
        json!({
            "answeredBy": name_of(self.store.id()), "failure": self.store.failure(), "leader": leadership.leader.and_then(name_of), "term": leadership.term,
            "quorum": self.store.has_quorum(), "pace": self.store.pace(), "revision": view.state.revision(), "applied": view.applied, "nodes": nodes,
        })
    }

    async fn backup(&self) -> Result<Box<dyn Iterator<Item = Vec<u8>> + Send>, Status> {
        let authority = self.directory.authority().ok().flatten();
        let no_key = || {
            Status::failure(503, "ServiceUnavailable", "this node does not vote, so it has no copy of the cluster's keys: ask another one")
        };
        let authority = authority.ok_or_else(no_key)?;
        let view = self.store.read().await.map_err(|e| Status::timeout(e.to_string()))?;
        Ok(Box::new(Frames::of(&view.state, &authority)))
    }

    async fn create_token(&self, request: Value) -> Result<Value, Status> {
        let seconds = request["expirationSeconds"].as_i64().unwrap_or(TOKEN_LIFETIME_DEFAULT_SECONDS);
        let expires = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).map_err(|e| Status::bad_request(e.to_string()))?;
        let ca = certificate_hash(&self.identity()?.authority_pem).map_err(Status::internal)?;
        let token = Token::draw(ca, self.addresses(""), expires);
        let kept = KeptToken { secret_hash: Token::secret_hash(&token.secret), expires, bound: None };
        let write = Write::create(&Key::new(TOKENS, "", &token.id), record(&token.id, &kept));
        self.store
            .propose(write.into())
            .await
            .map_err(Status::internal)?
            .result()
            .map_err(|_| Status::internal("the token's id is taken: try again"))?;
        Ok(json!({"token": token.to_string(), "expires": meta_time(expires)}))
    }

    async fn authority(&self, wish: Value) -> Result<Value, Status> {
        let wish: Wish = serde_json::from_value(wish).map_err(|e| Status::bad_request(format!("the wish for the CA: {e}")))?;
        if self.store.leadership().is_self {
            return self.lead_authority(&wish).await;
        }
        self.ask_leader(Request::Authority(serde_json::to_vec(&wish).unwrap_or_default().into())).await
    }

    async fn sign(&self, claims: &TokenClaims) -> Result<String, Status> {
        if !self.can_sign() {
            return self.ask_voters_to_sign(claims).await;
        }
        self.sign_here(claims).await
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// Checks the token, binds it to the key, signs, and lets the node follow the log. Safe to repeat.
    pub(crate) async fn admit(&self, request: &JoinRequest) -> Result<JoinAnswer, Status> {
        let key_hash = request_key_hash(&request.signing_request).map_err(|e| Status::bad_request(e.to_string()))?;
        skein_object::names::subdomain(&request.name).map_err(|why| Status::bad_request(format!("node name {:?}: {why}", request.name)))?;
        let bound = self.bind_token(request, &key_hash).await?;
        let member = Member {
            name: request.name.clone(),
            address: std::net::SocketAddr::new(request.address, request.peer_port).to_string(),
            witness: request.witness.clone(),
        };
        self.store.add_member(bound.id, member).await.map_err(|e| Status::timeout(e.to_string()))?;
        let address = request.address.to_string();
        let signed = self.sign_node(&request.name, &address, &request.signing_request);
        let certificate = signed.map_err(|e| Status::bad_request(e.to_string()))?;
        let identity = self.identity()?;
        let (authority, cross) = (identity.authority_pem, identity.cross_pem);
        Ok(JoinAnswer { id: bound.id, certificate, authority, cross, epoch: self.epoch, witness: request.witness.is_some() })
    }

    /// Signs anew for a node that the cluster knows.
    pub(crate) async fn readmit(&self, request: &RenewalRequest) -> Result<RenewalAnswer, Status> {
        let view = self.store.read().await.map_err(|e| Status::timeout(e.to_string()))?;
        if !renewal::is_known(&view.state, request) {
            let why = format!("the cluster does not know node {:?} by this key: it has to join anew", request.name);
            return Err(Status::failure(401, "Unauthorized", why));
        }
        let certificate = self.sign_member(request).map_err(Status::internal)?;
        let identity = self.identity()?;
        Ok(RenewalAnswer { certificate, authority: identity.authority_pem, cross: identity.cross_pem })
    }

    fn identity(&self) -> Result<Identity, Status> {
        self.directory.identity().ok().flatten().ok_or_else(|| Status::internal("this node has no identity"))
    }

    fn can_sign(&self) -> bool {
        matches!(self.directory.authority(), Ok(Some(_)))
    }

    /// Only voters can sign; the leader is one.
    pub(crate) async fn ask_leader(&self, request: Request) -> Result<Value, Status> {
        let leader = self.store.leadership().leader.and_then(|id| self.store.member(id));
        let leader = leader.ok_or_else(|| Status::timeout("the cluster has no leader at the moment: try again"))?;
        match self.store.call(&leader, request).await {
            Ok(Response::Raft(json)) => serde_json::from_slice(&json).map_err(Status::internal),
            Ok(Response::Failed(json)) => Err(serde_json::from_str(&json).unwrap_or_else(|_| Status::internal(json))),
            Ok(_) => Err(Status::internal("unexpected answer from the leader")),
            Err(why) => Err(Status::timeout(format!("the leader cannot be reached: {why}"))),
        }
    }

    /// Where the APIs of the nodes are, but for this one's.
    pub(crate) fn addresses(&self, except: &str) -> Vec<String> {
        let members = self.store.members().into_iter().filter(|m| m.member.name != except && !m.is_witness());
        let ips = members.filter_map(|m| m.member.address.rsplit_once(':').map(|(ip, _)| ip.to_string()));
        ips.map(|ip| format!("{ip}:{}", self.api_port)).collect()
    }

    async fn bind_token(&self, request: &JoinRequest, key_hash: &str) -> Result<Bound, Status> {
        let refuse =
            |why: &str| Status::failure(401, "Unauthorized", format!("the join token {why}; make a new one with `skein token create`"));
        let key = Key::parse(&format!("{TOKENS}/{}", request.token_id)).ok_or_else(|| refuse("is malformed"))?;
        for _ in 0..8 {
            let view = self.store.read().await.map_err(|e| Status::timeout(e.to_string()))?;
            let entry = view.state.get(&key).ok_or_else(|| refuse("is not known to this cluster"))?;
            let mut token: KeptToken =
                entry.record.field("token").and_then(|t| serde_json::from_value(t).ok()).ok_or_else(|| refuse("is damaged"))?;
            if token.secret_hash != Token::secret_hash(&request.token_secret) {
                return Err(refuse("has a wrong secret"));
            }
            if let Some(bound) = token.bound {
                return if bound.key_hash == key_hash {
                    Ok(bound)
                } else {
                    Err(refuse(&format!("was used already, by node {}", bound.name)))
                };
            }
            if token.expires < Timestamp::now() {
                return Err(refuse(&format!("expired at {}", meta_time(token.expires))));
            }
            if self.store.members().iter().any(|m| m.member.name == request.name) {
                return Err(Status::failure(
                    409,
                    "AlreadyExists",
                    format!("a node named {:?} is in the cluster already: choose another --name", request.name),
                ));
            }
            let bound = Bound { key_hash: key_hash.into(), id: found::draw_id(), name: request.name.clone() };
            token.bound = Some(bound.clone());
            let write = Write::update(&key, entry.revision, &entry.record, &record(&request.token_id, &token));
            match self.store.propose(write.into()).await.map_err(|e| Status::timeout(e.to_string()))?.result() {
                Ok(_) => return Ok(bound),
                Err(refusal) if refusal.cause() == Cause::Conflict => {}
                Err(refusal) => return Err(Status::internal(format!("{:?}", refusal.cause()))),
            }
        }
        Err(refuse("is being used by another node at this moment"))
    }
}

fn record(id: &str, token: &KeptToken) -> Record {
    Record::from_value(&json!({"metadata": {"name": id}, "token": token}))
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Standby => "standby",
        Role::Replica => "replica",
        Role::Witness => "witness",
        Role::Spare => "spare",
    }
}

fn meta_time(at: Timestamp) -> String {
    skein_object::meta::time(at)
}
