//! Admission that is configured by objects: webhooks change and judge a request, policies judge it.
//!
//! ```text
//!   mutate: webhooks, one after the other, some again ─▶ defaults, validation ─▶ judge: policies, then webhooks at once
//! ```
//!
//! What is in force follows from the state that the node has; where nothing is, a request costs two look-ups.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use serde_json::Value;
use skein_object::admission::dynamic::{Attributes, Kind, Objects};
use skein_object::admission::mutation::{Failed, mutate};
use skein_object::admission::node_restriction::{self, Attempt};
use skein_object::admission::policy::{InForce, Violation, seen_by, violations};
use skein_object::admission::webhook::{Answer, Webhook, named};
use skein_object::expression::Authorize;
use skein_object::registry::Subresource;
use skein_object::status::Cause;
use skein_object::{Key, Record, Resource, Status, patch};
use skein_state::State;

use crate::authenticate::User;
use crate::authorize::{AskedByExpressions, node};
use crate::route::Target;
use crate::verbs::Author;
use crate::{Context, call, convert};

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const MUTATING_POLICIES: &str = "mutatingadmissionpolicies.admissionregistration.k8s.io";
const MUTATING_BINDINGS: &str = "mutatingadmissionpolicybindings.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";

/// What a request's client is told beside the answer. A cheap clone of one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

/// Whoever makes a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) user: User,
    pub(crate) warnings: Warnings,
}

/// What is done to which object.
pub(crate) struct Action<'a> {
    pub(crate) operation: &'static str,
    pub(crate) resource: &'a Resource,
    /// Of the object, where it is not the resource's.
    pub(crate) kind: Option<Kind>,
    pub(crate) subresource: &'a str,
    pub(crate) key: &'a Key,
    pub(crate) dry_run: bool,
}

/// The admission of one request.
pub(crate) struct Admission<'a> {
    context: &'a Context,
    action: &'a Action<'a>,
    /// The versions in which the same objects are served.
    versions: Vec<Arc<Resource>>,
    namespace_object: Value,
    user: Value,
    authorize: Arc<dyn Authorize>,
    state: State,
    warnings: Warnings,
}

// === impl Warnings ===

