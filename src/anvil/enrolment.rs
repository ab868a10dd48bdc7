//! Who gets the keys: machines that an operator admitted, by UUID or by the MAC of one of their cards, and those that
//! showed a token which he made.
//!
//! Each of them has a client certificate and an HMAC key of its own, so that it can speak for no other machine and be
//! shut out alone. What a machine says about itself can't be checked: see docs/decisions.md, "Trust".

use std::path::Path;

use anyhow::Context;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::ca;
use super::machines::{self, format_time};
use super::netboot::Asking;
use super::refusal::Refusal;
use super::store::Tx;
use crate::api::enrolment::{Enrolment, NewToken, NotAdmitted, Standing, TokenRequest};
use crate::api::mac::Mac;

/// Machines that wait for an operator. Anybody on the rack's network can make some up.
const MAX_PENDING: u32 = 1000;
/// A machine asks every few seconds; when it last did is not written more often than this.
const ASKED_PERIOD: Duration = Duration::seconds(30);
/// The longest life of a token.
const MAX_TOKEN_SECONDS: u32 = 90 * 24 * 60 * 60;

/// A machine that asked for the keys, or that an operator named. Not `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// UUID.
    pub machine: String,
    pub macs: Vec<String>,
    pub standing: Standing,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    pub how: String,
    #[serde(with = "time::serde::rfc3339::option")]
    pub asked: Option<OffsetDateTime>,
    pub from: Option<String>,
    /// Made when it first gets the configuration.
    pub identity: Option<Identity>,
}

/// By what an admitted machine is known. Not `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: String,
    /// The machine's `Metal-View` key: good for reading this machine, and nothing else.
    pub hmac: String,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    /// Digest of the authority's certificate.
    authority: String,
}

/// The authority that issues certificates.
#[derive(Clone, Copy)]
pub struct Authority<'a> {
    /// Where its key lies.
    pub dir: &'a Path,
    pub pin: &'a str,
}

impl Enrolled {
    fn new(machine: &str, now: OffsetDateTime) -> Self {
        Self {
            machine: machine.to_owned(),
            macs: Vec::new(),
            standing: Standing::Pending,
            since: now,
            how: "asked".to_owned(),
            asked: None,
            from: None,
            identity: None,
        }
    }

    fn stand(&mut self, standing: Standing, how: String, now: OffsetDateTime) {
        if self.standing == standing {
            return;
        }
        tracing::info!(machine = %self.machine, macs = ?self.macs, how, "enrolment: {}", standing.as_str());
        (self.standing, self.since, self.how) = (standing, now, how);
        if standing != Standing::Admitted {
            self.identity = None;
        }
    }

    /// The identity of an admitted machine, and of no other.
    fn admitted(&self) -> Option<&Identity> {
        self.identity.as_ref().filter(|_| self.standing == Standing::Admitted)
    }

    pub fn to_rest(&self) -> Enrolment {
        Enrolment {
            machine: self.machine.clone(),
            macs: self.macs.clone(),
            standing: self.standing,
            since: format_time(self.since),
            how: self.how.clone(),
            asked: self.asked.map(format_time),
            from: self.from.clone(),
        }
    }
}

impl Identity {
    fn issue(machine: &str, authority: Authority<'_>, now: OffsetDateTime) -> Result<Self, Refusal> {
        let made = ca::issue_machine(authority.dir, machine, now)?;
        Ok(Self {
            cert: made.cert,
            key: made.key,
            hmac: random_hex()?,
            until: made.until,
            authority: authority.pin.to_owned(),
        })
    }

    fn is_good(&self, authority: Authority<'_>, now: OffsetDateTime) -> bool {
        self.authority == authority.pin && !ca::is_running_out(self.until, now)
    }
}

