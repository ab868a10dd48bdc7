//! NTP packets that prove who sent them (RFC 8915 section 5): extension fields behind the 48 bytes.

use std::fmt;

use super::siv;
use super::{NtsError, siv::open};
use crate::net::ntp::packet::{BadAnswer, PACKET_BYTES};
use crate::net::ntp::target::{Nts, Target, split_port};

const UNIQUE_ID: u16 = 0x0104;
const COOKIE: u16 = 0x0204;
const AUTHENTICATOR: u16 = 0x0404;
/// Type and length of a field.
const FIELD_HEAD: usize = 4;
/// The only refusal that a server can't seal, as it lost the keys.
const NO_KEYS: &[u8; 4] = b"NTSN";
const NTP_PORT: u16 = 123;

/// The keys of one association: no `Debug`, they are secret.
#[derive(Clone)]
pub struct Keys {
    pub to_server: [u8; 32],
    pub to_client: [u8; 32],
}

/// What the key exchange gave: questions can be made of it, one for each cookie.
pub struct Association {
    keys: Keys,
    cookies: Vec<Vec<u8>>,
    server: Option<String>,
    port: Option<u16>,
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Association of {} cookies", self.cookies.len())
    }
}

impl Association {
    pub(super) fn new(keys: Keys, cookies: Vec<Vec<u8>>, server: Option<String>, port: Option<u16>) -> Self {
        Self { keys, cookies, server, port }
    }

    /// Who tells the time: the server that the key exchange named, else its own host.
    pub(in crate::net::ntp) fn time_server(&self, host: &str) -> Target {
        let (host, _) = split_port(self.server.as_deref().unwrap_or(host));
        Target { host: host.to_owned(), port: self.port.unwrap_or(NTP_PORT), nts: Nts::Demanded }
    }

    /// Spends a cookie: none may be used twice, or an observer could tell that both questions are ours.
    pub(in crate::net::ntp) fn seal(
        &mut self,
        question: &[u8; PACKET_BYTES],
    ) -> Result<(Vec<u8>, SealedQuestion), NtsError> {
        let cookie = self.cookies.pop().ok_or(NtsError::NoCookies)?;
        let (mut unique, mut nonce) = ([0; 32], [0; 16]);
        for random in [unique.as_mut_slice(), &mut nonce] {
            getrandom::fill(random).map_err(|error| NtsError::Random(error.to_string()))?;
        }
        let mut packet = question.to_vec();
        packet.extend(render_field(UNIQUE_ID, &unique));
        packet.extend(render_field(COOKIE, &cookie));
        seal_fields(&mut packet, &self.keys.to_server, &nonce, &[]).ok_or(NtsError::NoCookies)?;
        Ok((packet, SealedQuestion { unique, to_client: self.keys.to_client }))
    }
}

/// A field with its head, padded to whole words.
pub fn render_field(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = FIELD_HEAD + body.len().next_multiple_of(4);
    let mut field = Vec::with_capacity(len);
    field.extend_from_slice(&kind.to_be_bytes());
    field.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    field.extend_from_slice(body);
    field.resize(len, 0);
    field
}

/// Appends the authenticator, which vouches for all of `packet` and holds `secret` in it. `None`: as [`siv::seal`].
pub fn seal_fields(packet: &mut Vec<u8>, key: &[u8; 32], nonce: &[u8; 16], secret: &[u8]) -> Option<()> {
    let sealed = siv::seal(key, &[packet.as_slice(), nonce], secret)?;
    let mut body = vec![0, 16];
    body.extend_from_slice(&u16::try_from(sealed.len()).ok()?.to_be_bytes());
    body.extend_from_slice(nonce);
    body.extend_from_slice(&sealed);
    packet.extend(render_field(AUTHENTICATOR, &body));
    Some(())
}

/// The fields behind the 48 bytes, with where each begins; those behind a broken one are left out.
pub fn read_fields(packet: &[u8]) -> Vec<(usize, u16, &[u8])> {
    let mut fields = Vec::new();
    let mut at = PACKET_BYTES;
    while let Some(([k0, k1, l0, l1], _)) = packet.get(at..).and_then(|rest| rest.split_first_chunk::<FIELD_HEAD>()) {
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        let Some(body) = packet.get(at + FIELD_HEAD..at + len).filter(|_| len.is_multiple_of(4)) else { break };
        fields.push((at, u16::from_be_bytes([*k0, *k1]), body));
        at += len;
    }
    fields
}

/// What is needed to judge the answer to a question.
pub struct SealedQuestion {
    unique: [u8; 32],
    to_client: [u8; 32],
}