impl Warnings {
    pub(crate) fn add(&self, warning: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Admission ===

impl<'a> Admission<'a> {
    /// `None` where nothing is configured.
    pub(crate) fn of(context: &'a Context, caller: &Caller, action: &'a Action<'a>) -> Option<Self> {
        let state = context.store.local().state;
        let is_any = |resource: &str| state.range(&Key::prefix(resource, ""), None).next().is_some();
        if ![MUTATING, MUTATING_POLICIES, VALIDATING, POLICIES].iter().any(|configured| is_any(configured)) {
            return None;
        }
        let namespace = action.key.namespace();
        let namespace_object = if namespace.is_empty() { None } else { state.show(&Key::new("namespaces", "", namespace)) };
        let mut versions = context.catalog.all(&state);
        versions.retain(|version| version.stored() == action.resource.stored());
        let namespace_object = namespace_object.unwrap_or_default();
        let (user, warnings) = (caller.user.info(), caller.warnings.clone());
        let authorize: Arc<dyn Authorize> = Arc::new(AskedByExpressions(context.clone()));
        Some(Self { context, action, versions, namespace_object, user, authorize, state, warnings })
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes {
            operation: self.action.operation,
            resource: self.action.resource,
            requested: self.action.resource,
            versions: &self.versions,
            kind: self.action.kind,
            subresource: self.action.subresource,
            namespace: self.action.key.namespace(),
            name: self.action.key.name(),
            namespace_object: &self.namespace_object,
            user: &self.user,
            authorize: &self.authorize,
            dry_run: self.action.dry_run,
        }
    }

    /// Lets policies and webhooks change the object; returns whether any has.
    pub(crate) async fn mutate(&self, object: &mut Value, old: &Value) -> Result<bool, Status> {
        let configurations = self.state.show_all(MUTATING);
        let before = object.clone();
        self.change_by_policies(object, old, false).await?;
        let by_policies = object.clone();
        // What each of those that want to see the object again has made of it.
        let mut again: Vec<((Webhook, &Resource), Value)> = Vec::new();
        for (webhook, seen) in named(&configurations, &self.attributes()) {
            if self.ask_to_change(&webhook, seen, object, old).await? && webhook.wants_again() {
                again.push(((webhook, seen), object.clone()));
            }
        }
        if *object != by_policies {
            self.change_by_policies(object, old, true).await?;
        }
        for ((webhook, seen), made) in &again {
            if made != object {
                self.ask_to_change(webhook, seen, object, old).await?;
            }
        }
        Ok(*object != before)
    }

    /// Whether the webhook is meant; if so, the object becomes what it makes of it.
    async fn ask_to_change(&self, webhook: &Webhook, seen: &Resource, object: &mut Value, old: &Value) -> Result<bool, Status> {
        let (new, old) = (self.shown(seen, object).await?, self.shown(seen, old).await?);
        let objects = Objects { new: &new, old: &old };
        if !self.is_meant(webhook, seen, objects)? {
            return Ok(false);
        }
        let answer = self.ask(webhook, seen, objects).await?;
        let Some(change) = answer.and_then(|answer| answer.patch) else { return Ok(true) };
        if object.is_null() {
            let what = "attempted to modify the object, which is not supported for this operation";
            return Err(Status::internal(format!("admission webhook \"{}\" {what}", webhook.name())));
        }
        match patch::apply(patch::Kind::Json, &new, &change, seen.shape()) {
            Ok(patched) => *object = self.taken(seen, patched).await?,
            Err(patch::Error::Malformed(why)) => self.failed(webhook, &format!("received undecodable patch in webhook response: {why}"))?,
            // A patch that does not fit is nothing that the failure policy forgives.
            Err(patch::Error::Unprocessable(why) | patch::Error::Unknown(why)) => return Err(Status::internal(why)),
        }
        Ok(true)
    }

    /// Lets policies and webhooks judge what is to be.
    pub(crate) async fn judge(&self, new: &Value, old: &Value) -> Result<(), Status> {
        self.judge_by_policies(new, old).await?;
        let configurations = self.state.show_all(VALIDATING);
        let attributes = self.attributes();
        let webhooks = named(&configurations, &attributes);
        let verdicts = join_all(webhooks.iter().map(|(webhook, seen)| self.ask_to_judge(webhook, seen, new, old))).await;
        verdicts.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    async fn ask_to_judge(&self, webhook: &Webhook, seen: &Resource, new: &Value, old: &Value) -> Result<(), Status> {
        let (new, old) = (self.shown(seen, new).await?, self.shown(seen, old).await?);
        let objects = Objects { new: &new, old: &old };
        if !self.is_meant(webhook, seen, objects)? {
            return Ok(());
        }
        let answer = self.ask(webhook, seen, objects).await?;
        if answer.is_some_and(|answer| answer.patch.is_some()) {
            let why = "received invalid webhook response: validating webhook may not return response.patch";
            return self.failed(webhook, why);
        }
        Ok(())
    }

    async fn change_by_policies(&self, object: &mut Value, old: &Value, again: bool) -> Result<(), Status> {
        let parameters = |kind: &str, namespace: &str, name: &str| parameters(self.context, &self.state, kind, namespace, name);
        let (policies, bindings) = (self.state.show_all(MUTATING_POLICIES), self.state.show_all(MUTATING_BINDINGS));
        for policy in &policies {
            let Some(seen) = seen_by(policy, &self.attributes()) else { continue };
            let (shown, old) = (self.shown(seen, object).await?, self.shown(seen, old).await?);
            let mut new = Value::clone(&shown);
            let changed = {
                let in_force = InForce { policies: std::slice::from_ref(policy), bindings: &bindings, parameters: &parameters };
                mutate(&in_force, &self.attributes().seen_as(seen), &mut new, &old, again)
            };
            changed.map_err(|Failed { policy, binding, why }| {
                let why = format!("MutatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {why}");
                Status::forbidden(self.action.resource, self.action.key.name(), &why)
            })?;
            if new != *shown {
                *object = self.taken(seen, new).await?;
            }
        }
        Ok(())
    }

    async fn judge_by_policies(&self, new: &Value, old: &Value) -> Result<(), Status> {
        let (policies, bindings) = (self.state.show_all(POLICIES), self.state.show_all(BINDINGS));
        let mut denied = None;
        for policy in &policies {
            let Some(seen) = seen_by(policy, &self.attributes()) else { continue };
            let (new, old) = (self.shown(seen, new).await?, self.shown(seen, old).await?);
            let parameters = |kind: &str, namespace: &str, name: &str| parameters(self.context, &self.state, kind, namespace, name);
            let in_force = InForce { policies: std::slice::from_ref(policy), bindings: &bindings, parameters: &parameters };
            for violation in violations(&in_force, &self.attributes().seen_as(seen), Objects { new: &new, old: &old }) {
                let Violation { policy, binding, message, .. } = &violation;
                if violation.actions.iter().any(|action| action == "Warn") {
                    self.warnings
                        .add(format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"));
                }
                if violation.actions.iter().any(|action| action == "Deny") && denied.is_none() {
                    denied = Some(self.refusal(&violation));
                }
            }
        }
        denied.map_or(Ok(()), Err)
    }

    /// An object of the request in the version of whoever is asked about it.
    async fn shown<'v>(&self, seen: &Resource, object: &'v Value) -> Result<Cow<'v, Value>, Status> {
        self.converted(self.action.resource, seen, object).await
    }

    /// What somebody made of the object, as the request has it.
    async fn taken(&self, seen: &Resource, object: Value) -> Result<Value, Status> {
        let converted = match self.converted(seen, self.action.resource, &object).await? {
            Cow::Owned(converted) => Some(converted),
            Cow::Borrowed(_) => None,
        };
        Ok(converted.unwrap_or(object))
    }

    async fn converted<'v>(&self, from: &Resource, to: &Resource, object: &'v Value) -> Result<Cow<'v, Value>, Status> {
        // What a subresource is sent is the same in every version of its resource.
        if self.action.kind.is_some() { Ok(Cow::Borrowed(object)) } else { convert::between(&self.state, from, to, object).await }
    }

