//! HMAC authentication of REST calls: headers `X-Date`, `X-Data-Salt` and `Authorization`.
//!
//! The message is date, method and salt joined without separators. Path, query and body are not signed.

use ring::hmac;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Header with the date.
pub const DATE_HEADER: &str = "x-date";
/// Header with the salt.
pub const SALT_HEADER: &str = "x-data-salt";

/// Who may do what: the first word of `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    View,
    Edit,
    Admin,
}

impl Role {
    /// `Metal-View`, `Metal-Edit` or `Metal-Admin`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::View => "Metal-View",
            Self::Edit => "Metal-Edit",
            Self::Admin => "Metal-Admin",
        }
    }

    /// The role of an `Authorization` type; `None` for a foreign one.
    pub fn from_scheme(scheme: &str) -> Option<Self> {
        [Self::View, Self::Edit, Self::Admin].into_iter().find(|role| role.scheme() == scheme)
    }
}

/// The three header values of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub date: String,
    pub salt: String,
    pub authorization: String,
}

/// HMAC-SHA-256 over date, method and salt, as lower-case hex.
pub fn mac(key: &[u8], date: &[u8], method: &[u8], salt: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(date);
    context.update(method);
    context.update(salt);
    hex::encode(context.sign().as_ref())
}

/// Compares in constant time.
pub fn verify(key: &[u8], date: &str, method: &str, salt: &str, mac_hex: &str) -> bool {
    let Ok(tag) = hex::decode(mac_hex) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let message = [date.as_bytes(), method.as_bytes(), salt.as_bytes()].concat();
    hmac::verify(&key, &message, &tag).is_ok()
}

/// Signs one call made at `now`. The salt must be 24 random letters: see [`random_salt`].
pub fn sign(key: &[u8], role: Role, method: &str, now: OffsetDateTime, salt: &str) -> Signature {
    let date = format_date(now);
    let mac = mac(key, date.as_bytes(), method.as_bytes(), salt.as_bytes());
    Signature { date, salt: salt.to_owned(), authorization: format!("{} {mac}", role.scheme()) }
}

/// RFC 3339 in UTC with whole seconds, the only form that the server recomputes.
pub fn format_date(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).expect("0 is a valid nanosecond");
    at.format(&Rfc3339).expect("RFC 3339 formats every year from 0 to 9999")
}

/// 24 random letters.
pub fn random_salt() -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes).expect("the kernel's random source works after boot");
    bytes.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn matches_the_vectors_of_the_contract() {
        assert_eq!(
            mac(b"s3cr3t-view-key", b"2026-01-02T03:04:05Z", b"GET", b"abcdefghijklmnopqrstuvWX"),
            "58b731434bcd7b304d973953559d25e25f62ab3717e5da62ea10d49f4172134b"
        );
        assert_eq!(
            mac(&[1, 2, 3], b"2019-01-16T14:44:45Z", b"GET", &[1, 2, 3, 4, 5, 6]),
            "f8d293a06bdde899a5bd1dd61b13842564650c717c742db02c4e1a888fc22501"
        );
    }

    #[test]
    fn signs_in_utc_with_whole_seconds() {
        let signature = sign(
            b"s3cr3t-view-key",
            Role::View,
            "GET",
            datetime!(2026-01-02 04:04:05.987 +1),
            "abcdefghijklmnopqrstuvWX",
        );
        assert_eq!(signature.date, "2026-01-02T03:04:05Z");
        assert_eq!(
            signature.authorization,
            "Metal-View 58b731434bcd7b304d973953559d25e25f62ab3717e5da62ea10d49f4172134b"
        );
    }

    #[test]
    fn refuses_a_changed_method_and_garbage() {
        let mac = mac(b"k", b"2026-01-02T03:04:05Z", b"GET", b"s");
        assert!(verify(b"k", "2026-01-02T03:04:05Z", "GET", "s", &mac));
        assert!(!verify(b"k", "2026-01-02T03:04:05Z", "POST", "s", &mac));
        assert!(!verify(b"k", "2026-01-02T03:04:05Z", "GET", "s", "zz"));
    }

    #[test]
    fn salts_are_24_letters() {
        let salt = random_salt();
        assert!(salt.len() == 24 && salt.bytes().all(|b| b.is_ascii_alphabetic()), "{salt}");
    }
}
