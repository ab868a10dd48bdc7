//! Passwords in `/etc/shadow`.

use anyhow::{Context, Result, bail};
use sha_crypt::{PasswordHasher, ShaCrypt};
use time::OffsetDateTime;

/// Bytes of salt that make the 16 characters crypt(5) takes at most.
const SALT_BYTES: usize = 12;

/// The SHA-512 hash of crypt(5), `$6$…`, with a random salt.
pub(super) fn hash(password: &str) -> Result<String> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).context("getting random bytes for a salt")?;
    let hash = ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| anyhow::anyhow!("hashing a password: {error}"))?.as_str().to_owned())
}

/// Replaces the password of `user`, and the day of its last change.
pub(super) fn set_hash(shadow: &str, user: &str, hash: &str, today: Option<u32>) -> Result<String> {
    let mut found = false;
    let mut lines: Vec<String> = Vec::new();
    for line in shadow.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        let today = today.map(|day| day.to_string()).unwrap_or_default();
        if let [name, old_hash, changed, ..] = fields.as_mut_slice()
            && *name == user
        {
            *old_hash = hash;
            *changed = &today;
            found = true;
        }
        lines.push(fields.join(":"));
    }
    if !found {
        bail!("no line for user {user}");
    }
    Ok(lines.join("\n") + "\n")
}

/// Days since 1970. `None` for a clock that was never set: day 0 means "must be changed at the next login".
pub(super) fn day(now: OffsetDateTime) -> Option<u32> {
    u32::try_from(now.unix_timestamp() / 86_400).ok().filter(|day| *day > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_user_gets_the_hash() {
        let shadow = "root:*:19000:0:99999:7:::\nmetal:!:19700:0:99999:7:::\nmetal2:!:1:::::\n";
        assert_eq!(
            set_hash(shadow, "metal", "$6$x", Some(20_000)).unwrap(),
            "root:*:19000:0:99999:7:::\nmetal:$6$x:20000:0:99999:7:::\nmetal2:!:1:::::\n"
        );
        assert!(set_hash(shadow, "metal", "$6$x", None).unwrap().contains("metal:$6$x::0:"));
        assert_eq!(set_hash("root:*:::::::\n", "metal", "x", None).unwrap_err().to_string(), "no line for user metal");
    }

    #[test]
    fn a_clock_at_its_start_does_not_expire_the_password() {
        assert_eq!(day(OffsetDateTime::UNIX_EPOCH), None);
        assert_eq!(day(OffsetDateTime::UNIX_EPOCH - time::Duration::days(2)), None);
        assert_eq!(day(OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)), Some(20_000));
    }

    #[test]
    fn the_hash_is_one_that_crypt_knows() {
        use sha_crypt::{PasswordHash, PasswordVerifier};
        let text = hash("Zm9vYmFyYmF6cXV4").unwrap();
        assert!(text.starts_with("$6$") && text.len() < 128, "{text}");
        let parsed = PasswordHash::new(text.as_str()).unwrap();
        ShaCrypt::SHA512.verify_password(b"Zm9vYmFyYmF6cXV4", &parsed).unwrap();
        assert_ne!(hash("Zm9vYmFyYmF6cXV4").unwrap(), text, "the salt is random");
    }
}