    /// Whether a webhook's selectors and conditions let the request through.
    fn is_meant(&self, webhook: &Webhook, seen: &Resource, objects: Objects<'_>) -> Result<bool, Status> {
        match webhook.is_meant(&self.attributes().seen_as(seen), objects) {
            Err(_) if webhook.ignores_failure() => Ok(false),
            Err(why) => Err(Status::forbidden(self.action.resource, self.action.key.name(), &why)),
            Ok(is_meant) => Ok(is_meant),
        }
    }

    /// What a webhook says; `None` where it could not be asked and that does not matter.
    async fn ask(&self, webhook: &Webhook, seen: &Resource, objects: Objects<'_>) -> Result<Option<Answer>, Status> {
        if self.action.dry_run && !webhook.may_dry_run() {
            let why = format!("admission webhook \"{}\" does not support dry run", webhook.name());
            return Err(Status::bad_request(why));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let review = webhook.review(&self.attributes().seen_as(seen), objects, &uid);
        let answer = call::post(&self.state, webhook.client(), webhook.timeout_seconds(), &review)
            .await
            .map_err(|why| format!("failed to call webhook: {why}"));
        match answer.and_then(|answer| webhook.verdict(&answer, &uid)) {
            Ok(Ok(answer)) => {
                answer.warnings.iter().for_each(|warning| self.warnings.add(warning.clone()));
                Ok(Some(answer))
            }
            Ok(Err(denial)) => {
                denial.warnings.iter().for_each(|warning| self.warnings.add(warning.clone()));
                Err(Status::failure(denial.code, &denial.reason, denial.message))
            }
            Err(why) => self.failed(webhook, &why).map(|()| None),
        }
    }

    fn failed(&self, webhook: &Webhook, why: &str) -> Result<(), Status> {
        if webhook.ignores_failure() {
            tracing::warn!(webhook = webhook.name(), why, "failed open");
            return Ok(());
        }
        Err(Status::internal(format!("failed calling webhook \"{}\": {why}", webhook.name())))
    }

    fn refusal(&self, violation: &Violation) -> Status {
        let Violation { policy, binding, message, reason, .. } = violation;
        let why = format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}");
        let mut status = Status::forbidden(self.action.resource, self.action.key.name(), &why);
        status.code = match reason.as_str() {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        status.reason.clone_from(reason);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause { reason: String::new(), message: why, field: String::new() });
        }
        status
    }
}

/// Refuses what a node's credentials are not for. Of an eviction or a token, `old` is the Pod.
pub(crate) fn restrict(context: &Context, caller: &Caller, action: &Action<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    let Some(node) = node::name_of(&caller.user) else { return Ok(()) };
    let forbidden = |why: String| Status::forbidden(action.resource, action.key.name(), &why);
    if node.is_empty() {
        return Err(forbidden(format!("could not determine node from user {:?}", caller.user.name)));
    }
    let registered = context.store.local().state.show(&Key::new("nodes", "", node)).unwrap_or_default();
    let attempt = Attempt {
        node,
        registered: &registered,
        operation: action.operation,
        resource: action.resource.stored(),
        subresource: action.subresource,
        namespace: action.key.namespace(),
        name: action.key.name(),
        new,
        old,
    };
    node_restriction::check(&attempt).map_err(forbidden)
}

