//! Probes and lifecycle hooks: what they do, and when.

use serde_json::Value;

use super::super::at::At;
use crate::field::Errors;
use crate::names;

/// Signals that an image's stop signal may be replaced with, `SIGRTMIN` and `SIGRTMAX` with numbers apart.
const SIGNALS: [&str; 38] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMAX",
    "SIGRTMIN+15",
    "SIGRTMAX-14",
];

/// A container's probes and hooks.
pub(super) fn check(container: &At<'_>, spec: &At<'_>, errors: &mut Errors) {
    let grace = spec.value.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if let Some(lifecycle) = container.given("lifecycle") {
        for hook in ["postStart", "preStop"].iter().filter_map(|hook| lifecycle.given(hook)) {
            handler(&hook, grace, errors);
        }
        if lifecycle.given("stopSignal").is_some() {
            stop_signal(&lifecycle, spec, errors);
        }
    }
    for which in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(at) = container.given(which) {
            probe(&at, which, grace, errors);
        }
    }
}

fn probe(at: &At<'_>, which: &str, grace: Option<i64>, errors: &mut Errors) {
    handler(at, grace, errors);
    at.non_negative(&["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"], errors);
    at.number("terminationGracePeriodSeconds", 1..=i64::MAX, "must be greater than 0", errors);
    match (which, at.given("terminationGracePeriodSeconds")) {
        ("readinessProbe", Some(seconds)) => errors.invalid(&seconds.path, seconds.value.clone(), "must not be set for readinessProbes"),
        ("readinessProbe", None) => {}
        _ => at.number("successThreshold", 1..=1, "must be 1", errors),
    }
}

fn handler(at: &At<'_>, grace: Option<i64>, errors: &mut Errors) {
    let mut given = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"].into_iter().filter_map(|kind| Some((kind, at.given(kind)?)));
    match given.next() {
        None => errors.required(&at.path, "must specify a handler type"),
        Some(("exec", exec)) => exec.require(&["command"], errors),
        Some(("httpGet", get)) => http_get(&get, errors),
        Some(("tcpSocket", socket)) => socket.port("port", errors),
        Some(("grpc", grpc)) => {
            grpc.port("port", errors);
            grpc.supported("mode", &["Plaintext", "TLS"], errors);
        }
        Some((_, sleep)) => {
            let seconds = sleep.int("seconds");
            if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(&sleep.path, seconds, &why);
            }
        }
    }
    for (_, more) in given {
        errors.forbidden(&more.path, "may not specify more than 1 handler type");
    }
}

fn http_get(at: &At<'_>, errors: &mut Errors) {
    at.require(&["path"], errors);
    at.port("port", errors);
    if !["HTTP", "HTTPS"].contains(&at.str("scheme")) {
        errors.unsupported(&at.child("scheme"), at.str("scheme"), &["HTTP", "HTTPS"]);
    }
    for header in at.each("httpHeaders") {
        errors.judge(&at.child("httpHeaders"), header.str("name"), names::http_header(header.str("name")));
    }
    at.supported("protocol", &["HTTP1", "HTTP2"], errors);
    if at.str("protocol") == "HTTP2" {
        if at.str("scheme") != "HTTP" {
            errors.invalid(&at.child("protocol"), "HTTP2", "is only supported with HTTP (H2C)");
        } else if !at.str("host").is_empty() {
            errors.invalid(&at.child("host"), at.str("host"), "must be empty when `protocol` is \"HTTP2\"");
        }
    }
}

fn stop_signal(lifecycle: &At<'_>, spec: &At<'_>, errors: &mut Errors) {
    match spec.given("os").map(|os| os.str("name")) {
        None => errors.forbidden(&lifecycle.child("stopSignal"), "may not be set for containers with empty `spec.os.name`"),
        Some("windows") => lifecycle.supported("stopSignal", &["SIGKILL", "SIGTERM"], errors),
        Some("linux") => {
            let numbered = (1..15).flat_map(|n| [format!("SIGRTMIN+{n}"), format!("SIGRTMAX-{n}")]).filter(|name| name != "SIGRTMAX-14");
            let all: Vec<String> = SIGNALS.iter().map(|name| (*name).to_owned()).chain(numbered).collect();
            lifecycle.supported("stopSignal", &all.iter().map(String::as_str).collect::<Vec<_>>(), errors);
        }
        Some(_) => {}
    }
}