/// What a machine that asks for its configuration gets: what it is known by from now on, or why nothing.
pub fn answer(
    tx: &Tx<'_>,
    asking: &Asking,
    authority: Authority<'_>,
    now: OffsetDateTime,
) -> Result<Result<Identity, NotAdmitted>, Refusal> {
    if !asking.by_tls {
        return Ok(Err(not_admitted(None, "keys are given by HTTPS only (drophammer.config=https://…)".to_owned())));
    }
    let Some(machine) = &asking.machine else {
        let message = "machines have to be admitted here, and this one does not say who it is".to_owned();
        return Ok(Err(not_admitted(None, message)));
    };
    let known = tx.enrolment(machine)?;
    let is_new = known.is_none();
    let mut enrolled = known.unwrap_or_else(|| Enrolled::new(machine, now));
    let before = (enrolled.standing, enrolled.macs.clone(), enrolled.asked);
    if !asking.macs.is_empty() {
        enrolled.macs = asking.macs.iter().map(Mac::to_string).collect();
    }
    enrolled.from = asking.from.map(|address| address.to_string());
    if enrolled.standing == Standing::Pending
        && let Some(how) = admitted_by(tx, asking, now)?
    {
        enrolled.stand(Standing::Admitted, how, now);
    }
    if is_new && enrolled.standing == Standing::Pending {
        if tx.pending_count()? >= MAX_PENDING {
            let message = format!("{MAX_PENDING} machines wait to be admitted, which is too many to note another one");
            return Ok(Err(not_admitted(Some(Standing::Pending), message)));
        }
        tracing::info!(machine, macs = ?enrolled.macs, from = ?enrolled.from, "a machine waits to be admitted");
    }
    let mut is_changed = false;
    if enrolled.standing == Standing::Admitted
        && enrolled.identity.as_ref().is_none_or(|identity| !identity.is_good(authority, now))
    {
        enrolled.identity = Some(Identity::issue(machine, authority, now)?);
        tracing::info!(machine, "issued a certificate and a key");
        is_changed = true;
    }
    if before.2.is_none_or(|asked| now - asked >= ASKED_PERIOD) {
        enrolled.asked = Some(now);
        is_changed = true;
    }
    if is_changed || before.0 != enrolled.standing || before.1 != enrolled.macs {
        tx.put_enrolment(&enrolled)?;
    }
    match enrolled.standing {
        Standing::Admitted => {
            let identity = enrolled.identity.context("an admitted machine without an identity")?;
            Ok(Ok(identity))
        }
        Standing::Pending => {
            let message = format!("this machine waits to be admitted: anvil machine admit {machine}");
            Ok(Err(not_admitted(Some(Standing::Pending), message)))
        }
        Standing::Revoked => {
            let message = format!("this machine was shut out; anvil machine admit {machine} lets it in again");
            Ok(Err(not_admitted(Some(Standing::Revoked), message)))
        }
    }
}

fn not_admitted(enrolment: Option<Standing>, message: String) -> NotAdmitted {
    NotAdmitted { statuscode: 403, message, enrolment }
}

/// By what a machine that nobody named gets in, if it does.
fn admitted_by(tx: &Tx<'_>, asking: &Asking, now: OffsetDateTime) -> Result<Option<String>, Refusal> {
    for mac in &asking.macs {
        if tx.take_expected_mac(*mac)? {
            return Ok(Some(format!("an operator, by MAC {mac}")));
        }
    }
    if let Some(token) = &asking.token {
        if tx.spend_token(&digest_of(token), now)? {
            return Ok(Some("a token".to_owned()));
        }
        tracing::warn!(machine = asking.machine, "a token that is not good (any more) was shown");
    }
    Ok(None)
}

/// What an operator names: a machine by its id, or a card.
enum Name {
    Machine(String),
    Card(Mac),
}

fn parse_name(text: &str) -> Result<Name, Refusal> {
    if let Ok(uuid) = text.parse::<Uuid>() {
        return Ok(Name::Machine(uuid.to_string()));
    }
    text.parse().map(Name::Card).map_err(|_| {
        Refusal::BadRequest(format!("expected a machine's id (a UUID) or the MAC of one of its cards, found {text:?}"))
    })
}

