//! What may be asked of a list and of a watch together (`ListOptions`), in the words of apimachinery.

use skein_object::Status;
use skein_object::field::{Errors, Path};
use skein_object::status::Details;

use crate::route::Query;

const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

pub(super) fn of_list(query: &Query) -> Result<(), Status> {
    let (mut errors, path) = (Errors::default(), Path::new("resourceVersionMatch"));
    if let Some(wanted) = query.get("resourceVersionMatch") {
        if query.get("resourceVersion").is_none() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if query.get("continue").is_some() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !matches!(wanted, EXACT | NOT_OLDER) {
            errors.unsupported(&path, wanted, &[EXACT, NOT_OLDER, ""]);
        }
        if wanted == EXACT && query.get("resourceVersion") == Some("0") {
            errors.forbidden(&path, r#"resourceVersionMatch "exact" is forbidden for resourceVersion "0""#);
        }
    }
    if query.get("sendInitialEvents").is_some() {
        errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
    refuse(&errors)
}

pub(super) fn of_watch(query: &Query) -> Result<(), Status> {
    let (mut errors, path) = (Errors::default(), Path::new("resourceVersionMatch"));
    let wanted = query.get("resourceVersionMatch");
    let sends = query.get("sendInitialEvents").is_some();
    if sends && wanted != Some(NOT_OLDER) {
        errors.forbidden(&path, &format!("sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}"));
    }
    if let Some(wanted) = wanted {
        if !sends {
            errors.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if wanted != NOT_OLDER {
            errors.unsupported(&path, wanted, &[NOT_OLDER]);
        }
        if query.get("continue").is_some() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
    refuse(&errors)
}

fn refuse(errors: &Errors) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(invalid("ListOptions", errors)) }
}

/// What is wrong with a request's parameters, which have a kind like objects.
pub(super) fn invalid(kind: &str, errors: &Errors) -> Status {
    let about = Details { group: "meta.k8s.io".into(), kind: kind.into(), causes: errors.causes(), ..Details::default() };
    Status::failure(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {errors}")).about(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: impl Fn(&Query) -> Result<(), Status>, query: &str, expected: &str) {
        let found = verdict(&Query::parse(query)).err().map_or(String::new(), |status| status.message);
        assert_eq!(found.strip_prefix("ListOptions.meta.k8s.io \"\" is invalid: ").unwrap_or(&found), expected, "{query}");
    }

    #[test]
    fn how_versions_match_is_said_where_it_means_something() {
        check(of_list, "", "");
        check(of_list, "resourceVersion=5&resourceVersionMatch=Exact", "");
        check(of_list, "resourceVersion=0&resourceVersionMatch=NotOlderThan", "");
        let because = |what: &str| format!("resourceVersionMatch: Forbidden: resourceVersionMatch {what}");
        check(of_list, "resourceVersionMatch=Exact", &because("is forbidden unless resourceVersion is provided"));
        check(of_list, "resourceVersion=0&resourceVersionMatch=Exact", &because(r#""exact" is forbidden for resourceVersion "0""#));
        let unknown = r#"resourceVersionMatch: Unsupported value: "Any": supported values: "Exact", "NotOlderThan", """#;
        check(of_list, "resourceVersion=5&resourceVersionMatch=Any", unknown);
        check(of_list, "sendInitialEvents=true", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list");
        check(of_watch, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "");
        check(
            of_watch,
            "sendInitialEvents=true",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
        check(of_watch, "resourceVersionMatch=NotOlderThan", &because("is forbidden for watch unless sendInitialEvents is provided"));
    }
}
