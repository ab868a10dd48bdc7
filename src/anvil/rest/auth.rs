//! HMAC authentication of REST calls, as metal-stack's security library does it, but in constant time.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::anvil::enrolment;
use crate::anvil::keys::Keys;
use crate::anvil::refusal::Refusal;
use crate::anvil::state::Anvil;
use crate::api::hmac::{self, Role};

/// Who calls; in the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) role: Role,
    /// By a key of its own, which is good for nothing but reading itself.
    pub(super) is_machine: bool,
}

impl Caller {
    /// The user behind the key: metal-api's name for it, without its domain.
    pub(super) fn user(self) -> &'static str {
        match self.role {
            Role::View => "metal-view",
            Role::Edit => "metal-edit",
            Role::Admin => "metal-admin",
        }
    }
}

/// How old a signature may be. Dates in the future are accepted.
fn lifetime(role: Role) -> Duration {
    match role {
        Role::View | Role::Edit => Duration::seconds(30),
        Role::Admin => Duration::seconds(90),
    }
}

/// Lets a request through whose key is for `needed` or more.
pub(super) async fn require(
    State((anvil, needed)): State<(Anvil, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let now = OffsetDateTime::now_utc();
    let mut is_machine = false;
    let mut judged = judge(request.headers(), request.method().as_str(), &anvil.keys, now);
    if judged.is_err()
        && let Some(machine) = own_machine(&anvil, &request)
    {
        let keys = match anvil.store.run(move |tx| enrolment::hmac_of(tx, &machine)).await {
            Ok(Some(own)) => Some(anvil.keys.with_view(own)),
            Ok(None) => None,
            Err(refusal) => return refusal.into_response(),
        };
        if let Some(keys) = keys {
            judged = judge(request.headers(), request.method().as_str(), &keys, now);
            is_machine = true;
        }
    }
    let refusal = match judged {
        Ok(Some(role)) if role >= needed => {
            request.extensions_mut().insert(Caller { role, is_machine });
            return next.run(request).await;
        }
        Ok(_) => Refusal::Forbidden(format!("you are not member in one of [{}]", groups(needed))),
        Err(refusal) => refusal,
    };
    tracing::info!(method = %request.method(), path = request.uri().path(), %refusal, "REST call refused");
    refusal.into_response()
}

/// The machine whose own key would do, too: where machines have to be admitted, each may read itself.
fn own_machine(anvil: &Anvil, request: &Request) -> Option<String> {
    let id = request.uri().path().strip_prefix("/v1/machine/")?;
    let may = anvil.config.require_enrolment && request.method() == Method::GET && !id.contains('/');
    may.then(|| id.to_owned())
}

/// The groups that may do what needs this role.
fn groups(needed: Role) -> &'static str {
    match needed {
        Role::View => "view edit admin",
        Role::Edit => "edit admin",
        Role::Admin => "admin",
    }
}

