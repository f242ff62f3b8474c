//! PodCertificateRequests: that a request proves its key, and that what a signer answers is for it
//! (`pkg/apis/certificates/validation`, KEP-4317).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use skein_object::field::{Errors, Path, Problem};
use skein_object::validate::pod_certificate::answer;
use skein_quic::{Flaw, Issued, Proof};

use super::certificate;
use crate::Context;
use crate::admit::Caller;

pub(crate) const REQUESTS: &str = "podcertificaterequests.certificates.k8s.io";

/// A certificate begins when it is issued.
const NOT_BEFORE_SLACK: SignedDuration = SignedDuration::from_mins(5);
const LIFETIME_SECONDS_MIN: i64 = 3600;
/// Between a certificate's ends and the time at which the kubelet asks for the next one.
const REFRESH_SLACK_SECONDS: i64 = 600;

fn proof(request: &Value) -> Result<Proof, Flaw> {
    let text = request.pointer("/spec/stubPKCS10Request").and_then(Value::as_str).unwrap_or_default();
    Proof::from_der(&STANDARD.decode(text).map_err(|_| Flaw::Request)?)
}

/// Says what is wrong with a new request's proof.
pub(crate) fn check(request: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("stubPKCS10Request");
    match proof(request) {
        Ok(_) => {}
        Err(Flaw::Key(shown, why)) => errors.invalid(&path, shown, why),
        Err(flaw) => errors.add(&path, Problem::Omitted(flaw.to_string())),
    }
}

/// Says what is wrong with the certificates that a signer writes.
pub(crate) fn check_answer(request: &Value, old: &Value, now: Timestamp, errors: &mut Errors) {
    if answer(request) != Some("Issued") || answer(old).is_some() {
        return;
    }
    let status = &request["status"];
    let path = Path::new("status");
    let (chain_path, chain) = (path.child("certificateChain"), status["certificateChain"].as_str().unwrap_or_default());
    let issued = match Issued::from_chain(chain) {
        Ok(issued) => issued,
        Err(flaw) => return errors.invalid(&chain_path, chain, &flaw.to_string()),
    };
    for name in &issued.dns_names {
        if name.is_empty() {
            errors.invalid(&chain_path, "", "leaf certificate should not contain empty DNSName");
        } else if name.contains("..") {
            errors.invalid(&chain_path, name.as_str(), "leaf certificate's DNSName should not contain '..'");
        } else if name.starts_with('.') || name.ends_with('.') {
            errors.invalid(&chain_path, name.as_str(), "leaf certificate's DNSName should not start or end with '.'");
        }
    }
    match proof(request) {
        Ok(proof) if issued.is_for(&proof) => {}
        Ok(_) => return errors.invalid(&chain_path, chain, "leaf certificate was not issued to the requested public key"),
        Err(flaw) => return errors.add(&Path::new("spec").child("stubPKCS10Request"), Problem::Omitted(flaw.to_string())),
    }
    let before = errors.len();
    let mut time = |field: &str, what: &str| {
        let time = status[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        if time.is_none() {
            errors.required(&path.child(field), &format!("must be present and {what}"));
        }
        time.unwrap_or_default()
    };
    let as_issued = "consistent with the issued certificate";
    let (not_before, not_after) = (time("notBefore", as_issued), time("notAfter", as_issued));
    let refresh = time("beginRefreshAt", "in the range [notbefore+10min, notafter-10min]");
    if errors.len() > before {
        return;
    }
    let seconds_max = request.pointer("/spec/maxExpirationSeconds").and_then(Value::as_i64).unwrap_or_default();
    let lifetime = issued.not_after - issued.not_before;
    let over = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({seconds_max})");
    let mut wrong = |field: &str, value: String, why: &str| errors.invalid(&path.child(field), value, why);
    if not_before.as_second() != issued.not_before {
        wrong("notBefore", not_before.to_string(), "must be set to the NotBefore time encoded in the leaf certificate");
    } else if not_before.duration_since(now).abs() >= NOT_BEFORE_SLACK {
        wrong("notBefore", not_before.to_string(), "must be set to within 5 minutes of kube-apiserver's current time");
    } else if not_after.as_second() != issued.not_after {
        wrong("notAfter", not_after.to_string(), "must be set to the NotAfter time encoded in the leaf certificate");
    } else if lifetime < LIFETIME_SECONDS_MIN {
        wrong("certificateChain", format!("{lifetime}s"), "leaf certificate lifetime must be >= 1 hour");
    } else if lifetime > seconds_max {
        wrong("certificateChain", format!("{lifetime}s"), &over);
    } else if refresh.as_second() < issued.not_before + REFRESH_SLACK_SECONDS {
        wrong("beginRefreshAt", refresh.to_string(), "must be at least 10 minutes after status.notBefore");
    } else if refresh.as_second() > issued.not_after - REFRESH_SLACK_SECONDS {
        wrong("beginRefreshAt", refresh.to_string(), "must be at least 10 minutes before status.notAfter");
    }
}

/// Whoever answers a request needs leave to sign for its signer.
pub(crate) fn may_answer(context: &Context, caller: &Caller, new: &Value, old: &Value) -> Result<(), Errors> {
    let signer = old.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default();
    if new.get("status") == old.get("status") || certificate::may(context, &caller.user, "sign", signer) {
        return Ok(());
    }
    let mut errors = Errors::default();
    let why = format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", caller.user.name);
    errors.forbidden(&Path::new("spec").child("signerName"), &why);
    Err(errors)
}
