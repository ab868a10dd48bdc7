//! The three HMAC keys of the REST API, made at the first start.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::api::hmac::Role;

/// A key and what it allows. Not `Debug`: it is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub role: Role,
    /// The bytes of the text are the key.
    pub secret: String,
}

/// One key a role.
#[derive(Clone)]
pub struct Keys {
    view: String,
    edit: String,
    admin: String,
}

impl Keys {
    /// The secret of a role.
    pub fn secret(&self, role: Role) -> &str {
        match role {
            Role::View => &self.view,
            Role::Edit => &self.edit,
            Role::Admin => &self.admin,
        }
    }

    /// With another key for viewing: a machine's own, for what a machine may see.
    pub fn with_view(&self, view: String) -> Self {
        Self { view, ..self.clone() }
    }
}

/// Reads the keys under `dir`, making those that are missing.
pub fn ensure_keys(dir: &Path) -> Result<Keys> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let ensure = |role| {
        let path = key_file(dir, role);
        if !path.exists() {
            let mut bytes = [0_u8; 32];
            getrandom::fill(&mut bytes).context("reading the kernel's random source")?;
            write_secret(&path, &format!("{} {}\n", role.scheme(), hex::encode(bytes)))?;
        }
        let key = read_key(&path)?;
        if key.role != role {
            bail!("{}: expected a key of type {}, found {}", path.display(), role.scheme(), key.role.scheme());
        }
        Ok(key.secret)
    };
    Ok(Keys { view: ensure(Role::View)?, edit: ensure(Role::Edit)?, admin: ensure(Role::Admin)? })
}

/// Where the key of a role lies.
pub fn key_file(dir: &Path, role: Role) -> PathBuf {
    dir.join(match role {
        Role::View => "view.key",
        Role::Edit => "edit.key",
        Role::Admin => "admin.key",
    })
}

/// Reads a key file: one line, type and secret as in `Authorization`, such as `Metal-Admin 3f…`.
pub fn read_key(path: &Path) -> Result<Key> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse_key(&text).with_context(|| {
        format!("{}: expected one line with Metal-View, Metal-Edit or Metal-Admin and the key", path.display())
    })
}

fn parse_key(text: &str) -> Option<Key> {
    let (scheme, secret) = text.trim_end().split_once(' ')?;
    let role = Role::from_scheme(scheme)?;
    (!secret.is_empty() && !secret.contains(char::is_whitespace)).then(|| Key { role, secret: secret.to_owned() })
}

/// Writes a file that only its owner may read: complete or not at all, also when the power fails.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    let write = || -> Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        if let Some(dir) = path.parent() {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure_keys(dir.path()).unwrap();
        let second = ensure_keys(dir.path()).unwrap();
        for role in [Role::View, Role::Edit, Role::Admin] {
            assert_eq!(first.secret(role), second.secret(role));
            assert_eq!(first.secret(role).len(), 64);
            let mode = fs::metadata(key_file(dir.path(), role)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_ne!(first.secret(Role::View), first.secret(Role::Admin));
    }

    #[test]
    fn a_key_of_the_wrong_type_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_secret(&key_file(dir.path(), Role::Admin), "Metal-View abc\n").unwrap();
        let error = format!("{:#}", ensure_keys(dir.path()).err().unwrap());
        assert!(error.contains("expected a key of type Metal-Admin, found Metal-View"), "{error}");
        for bad in ["", "abc", "Metal-View ", "Basic abc", "Metal-View a b"] {
            assert!(parse_key(bad).is_none(), "{bad}");
        }
    }
}
