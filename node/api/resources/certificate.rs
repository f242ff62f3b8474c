//! CertificateSigningRequests: who asks is who is logged in, and who decides or signs needs leave to for that signer
//! (`plugin/pkg/admission/certificates`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skein_object::field::{Errors, Path};
use skein_object::registry::Subresource;
use skein_object::{Status, meta};
use skein_quic::SigningRequest;

use crate::authenticate::User;
use crate::route::{Attributes, Target};
use crate::{Context, authorize};

pub(crate) const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// Writes down who asks, and refuses what no signer may ever sign.
pub(crate) fn admit(target: &Target, object: &mut Value) -> Result<(), Status> {
    let name = meta::name(object).to_string();
    let info = target.caller.user.info();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    for field in ["username", "uid", "groups", "extra"] {
        match info.get(field) {
            Some(value) => spec.insert(field.into(), value.clone()),
            None => spec.shift_remove(field),
        };
    }
    let request = spec.get("request").and_then(Value::as_str).unwrap_or_default();
    let bytes = STANDARD.decode(request).unwrap_or_default();
    let parsed = match SigningRequest::from_pem(&bytes) {
        Ok(parsed) => parsed,
        Err(why) => {
            let mut errors = Errors::default();
            let value = json!(bytes);
            errors.invalid(&Path::new("spec").child("request"), value, why.to_string().trim_start_matches("certificate: "));
            target.resource.check(object, None, &mut errors);
            return Err(Status::invalid(&target.resource, &name, errors));
        }
    };
    if spec.get("signerName").is_some_and(|signer| signer == CLIENT_SIGNER) && parsed.subject().groups.iter().any(|g| g == MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(Status::forbidden(&target.resource, &name, &why));
    }
    Ok(())
}

/// Whether the caller may approve for the request's signer, or write its certificate.
pub(crate) fn may_decide(context: &Context, target: &Target) -> Result<(), Status> {
    let verb = match target.subresource {
        Some(Subresource::Approval) => "approve",
        Some(Subresource::Status) => "sign",
        _ => return Ok(()),
    };
    let request = context.store.local().state.show(&target.key()).unwrap_or_default();
    let signer = request.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default();
    if may(context, &target.caller.user, verb, signer) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(&target.resource, &target.name, &why))
}

/// Whether a user may do something for a signer, or for all of its domain.
pub(super) fn may(context: &Context, user: &User, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    [signer, &domain].into_iter().any(|name| {
        let attributes = Attributes::Resource {
            verb,
            group: "certificates.k8s.io",
            resource: "signers",
            namespace: "",
            name,
            subresource: "",
            fields: "",
        };
        authorize::is_allowed(context, user, &attributes)
    })
}