/// Whose signature it is; `None` without one.
fn judge(headers: &HeaderMap, method: &str, keys: &Keys, now: OffsetDateTime) -> Result<Option<Role>, Refusal> {
    let refuse = |text: String| Err(Refusal::Forbidden(text));
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if !headers.contains_key("authorization") {
        return Ok(None);
    }
    let words: Vec<&str> = text("authorization").unwrap_or_default().split(' ').collect();
    let [scheme, mac] = words.as_slice() else {
        return refuse("the Authorization header is not of the form \"<type> <mac>\"".to_owned());
    };
    let Some(role) = Role::from_scheme(scheme) else {
        return refuse(format!("unknown authorization type {scheme:?}"));
    };
    let Ok(date) = OffsetDateTime::parse(text(hmac::DATE_HEADER).unwrap_or_default(), &Rfc3339) else {
        return refuse("the X-Date header is missing or not RFC 3339".to_owned());
    };
    let age = now - date;
    if age > lifetime(role) {
        return refuse(format!(
            "the signature is too old: X-Date is {} s behind, at most {} s are allowed",
            age.whole_seconds(),
            lifetime(role).whole_seconds()
        ));
    }
    // The date is formatted anew: a client that signed fractions or an offset does not match, as upstream.
    let date = hmac::format_date(date);
    let salt = text(hmac::SALT_HEADER).unwrap_or_default();
    if hmac::verify(keys.secret(role).as_bytes(), &date, method, salt, mac) {
        Ok(Some(role))
    } else {
        refuse("Wrong HMAC found".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::keys::ensure_keys;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-02 03:04:05 UTC);

    fn keys() -> Keys {
        ensure_keys(tempfile::tempdir().unwrap().path()).unwrap()
    }

    fn signed(keys: &Keys, role: Role, method: &str, at: OffsetDateTime) -> HeaderMap {
        let signature = hmac::sign(keys.secret(role).as_bytes(), role, method, at, "abcdefghijklmnopqrstuvWX");
        let mut headers = HeaderMap::new();
        headers.insert("x-date", signature.date.parse().unwrap());
        headers.insert("x-data-salt", signature.salt.parse().unwrap());
        headers.insert("authorization", signature.authorization.parse().unwrap());
        headers
    }

    #[test]
    fn lifetimes_differ_by_role_and_the_future_is_accepted() {
        let keys = keys();
        for (role, seconds) in [(Role::View, 30), (Role::Edit, 30), (Role::Admin, 90)] {
            for (age, good) in [(seconds, true), (seconds + 1, false), (-100_000, true)] {
                let headers = signed(&keys, role, "GET", NOW - Duration::seconds(age));
                let judged = judge(&headers, "GET", &keys, NOW);
                assert_eq!(judged.ok().flatten() == Some(role), good, "{role:?} {age} s");
            }
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_signature() {
        let keys = keys();
        let good = || signed(&keys, Role::View, "GET", NOW);
        let with = |name: &'static str, value: &str| {
            let mut headers = good();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        let mac = good()["authorization"].to_str().unwrap().split(' ').nth(1).unwrap().to_owned();
        let cases = [
            (with("authorization", "Metal-View"), "not of the form"),
            (with("authorization", "Metal-View a b"), "not of the form"),
            (with("authorization", "Bearer abc"), "unknown authorization type"),
            (with("authorization", &format!("Metal-Edit {mac}")), "Wrong HMAC found"),
            (with("authorization", &format!("Metal-View {}", "0".repeat(64))), "Wrong HMAC found"),
            (with("x-date", "yesterday"), "X-Date"),
            (with("x-date", "2026-01-02T03:04:06Z"), "Wrong HMAC found"),
            (with("x-data-salt", "abc"), "Wrong HMAC found"),
            (signed(&keys, Role::View, "POST", NOW), "Wrong HMAC found"),
            (signed(&keys, Role::View, "GET", NOW - Duration::seconds(31)), "too old"),
        ];
        for (headers, expected) in cases {
            let refusal = judge(&headers, "GET", &keys, NOW).unwrap_err();
            assert_eq!(refusal.status(), 403);
            assert!(refusal.to_string().contains(expected), "{expected}: {refusal}");
        }
    }

    #[test]
    fn a_date_signed_with_fractions_does_not_match() {
        let keys = keys();
        let date = "2026-01-02T03:04:05.5Z";
        let mac = hmac::mac(keys.secret(Role::View).as_bytes(), date.as_bytes(), b"GET", b"s");
        let mut headers = HeaderMap::new();
        headers.insert("x-date", date.parse().unwrap());
        headers.insert("x-data-salt", "s".parse().unwrap());
        headers.insert("authorization", format!("Metal-View {mac}").parse().unwrap());
        assert_eq!(judge(&headers, "GET", &keys, NOW).unwrap_err().to_string(), "Wrong HMAC found");
    }

    #[test]
    fn no_header_is_a_guest() {
        assert_eq!(judge(&HeaderMap::new(), "GET", &keys(), NOW).unwrap(), None);
    }
}