impl SealedQuestion {
    /// Whether the server that has the keys answered this very question. Pure; takes any bytes.
    pub(in crate::net::ntp) fn check(&self, packet: &[u8]) -> Result<(), BadAnswer> {
        let unauthentic = |reason| Err(BadAnswer::Unauthentic { reason });
        let fields = read_fields(packet);
        let authenticator = fields.iter().find(|(_, kind, _)| *kind == AUTHENTICATOR);
        // What comes behind the authenticator is not vouched for.
        let vouched = authenticator.map_or(packet.len(), |(at, _, _)| *at);
        let own = |(at, kind, body): &(usize, u16, &[u8])| *at < vouched && *kind == UNIQUE_ID && *body == self.unique;
        if !fields.iter().any(own) {
            return unauthentic("is to another question");
        }
        let Some((at, _, body)) = authenticator else {
            let is_refusal = packet.get(1) == Some(&0) && packet.get(12..16) == Some(NO_KEYS);
            return if is_refusal { Ok(()) } else { unauthentic("has no authenticator") };
        };
        let associated = packet.get(..*at).unwrap_or_default();
        match split_authenticator(body) {
            Some((nonce, sealed)) if open(&self.to_client, &[associated, nonce], sealed).is_some() => Ok(()),
            Some(_) => unauthentic("was not made with the server's key"),
            None => unauthentic("has a broken authenticator"),
        }
    }
}

/// Nonce and sealed text.
fn split_authenticator(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([n0, n1, s0, s1], rest) = body.split_first_chunk::<4>()?;
    let nonce_len = usize::from(u16::from_be_bytes([*n0, *n1]));
    let sealed_len = usize::from(u16::from_be_bytes([*s0, *s1]));
    let sealed_at = nonce_len.next_multiple_of(4);
    Some((rest.get(..nonce_len)?, rest.get(sealed_at..sealed_at + sealed_len)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

    use super::*;

    const KEYS: Keys = Keys { to_server: [1; 32], to_client: [2; 32] };

    fn asked() -> (Vec<u8>, SealedQuestion) {
        let mut association = Association::new(KEYS, vec![b"a cookie".to_vec()], None, None);
        let asked = association.seal(&[0x23; PACKET_BYTES]).unwrap();
        let spent = association.seal(&[0x23; PACKET_BYTES]);
        assert!(matches!(spent, Err(NtsError::NoCookies)));
        asked
    }

    /// As a server makes it.
    fn answer(unique: &[u8], key: &[u8; 32]) -> Vec<u8> {
        let mut packet = vec![0x24; PACKET_BYTES];
        packet.extend(render_field(UNIQUE_ID, unique));
        seal_fields(&mut packet, key, &[9; 16], &render_field(COOKIE, b"new cookie")).unwrap();
        packet
    }

    #[test]
    fn a_question_has_an_id_a_cookie_and_a_proof() {
        let (packet, sealed) = asked();
        let fields = read_fields(&packet);
        let kinds: Vec<u16> = fields.iter().map(|(_, kind, _)| *kind).collect();
        assert_eq!(kinds, [UNIQUE_ID, COOKIE, AUTHENTICATOR]);
        assert_eq!(fields[0].2, sealed.unique);
        assert_eq!(fields[1].2, b"a cookie");
        let (at, _, body) = fields[2];
        let (nonce, proof) = split_authenticator(body).unwrap();
        assert_eq!(open(&KEYS.to_server, &[&packet[..at], nonce], proof), Some(Vec::new()));
        assert_eq!(packet.len() % 4, 0);
    }

    #[test]
    fn only_the_server_s_answer_to_this_question_is_good() {
        let (_, sealed) = asked();
        let good = answer(&sealed.unique, &KEYS.to_client);
        assert_eq!(sealed.check(&good), Ok(()));
        let reason = |packet: &[u8]| match sealed.check(packet) {
            Err(BadAnswer::Unauthentic { reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(&answer(&[3; 32], &KEYS.to_client)), "is to another question");
        assert_eq!(reason(&answer(&sealed.unique, &[4; 32])), "was not made with the server's key");
        assert_eq!(reason(&good[..PACKET_BYTES]), "is to another question");
        let mut bare = vec![0x24; PACKET_BYTES];
        bare.extend(render_field(UNIQUE_ID, &sealed.unique));
        assert_eq!(reason(&bare), "has no authenticator");
        // The time in it was changed on the way.
        let mut changed = good;
        changed[43] ^= 1;
        assert_eq!(reason(&changed), "was not made with the server's key");
        // A server that lost its keys can only say so.
        bare[1] = 0;
        bare[12..16].copy_from_slice(NO_KEYS);
        assert_eq!(sealed.check(&bare), Ok(()));
        bare[12..16].copy_from_slice(b"RATE");
        assert_eq!(reason(&bare), "has no authenticator");
    }

    proptest! {
        #![proptest_config(Config {
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(8915),
            failure_persistence: None,
            ..Config::with_cases(2000)
        })]

        #[test]
        fn random_bytes_are_never_good(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            with_id in any::<bool>(),
        ) {
            let sealed = SealedQuestion { unique: [5; 32], to_client: KEYS.to_client };
            let mut packet = bytes;
            if with_id {
                packet.resize(PACKET_BYTES, 1);
                packet.extend(render_field(UNIQUE_ID, &sealed.unique));
                packet.extend(render_field(AUTHENTICATOR, &[0, 16, 0, 16, 1, 2, 3]));
            }
            prop_assert!(sealed.check(&packet).is_err());
        }
    }
}