/// The one machine that said it has this card.
fn machine_of(tx: &Tx<'_>, mac: Mac) -> Result<Option<Enrolled>, Refusal> {
    let mac = mac.to_string();
    let mut found: Vec<Enrolled> = tx.enrolments()?.into_iter().filter(|known| known.macs.contains(&mac)).collect();
    match found.len() {
        0 | 1 => Ok(found.pop()),
        // One of them lies.
        many => {
            Err(Refusal::Conflict(format!("{many} machines say that they have the card {mac}: name one by its id")))
        }
    }
}

/// Admits a machine, whether it has asked already or not.
pub fn admit(tx: &Tx<'_>, name: &str, now: OffsetDateTime) -> Result<Enrolment, Refusal> {
    let (mut enrolled, how) = match parse_name(name)? {
        Name::Machine(id) => (tx.enrolment(&id)?.unwrap_or_else(|| Enrolled::new(&id, now)), "an operator".to_owned()),
        Name::Card(mac) => match machine_of(tx, mac)? {
            Some(enrolled) => (enrolled, format!("an operator, by MAC {mac}")),
            None => {
                tx.expect_mac(mac, now)?;
                tracing::info!(%mac, "the machine with this card will be admitted when it asks");
                return Ok(expected(&mac.to_string(), format_time(now)));
            }
        },
    };
    enrolled.stand(Standing::Admitted, how, now);
    tx.put_enrolment(&enrolled)?;
    Ok(enrolled.to_rest())
}

/// Shuts a machine out: its certificate and its key are not good any more. It waits for nobody's allocation, either.
pub fn revoke(tx: &Tx<'_>, name: &str, now: OffsetDateTime) -> Result<Enrolment, Refusal> {
    let mut enrolled = match parse_name(name)? {
        Name::Machine(id) => tx.enrolment(&id)?.unwrap_or_else(|| Enrolled::new(&id, now)),
        Name::Card(mac) => match machine_of(tx, mac)? {
            Some(enrolled) => enrolled,
            None if tx.take_expected_mac(mac)? => {
                let mut shown = expected(&mac.to_string(), format_time(now));
                shown.standing = Standing::Revoked;
                return Ok(shown);
            }
            None => return Err(Refusal::NotFound(format!("no machine with the card {mac} was admitted, or asked"))),
        },
    };
    enrolled.stand(Standing::Revoked, "an operator".to_owned(), now);
    tx.put_enrolment(&enrolled)?;
    if tx.machine(&enrolled.machine)?.is_some() {
        machines::set_waiting(tx, &enrolled.machine, false)?;
    }
    Ok(enrolled.to_rest())
}

/// All machines that asked or were named, and the cards that are expected.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Enrolment>, Refusal> {
    let mut all: Vec<Enrolment> = tx.enrolments()?.iter().map(Enrolled::to_rest).collect();
    all.extend(tx.expected_macs()?.into_iter().map(|(mac, since)| expected(&mac, since)));
    Ok(all)
}

/// A card whose machine did not ask yet.
fn expected(mac: &str, since: String) -> Enrolment {
    Enrolment {
        machine: mac.to_owned(),
        macs: vec![mac.to_owned()],
        standing: Standing::Admitted,
        since,
        how: "an operator; its machine has not asked yet".to_owned(),
        asked: None,
        from: None,
    }
}

/// Makes a token. Only its digest is kept.
pub fn make_token(tx: &Tx<'_>, request: TokenRequest, now: OffsetDateTime) -> Result<NewToken, Refusal> {
    if request.machines == 0 || request.machines > MAX_PENDING {
        return Err(Refusal::BadRequest(format!("machines: expected 1 to {MAX_PENDING}, found {}", request.machines)));
    }
    if request.seconds == 0 || request.seconds > MAX_TOKEN_SECONDS {
        return Err(Refusal::BadRequest(format!(
            "seconds: expected 1 to {MAX_TOKEN_SECONDS} (90 days), found {}",
            request.seconds
        )));
    }
    let token = random_hex()?;
    let expires = now + Duration::seconds(request.seconds.into());
    tx.add_token(&digest_of(&token), request.machines, expires)?;
    tracing::info!(machines = request.machines, %expires, "a token was made that admits machines");
    Ok(NewToken { token, machines: request.machines, expires: format_time(expires) })
}

