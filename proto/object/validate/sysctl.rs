//! Kernel parameters of a Pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, text};
use crate::field::{Errors, Path};

const BYTES_MAX: usize = 253;

pub(super) fn check(spec: &Value, path: &Path, errors: &mut Errors) {
    let context = &spec["securityContext"];
    let mut seen = BTreeSet::new();
    for (index, one) in list(context, "sysctls").iter().enumerate() {
        let (name, path) = (text(one, "name"), path.child("securityContext").child("sysctls").index(index).child("name"));
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_name(name) {
            let regex = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(&path, name, &format!("must have at most {BYTES_MAX} characters and match regex {regex}"));
        } else if !seen.insert(name) {
            errors.duplicate(&path, name);
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.iter().all(|c| is_plain(*c) || matches!(c, b'-' | b'_'))
            && bytes.first().is_some_and(|c| is_plain(*c))
            && bytes.last().is_some_and(|c| is_plain(*c))
    };
    name.len() <= BYTES_MAX && name.split(['.', '/']).all(is_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_with_dots_or_slashes() {
        for (name, expected) in
            [("kernel.shm_rmid_forced", true), ("net/ipv4/a", true), ("foo-", false), ("kernel..a", false), ("Kernel", false)]
        {
            assert_eq!(is_name(name), expected, "{name}");
        }
    }
}