/// What is done to a subresource that is sent something else than the object.
fn part<'a>(target: &'a Target, operation: &'static str, key: &'a Key) -> Result<Action<'a>, Status> {
    let subresource = target.subresource.map(Subresource::name).unwrap_or_default();
    let kind = target.subresource.and_then(kind_of);
    Ok(Action { operation, resource: &target.resource, kind, subresource, key, dry_run: target.dry_run()? })
}

/// [`restrict`] for what a subresource is sent that is about a Pod.
pub(crate) fn restrict_part(context: &Context, target: &Target, new: &Value, pod: &Value) -> Result<(), Status> {
    restrict(context, &target.caller, &part(target, "CREATE", &target.key())?, new, pod)
}

/// Admits what a subresource is sent that is not the object itself; returns what is taken instead.
pub(crate) async fn admit_part(
    context: &Context,
    target: &Target,
    operation: &'static str,
    new: Value,
    old: &Value,
) -> Result<Value, Status> {
    let key = target.key();
    let action = part(target, operation, &key)?;
    let Some(admission) = Admission::of(context, &target.caller, &action) else { return Ok(new) };
    let mut changed = new;
    admission.mutate(&mut changed, old).await?;
    admission.judge(&changed, old).await?;
    Ok(changed)
}

/// What is sent to a subresource.
pub(crate) fn kind_of(subresource: Subresource) -> Option<Kind> {
    let (group, kind) = match subresource {
        Subresource::Scale => ("autoscaling", "Scale"),
        Subresource::Binding => ("", "Binding"),
        Subresource::Eviction => ("policy", "Eviction"),
        Subresource::Token => ("authentication.k8s.io", "TokenRequest"),
        Subresource::Exec => ("", "PodExecOptions"),
        Subresource::Attach => ("", "PodAttachOptions"),
        Subresource::PortForward => ("", "PodPortForwardOptions"),
        _ => return None,
    };
    Some(Kind { group, version: "v1", kind })
}

/// The objects that a binding may name as parameters: `kind` is `v1/ConfigMap`, `example.com/v1/Limit`.
fn parameters(context: &Context, state: &State, kind: &str, namespace: &str, name: &str) -> Vec<Value> {
    let Some((api_version, kind)) = kind.rsplit_once('/') else { return Vec::new() };
    let all = context.catalog.all(state);
    let Some(resource) = all.iter().find(|r| r.kind == kind && r.api_version() == api_version) else { return Vec::new() };
    let namespace = if resource.namespaced { namespace } else { "" };
    let prefix = Key::prefix(resource.stored(), namespace);
    let found = state.range(&prefix, None).filter(|(key, _)| name.is_empty() || key.name() == name);
    found.filter_map(|(key, entry)| convert::opened(context, resource, key, entry).ok()).collect()
}

/// Admission for what the leader's controllers make without asking the API. A cheap clone.
#[derive(Clone)]
pub struct Admitter(Context);

// === impl Admitter ===

impl Admitter {
    pub(crate) fn new(context: Context) -> Self {
        Self(context)
    }

    /// What is stored instead of a new object that this user makes, if it is not what it was; `Err` says why it may not be.
    pub async fn admit(&self, user: &str, key: &Key, record: &Record) -> Result<Option<Record>, String> {
        let state = self.0.store.local().state;
        let Some(resource) = self.0.catalog.stored(&state, key.resource()) else { return Ok(None) };
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"].map(String::from).into();
        let caller = Caller { user: User { name: user.into(), groups, ..User::default() }, warnings: Warnings::default() };
        let action = Action { operation: "CREATE", resource: &resource, kind: None, subresource: "", key, dry_run: false };
        let mut object = resource.show(record, 0);
        if let Some(admission) = Admission::of(&self.0, &caller, &action) {
            if admission.mutate(&mut object, &Value::Null).await.map_err(|status| status.message)? {
                resource.fill_defaults(&mut object);
            }
            admission.judge(&object, &Value::Null).await.map_err(|status| status.message)?;
        }
        Author::of_controllers(None).record(&resource, None, &mut object);
        Ok(Some(resource.record(&object)))
    }
}