/// A token has 256 random bits, so that its digest needs no salt and no slowness.
fn digest_of(token: &str) -> String {
    hex::encode(digest(&SHA256, token.as_bytes()))
}

fn random_hex() -> Result<String, Refusal> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).context("reading the kernel's random source")?;
    Ok(hex::encode(bytes))
}

/// Whether the certificate that a client showed is the one that this admitted machine was given last.
pub fn is_of_machine(tx: &Tx<'_>, machine: &str, shown: &[u8]) -> Result<bool, Refusal> {
    let Some(enrolled) = tx.enrolment(machine)? else { return Ok(false) };
    let Some(identity) = enrolled.admitted() else { return Ok(false) };
    let own = CertificateDer::from_pem_slice(identity.cert.as_bytes()).context("reading a machine's certificate")?;
    Ok(own.as_ref() == shown)
}

pub fn is_admitted(tx: &Tx<'_>, machine: &str) -> Result<bool, Refusal> {
    Ok(tx.enrolment(machine)?.is_some_and(|enrolled| enrolled.standing == Standing::Admitted))
}

/// An admitted machine's own `Metal-View` key.
pub fn hmac_of(tx: &Tx<'_>, machine: &str) -> Result<Option<String>, Refusal> {
    Ok(tx.enrolment(machine)?.as_ref().and_then(Enrolled::admitted).map(|identity| identity.hmac.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::ca::ensure_pki;
    use crate::anvil::store::Store;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-02 03:00:00 UTC);
    const ONE: &str = "00000000-0000-4000-8000-000000000001";
    const TWO: &str = "00000000-0000-4000-8000-000000000002";
    const MAC: &str = "02:00:00:00:00:01";

    struct Office {
        store: Store,
        dir: tempfile::TempDir,
    }

    impl Office {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            ensure_pki(dir.path(), [127, 0, 0, 1].into(), NOW).unwrap();
            Self { store: Store::in_memory().unwrap(), dir }
        }

        fn ask(&self, asking: &Asking, now: OffsetDateTime) -> Result<Identity, NotAdmitted> {
            let authority = Authority { dir: self.dir.path(), pin: "sha256:1" };
            self.store.run_blocking(|tx| answer(tx, asking, authority, now)).unwrap()
        }

        fn standing(&self, machine: &str, mac: &str, token: Option<&str>, now: OffsetDateTime) -> Option<Standing> {
            match self.ask(&asking(machine, mac, token), now) {
                Ok(_) => Some(Standing::Admitted),
                Err(refused) => refused.enrolment,
            }
        }

        fn run<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T, Refusal>) -> T {
            self.store.run_blocking(work).unwrap()
        }
    }

    fn asking(machine: &str, mac: &str, token: Option<&str>) -> Asking {
        Asking {
            machine: Some(machine.to_owned()),
            macs: vec![mac.parse().unwrap()],
            token: token.map(str::to_owned),
            by_tls: true,
            from: None,
        }
    }

    #[test]
    fn a_machine_waits_until_an_operator_admits_it_and_is_shut_out_when_he_says_so() {
        let office = Office::new();
        let ask = || office.standing(ONE, MAC, None, NOW);
        assert_eq!(ask(), Some(Standing::Pending));
        let refused = office.ask(&asking(ONE, MAC, None), NOW).err().unwrap();
        assert!(refused.message.ends_with(&format!("anvil machine admit {ONE}")), "{refused}");
        office.run(|tx| admit(tx, ONE, NOW));
        assert_eq!(ask(), Some(Standing::Admitted));
        assert_eq!(office.standing(TWO, "02:00:00:00:00:02", None, NOW), Some(Standing::Pending));
        office.run(|tx| revoke(tx, MAC, NOW));
        assert_eq!(ask(), Some(Standing::Revoked));
        assert!(office.run(|tx| hmac_of(tx, ONE)).is_none());
        office.run(|tx| admit(tx, ONE, NOW));
        assert_eq!(ask(), Some(Standing::Admitted));
    }

    #[test]
    fn a_mac_that_was_admitted_before_is_good_for_the_first_machine_that_shows_it() {
        let office = Office::new();
        office.run(|tx| admit(tx, "02-00-00-00-00-01", NOW));
        assert_eq!(office.standing(ONE, MAC, None, NOW), Some(Standing::Admitted));
        assert_eq!(office.standing(TWO, MAC, None, NOW), Some(Standing::Pending));
        let refusal = office.store.run_blocking(|tx| admit(tx, MAC, NOW)).unwrap_err();
        assert!(refusal.to_string().contains("2 machines say"), "{refusal}");
    }

    #[test]
    fn a_token_is_spent_kept_as_a_digest_and_runs_out() {
        let office = Office::new();
        let hour = TokenRequest { machines: 1, seconds: 3600 };
        let token = office.run(|tx| make_token(tx, hour, NOW)).token;
        assert_eq!(office.standing(ONE, MAC, Some("another"), NOW), Some(Standing::Pending));
        assert_eq!(office.standing(ONE, MAC, Some(&token), NOW), Some(Standing::Admitted));
        assert_eq!(office.standing(TWO, MAC, Some(&token), NOW), Some(Standing::Pending), "spent");
        assert_eq!(office.standing(ONE, MAC, Some(&token), NOW), Some(Standing::Admitted), "stays admitted");

        let late = office.run(|tx| make_token(tx, hour, NOW)).token;
        assert_eq!(office.standing(TWO, MAC, Some(&late), NOW + Duration::hours(1)), Some(Standing::Pending));
        office.run(|tx| revoke(tx, TWO, NOW));
        let other = office.run(|tx| make_token(tx, hour, NOW)).token;
        assert_eq!(
            office.standing(TWO, MAC, Some(&other), NOW),
            Some(Standing::Revoked),
            "no token undoes an operator"
        );
    }

    #[test]
    fn an_identity_is_the_same_until_it_runs_out() {
        let office = Office::new();
        office.run(|tx| admit(tx, ONE, NOW));
        let identity = |now| office.ask(&asking(ONE, MAC, None), now).ok().unwrap();
        let first = identity(NOW);
        assert!(identity(NOW + Duration::days(600)).cert == first.cert);
        let second = identity(NOW + Duration::days(701));
        assert!(second.cert != first.cert && second.hmac != first.hmac);
        let der = |identity: &Identity| CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        assert!(office.run(|tx| is_of_machine(tx, ONE, &der(&second))));
        assert!(!office.run(|tx| is_of_machine(tx, ONE, &der(&first))));
        assert!(!office.run(|tx| is_of_machine(tx, TWO, &der(&second))));
    }

    #[test]
    fn without_tls_or_a_name_nobody_gets_anything_and_nobody_is_noted() {
        let office = Office::new();
        office.run(|tx| admit(tx, ONE, NOW));
        let plain = Asking { by_tls: false, ..asking(ONE, MAC, None) };
        assert!(office.ask(&plain, NOW).err().unwrap().message.contains("HTTPS only"));
        let nameless = Asking { machine: None, ..asking(ONE, MAC, None) };
        assert!(office.ask(&nameless, NOW).err().unwrap().message.contains("does not say who it is"));
        assert_eq!(office.run(list).len(), 1);
    }

    #[test]
    fn made_up_machines_do_not_fill_the_disk() {
        let office = Office::new();
        for n in 0..=u64::from(MAX_PENDING) {
            office.standing(&Uuid::from_u64_pair(1, n).to_string(), MAC, None, NOW);
        }
        assert_eq!(office.run(list).len(), MAX_PENDING as usize);
    }
}
