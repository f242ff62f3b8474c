//! As whom a process runs and what it may do: user and groups, capabilities, no-new-privileges, seccomp.

use std::collections::HashSet;
use std::path::Path;
use std::str::FromStr;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::Error;
use crate::spec::{Process, User};

/// Numbers, once the container's own files have been read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks names up in the container's files, whose root is this process's root by now.
pub(crate) fn identify(user: &User) -> Result<Identity, Error> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    resolve(user, &read("/etc/passwd"), &read("/etc/group"))
}

fn resolve(user: &User, passwd: &str, group: &str) -> Result<Identity, Error> {
    let (name, group_name) = user.name.split_once(':').map_or((user.name.as_str(), None), |(u, g)| (u, Some(g)));
    let accounts: Vec<Vec<&str>> = passwd.lines().map(|l| l.split(':').collect()).filter(|f: &Vec<&str>| f.len() >= 6).collect();
    let number: Option<u32> = if name.is_empty() { Some(0) } else { name.parse().ok() };
    let account = accounts.iter().find(|f| match number {
        Some(uid) => f[2].parse() == Ok(uid),
        None => f[0] == name,
    });
    let uid = match (number, account) {
        (Some(uid), _) => uid,
        (None, Some(found)) => {
            found[2].parse().map_err(|_| Error::Process(format!("user {name:?} has no number in the container's /etc/passwd")))?
        }
        (None, None) => {
            return Err(Error::Process(format!("unable to find user {name}: no matching entries in passwd file")));
        }
    };
    let groups_of: Vec<Vec<&str>> = group.lines().map(|l| l.split(':').collect()).filter(|f: &Vec<&str>| f.len() >= 4).collect();
    let named_group = |name: &str| -> Result<u32, Error> {
        let by_number = name.parse().ok();
        let found = groups_of.iter().find(|f| f[0] == name).and_then(|f| f[2].parse().ok());
        by_number.or(found).ok_or_else(|| Error::Process(format!("unable to find group {name}: no matching entries in group file")))
    };
    let own = account.and_then(|f| f[3].parse().ok()).unwrap_or(0);
    let gid = match (user.group, group_name) {
        (Some(gid), _) => gid,
        (None, Some(name)) => named_group(name)?,
        (None, None) => own,
    };
    let mut groups = vec![gid];
    groups.extend(&user.additional_groups);
    if let Some(account) = account.filter(|_| !user.strict_groups) {
        let member = groups_of.iter().filter(|f| f[3].split(',').any(|m| m == account[0]));
        groups.extend(member.filter_map(|f| f[2].parse::<u32>().ok()));
    }
    groups.sort_unstable();
    groups.dedup();
    let home = account.map(|f| f[5]).filter(|h| !h.is_empty()).unwrap_or("/").to_string();
    Ok(Identity { uid, gid, groups, home })
}

/// Gives up everything that the process is not to have. Afterwards only exec is left to do.
pub(crate) fn drop_to(process: &Process, identity: &Identity) -> Result<(), Error> {
    let held = caps::read(None, CapSet::Permitted).map_err(|e| Error::Process(format!("cannot read capabilities: {e}")))?;
    let kept: HashSet<Capability> = process.capabilities.iter().filter_map(|name| Capability::from_str(name).ok()).collect();
    let kept: HashSet<Capability> = kept.intersection(&held).copied().collect();
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(Error::system("cannot set no-new-privileges"))?;
    } else {
        // Without no-new-privileges a filter takes CAP_SYS_ADMIN, which is about to go.
        process.seccomp.iter().try_for_each(|program| filter(program))?;
    }
    for capability in caps::all() {
        if !kept.contains(&capability) {
            // What is not in the bounding set already cannot be dropped from it.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    nix::sys::prctl::set_keepcaps(true).map_err(Error::system("cannot keep capabilities"))?;
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    setgroups(&groups).map_err(Error::system("cannot set groups"))?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setresgid(gid, gid, gid).map_err(Error::system("cannot set the group"))?;
    setresuid(uid, uid, uid).map_err(Error::system("cannot set the user"))?;
    nix::sys::prctl::set_keepcaps(false).map_err(Error::system("cannot let capabilities go"))?;
    caps::clear(None, CapSet::Ambient).map_err(|e| Error::Process(format!("cannot clear ambient capabilities: {e}")))?;
    let set = |kind, capabilities: &HashSet<Capability>| {
        caps::set(None, kind, capabilities).map_err(|e| Error::Process(format!("cannot set capabilities: {e}")))
    };
    set(CapSet::Inheritable, &HashSet::new())?;
    set(CapSet::Effective, &kept)?;
    set(CapSet::Permitted, &kept)?;
    if process.no_new_privileges {
        process.seccomp.iter().try_for_each(|program| filter(program))?;
    }
    Ok(())
}

/// Loads a seccomp filter, for good.
fn filter(instructions: &[u64]) -> Result<(), Error> {
    let too_long = || Error::Process("the seccomp profile is too long".into());
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| too_long())?,
        filter: instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `sock_filter` is 8 bytes without padding and `instructions` holds as many of them as `len` says; the
    // kernel copies them and writes nothing.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(result).map(drop).map_err(Error::system("cannot load the seccomp profile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_users_and_groups_up_in_the_containers_files() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n";
        let group = "root:x:0:\nextra:x:50:web,other\nstaff:x:60:\n";
        let check = |name: &str, expected: Result<(u32, u32, Vec<u32>, &str), &str>| {
            let user = User { name: name.into(), ..User::default() };
            let found = resolve(&user, passwd, group).map(|i| (i.uid, i.gid, i.groups, i.home)).map_err(|e| e.to_string());
            assert_eq!(found, expected.map(|(u, g, s, h)| (u, g, s, h.to_string())).map_err(String::from), "{name}");
        };
        check("", Ok((0, 0, vec![0], "/root")));
        check("web", Ok((33, 34, vec![34, 50], "/srv")));
        check("33", Ok((33, 34, vec![34, 50], "/srv")));
        check("1000", Ok((1000, 0, vec![0], "/")));
        check("web:staff", Ok((33, 60, vec![50, 60], "/srv")));
        check("1000:2000", Ok((1000, 2000, vec![2000], "/")));
        check("nobody", Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", Err("unable to find group none: no matching entries in group file"));
    }
}
