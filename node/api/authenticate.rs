//! Who asks: the subject of a client certificate, whoever a token stands for (a ServiceAccount, a member to be, a user of
//! an OpenID provider), whoever they may act for, or nobody.

mod bootstrap;
pub(crate) mod certificate;
mod legacy;
pub(crate) mod oidc;
mod protocol;
mod tokens;

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use skein_object::{Key, Status, registry};
use skein_quic::Subject;
use tracing::debug;

pub use legacy::LegacyClaims;
use tokens::Claims;
pub(crate) use tokens::{API_AUDIENCE, configuration, jwks, verify};
pub use tokens::{Audience, Bound, Claims as TokenClaims, Error as TokenError, OF_CLUSTER, TOKEN_KEYS, TokenKey};

use crate::route::Attributes;
use crate::{Context, authorize, convert};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

// === impl User ===

impl User {
    fn of_subject(Subject { user, mut groups }: Subject) -> Self {
        groups.push("system:authenticated".into());
        Self { name: user, groups, ..Self::default() }
    }

    fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// Who a request is from: the subject of its client's certificate, or else the bearer of its token. Who shows something
    /// that is not believed is not taken for nobody.
    pub(crate) async fn of_request(
        context: &Context,
        subject: Result<Option<Subject>, String>,
        headers: &mut HeaderMap,
    ) -> Result<Self, Status> {
        let token = bearer(headers).map(String::from).map_or_else(|| protocol::take_bearer(headers), |token| Ok(Some(token)));
        match (subject, token.map_err(|why| refused(&why))?) {
            (Ok(Some(subject)), _) => Ok(Self::of_subject(subject)),
            (_, Some(token)) => Self::of_token(context, &token, &[API_AUDIENCE]).await.map_err(|why| refused(&why)),
            (Ok(None), None) => Ok(Self::anonymous()),
            (Err(why), None) => Err(refused(&why)),
        }
    }

    /// Whom a token stands for; `Err` says why it is not believed.
    pub(crate) async fn of_token(context: &Context, token: &str, audiences: &[&str]) -> Result<Self, String> {
        if let Some(provider) = &context.openid
            && tokens::issuer_of(token).as_deref() == Some(provider.issuer())
        {
            return provider.user(token).await;
        }
        if let Some(user) = bootstrap::user(token, &|key| secret(context, key)) {
            return Ok(user);
        }
        verify(context, token, audiences).map(|claims| Self::of_claims(&claims)).map_err(|why| why.to_string())
    }

    pub(crate) fn of_claims(claims: &Claims) -> Self {
        let namespace = &claims.kubernetes.namespace;
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
        Self {
            name: claims.sub.clone(),
            uid: claims.kubernetes.serviceaccount.uid.clone(),
            groups: groups.map(String::from).into(),
            extra: claims.extra(),
        }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// `authentication/v1` UserInfo.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    pub(crate) fn of_info(info: &Value) -> Self {
        let of = |field: &str| info[field].as_str().unwrap_or_default().to_string();
        Self {
            name: of("username"),
            uid: of("uid"),
            groups: serde_json::from_value(info["groups"].clone()).unwrap_or_default(),
            extra: serde_json::from_value(info["extra"].clone()).unwrap_or_default(),
        }
    }

    /// Impersonation: `Impersonate-User`, `-Group`, `-Uid`, `-Extra-…`, each allowed by its own rule.
    pub(crate) fn acting_for(self, context: &Context, headers: &HeaderMap) -> Result<Self, Status> {
        let texts =
            |name: &str| -> Vec<String> { headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(String::from).collect() };
        let (name, groups, uid) = (texts("impersonate-user").pop(), texts("impersonate-group"), texts("impersonate-uid").pop());
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            if let (Some(key), Ok(value)) = (header.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
                extra.entry(key.into()).or_default().push(value.into());
            }
        }
        let Some(name) = name else {
            if groups.is_empty() && uid.is_none() && extra.is_empty() {
                return Ok(self);
            }
            return Err(Status::internal(format!("requested {groups:?} without impersonating a user")));
        };
        let may = |group: &str, resource: &str, namespace: &str, name: &str, subresource: &str| {
            let attributes = Attributes::Resource { verb: "impersonate", group, resource, namespace, name, subresource, fields: "" };
            authorize::check(context, &self, &attributes)
        };
        const AUTHENTICATION: &str = "authentication.k8s.io";
        let mut all = groups.clone();
        match account_of(&name) {
            Some((namespace, account)) => {
                may("", "serviceaccounts", namespace, account, "")?;
                if groups.is_empty() {
                    all = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
                }
            }
            None => may("", "users", "", &name, "")?,
        }
        for group in &groups {
            may("", "groups", "", group, "")?;
        }
        if let Some(uid) = &uid {
            may(AUTHENTICATION, "uids", "", uid, "")?;
        }
        for (key, values) in &extra {
            for value in values {
                may(AUTHENTICATION, "userextras", "", value, key)?;
            }
        }
        let anonymous = name == "system:anonymous";
        let class = if anonymous { "system:unauthenticated" } else { "system:authenticated" };
        if !all.iter().any(|g| g == class) {
            all.push(class.into());
        }
        Ok(Self { name, uid: uid.unwrap_or_default(), groups: all, extra })
    }
}

/// Namespace and name of the ServiceAccount that a user's name stands for.
pub(crate) fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// A Secret as it is now on this node; none where it cannot be opened.
fn secret(context: &Context, key: &Key) -> Option<Value> {
    let state = context.store.local().state;
    convert::opened(context, registry::by_key(key.resource())?, key, state.get(key)?).ok()
}

fn refused(why: &str) -> Status {
    debug!(why, "what a client shows is not believed");
    Status::unauthorized()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|t| !t.is_empty())
}
