//! The user `metal`, who administers the machine.

use anyhow::{Context, Result, bail};
use tracing::info;

use super::{Cx, shadow};

pub(super) const NAME: &str = "metal";
const UID: &str = "1000";

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// Makes the user anew, with the console password.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    let passwd = cx.tree.read_text("/etc/passwd")?.unwrap_or_default();
    let existed = find(&passwd, NAME).is_some();
    if existed {
        info!("replacing the user {NAME} of the image");
        cx.chroot.run("userdel", &[NAME])?;
    }
    if let Some(owner) = name_of(&passwd, UID).filter(|name| *name != NAME) {
        bail!("user id {UID}, which {NAME} has on every machine, belongs to {owner} in the image");
    }
    let group = &cx.facts.admin_group;
    cx.chroot.run("useradd", &["--create-home", "--uid", UID, "--gid", group, "--shell", "/bin/bash", NAME])?;
    if existed {
        // Its old home may belong to another user id, and then sshd would not trust the keys in it.
        let account = read(cx)?;
        cx.chroot.run("chown", &["--recursive", &format!("{UID}:{group}"), &account.home])?;
    }
    set_password(cx)
}

/// Into the file, and not through the image's `passwd`: that one goes through PAM, which may judge the password, and
/// an option would show it to every process. Only the hash ever reaches the disk's user database.
fn set_password(cx: &Cx) -> Result<()> {
    let hash = shadow::hash(&cx.input.console_password)?;
    let text = cx.tree.read_text("/etc/shadow")?.unwrap_or_default();
    let text = shadow::set_hash(&text, NAME, &hash, shadow::day(cx.input.timestamp)).context("changing /etc/shadow")?;
    cx.tree.rewrite("/etc/shadow", text)
}

/// The account as it is in the image now.
pub(super) fn read(cx: &Cx) -> Result<Account> {
    let passwd = cx.tree.read_text("/etc/passwd")?.unwrap_or_default();
    find(&passwd, NAME).with_context(|| format!("/etc/passwd of the image has no proper line for {NAME}"))
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|fields: &Vec<&str>| fields.first() == Some(&name))?;
    Some(Account {
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
        home: fields.get(5)?.trim_end_matches('/').to_owned(),
    })
}

fn name_of<'a>(passwd: &'a str, uid: &str) -> Option<&'a str> {
    passwd.lines().find(|line| line.split(':').nth(2) == Some(uid)).and_then(|line| line.split(':').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_by_id() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nmetal:x:1000:27::/home/metal:/bin/bash\nbad:x\n";
        let account = Account { uid: 1000, gid: 27, home: "/home/metal".into() };
        assert_eq!(find(passwd, "metal"), Some(account));
        assert_eq!(find(passwd, "bad"), None);
        assert_eq!(name_of(passwd, "1000"), Some("metal"));
        assert_eq!(name_of(passwd, "1001"), None);
    }
}
