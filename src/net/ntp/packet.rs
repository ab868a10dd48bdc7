//! SNTP packets (RFC 4330, RFC 5905), as bytes and as values.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

/// Length of a packet without extensions.
pub const PACKET_BYTES: usize = 48;
/// Seconds from 1900, where NTP counts from, to 1970.
const EPOCH_OFFSET_S: u64 = 2_208_988_800;
/// A server whose way to the true time could be off by more than this is not believed (RFC 5905, MAXDIST).
const MOST_ROOT_DISTANCE: Duration = Duration::from_millis(1500);
const NTP_VERSION: u8 = 4;
const MODE_CLIENT: u8 = 3;
const MODE_SERVER: u8 = 4;
const LEAP_ALARM: u8 = 3;

/// What a server says, measured against the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The server's clock minus ours, nanoseconds.
    pub offset_ns: i128,
    /// The way there and back.
    pub delay: Duration,
    pub stratum: u8,
    /// The most the answer can be wrong by.
    pub root_distance: Duration,
}

/// Why an answer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadAnswer {
    #[error("has {found} bytes, an NTP packet at least {PACKET_BYTES}")]
    TooShort { found: usize },
    #[error("has mode {found}, a server's answer {MODE_SERVER}")]
    Mode { found: u8 },
    #[error("does not echo our question")]
    Origin,
    #[error("refuses us: kiss-o'-death code {code:?}")]
    KissOfDeath { code: String },
    #[error("has stratum {found}, a usable server 1 to 15")]
    Stratum { found: u8 },
    #[error("says that its clock is not synchronised")]
    LeapAlarm,
    #[error("has no time in it")]
    NoTime,
    #[error("was sent before the question had arrived there")]
    Backward,
    /// Only of servers asked by NTS.
    #[error("{reason}")]
    Unauthentic { reason: &'static str },
    #[error("is uncertain by {} ms, more than {} ms", found.as_millis(), MOST_ROOT_DISTANCE.as_millis())]
    RootDistance { found: Duration },
}

/// A question. `cookie` stands in the transmit timestamp: a server echoes it, and nobody else can guess it. The local
/// time is nobody's business.
pub fn render_question(cookie: u64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = NTP_VERSION << 3 | MODE_CLIENT;
    packet[40..].copy_from_slice(&cookie.to_be_bytes());
    packet
}

/// Checks and measures an answer. `sent` and `received` are local times. Pure; takes any bytes.
pub fn parse_answer(bytes: &[u8], cookie: u64, sent: SystemTime, received: SystemTime) -> Result<Sample, BadAnswer> {
    let packet = bytes.first_chunk::<PACKET_BYTES>().ok_or(BadAnswer::TooShort { found: bytes.len() })?;
    let mode = packet[0] & 7;
    if mode != MODE_SERVER {
        return Err(BadAnswer::Mode { found: mode });
    }
    if field(packet, 24) != cookie {
        return Err(BadAnswer::Origin);
    }
    let stratum = packet[1];
    let code: String =
        packet[12..16].iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
    if stratum == 0 && !code.is_empty() {
        return Err(BadAnswer::KissOfDeath { code });
    }
    // A server without a time has both, the alarm and stratum 0 or 16.
    if packet[0] >> 6 == LEAP_ALARM {
        return Err(BadAnswer::LeapAlarm);
    }
    if !(1..=15).contains(&stratum) {
        return Err(BadAnswer::Stratum { found: stratum });
    }
    let (arrived, left) = (field(packet, 32), field(packet, 40));
    if arrived == 0 || left == 0 {
        return Err(BadAnswer::NoTime);
    }
    let (arrived_ns, left_ns) = (unix_ns_of_ntp(arrived), unix_ns_of_ntp(left));
    if left_ns < arrived_ns {
        return Err(BadAnswer::Backward);
    }
    let (sent_ns, received_ns) = (unix_ns(sent), unix_ns(received));
    let delay_ns = (received_ns - sent_ns).saturating_sub(left_ns - arrived_ns).max(0);
    let delay = Duration::from_nanos(u64::try_from(delay_ns).unwrap_or(u64::MAX));
    let root_distance = (short_field(packet, 4) + delay) / 2 + short_field(packet, 8);
    if root_distance > MOST_ROOT_DISTANCE {
        return Err(BadAnswer::RootDistance { found: root_distance });
    }
    let offset_ns = ((arrived_ns - sent_ns) + (left_ns - received_ns)) / 2;
    Ok(Sample { offset_ns, delay, stratum, root_distance })
}

fn field(packet: &[u8; PACKET_BYTES], at: usize) -> u64 {
    packet[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// NTP short format: 16 bits of seconds, 16 of their fraction.
fn short_field(packet: &[u8; PACKET_BYTES], at: usize) -> Duration {
    let value = packet[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    Duration::from_nanos((u64::from(value) * 1_000_000_000) >> 16)
}

/// 32 bits of seconds, 32 of their fraction. Seconds without the highest bit are of the era that begins in 2036, so
/// the range is 1968 to 2104 (RFC 4330 section 3).
fn unix_ns_of_ntp(timestamp: u64) -> i128 {
    let seconds = timestamp >> 32;
    let seconds = if seconds >> 31 == 0 { seconds + (1 << 32) } else { seconds };
    let fraction = timestamp & 0xffff_ffff;
    (i128::from(seconds) - i128::from(EPOCH_OFFSET_S)) * 1_000_000_000 + ((i128::from(fraction) * 1_000_000_000) >> 32)
}

/// Nanoseconds since 1970, negative before.
pub(super) fn unix_ns(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

    use super::*;

    const COOKIE: u64 = 0x0123_4567_89ab_cdef;

    /// 2026-11-22T14:32:00Z as both clocks count it.
    const NOW_UNIX: u64 = 1_795_357_920;
    const NOW_NTP: u64 = NOW_UNIX + EPOCH_OFFSET_S;

    fn local(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW_UNIX) + Duration::from_secs_f64(seconds)
    }

    /// A stratum 2 server that received and sent at `NOW` + `ahead` seconds.
    fn answer(ahead: u64) -> [u8; PACKET_BYTES] {
        let mut packet = [0; PACKET_BYTES];
        packet[..4].copy_from_slice(&[0x24, 2, 6, 0xec]);
        // Root delay 0.5 s, root dispersion 0.25 s.
        packet[4..12].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x40, 0]);
        packet[24..32].copy_from_slice(&COOKIE.to_be_bytes());
        let time = (NOW_NTP + ahead) << 32;
        packet[32..40].copy_from_slice(&time.to_be_bytes());
        packet[40..48].copy_from_slice(&time.to_be_bytes());
        packet
    }

    #[test]
    fn offset_delay_and_distance_are_measured() {
        let sample = parse_answer(&answer(100), COOKIE, local(0.0), local(0.2)).unwrap();
        assert_eq!(sample.offset_ns, 99_900_000_000);
        assert_eq!(sample.delay, Duration::from_millis(200));
        assert_eq!(sample.root_distance, Duration::from_millis(600));
        assert_eq!(sample.stratum, 2);
    }

    #[test]
    fn a_clock_of_1970_is_measured_right_across_the_ages() {
        let sample = parse_answer(&answer(0), COOKIE, UNIX_EPOCH, UNIX_EPOCH).unwrap();
        assert_eq!(sample.offset_ns, i128::from(NOW_UNIX) * 1_000_000_000);
    }

    #[test]
    fn the_era_after_2036_is_read() {
        // Second 0 of the second era: 2036-02-07T06:28:16Z.
        assert_eq!(unix_ns_of_ntp(0), 2_085_978_496 * 1_000_000_000);
        assert_eq!(unix_ns_of_ntp(0xffff_ffff << 32), 2_085_978_495 * 1_000_000_000);
        assert_eq!(unix_ns_of_ntp(NOW_NTP << 32 | 1 << 31), i128::from(NOW_UNIX) * 1_000_000_000 + 500_000_000);
    }

    #[test]
    fn each_bad_answer_is_told_apart() {
        type Damage = fn(&mut [u8; PACKET_BYTES]);
        let cases: [(Damage, BadAnswer); 9] = [
            (|packet| packet[0] = 0x23, BadAnswer::Mode { found: 3 }),
            (|packet| packet[31] ^= 1, BadAnswer::Origin),
            (|packet| packet[1] = 16, BadAnswer::Stratum { found: 16 }),
            (|packet| packet[1] = 0, BadAnswer::Stratum { found: 0 }),
            (|packet| packet[0] = 0xe4, BadAnswer::LeapAlarm),
            (|packet| packet[40..].fill(0), BadAnswer::NoTime),
            (|packet| packet[36] = 0x80, BadAnswer::Backward),
            (|packet| packet[9] = 2, BadAnswer::RootDistance { found: Duration::from_millis(2500) }),
            (
                |packet| {
                    packet[1] = 0;
                    packet[12..16].copy_from_slice(b"RATE");
                },
                BadAnswer::KissOfDeath { code: "RATE".into() },
            ),
        ];
        for (damage, expected) in cases {
            let mut packet = answer(0);
            damage(&mut packet);
            assert_eq!(parse_answer(&packet, COOKIE, local(0.0), local(0.0)), Err(expected));
        }
        assert_eq!(
            parse_answer(&answer(0)[..47], COOKIE, local(0.0), local(0.0)),
            Err(BadAnswer::TooShort { found: 47 })
        );
    }

    #[test]
    fn a_question_tells_nothing_but_its_cookie() {
        let question = render_question(COOKIE);
        assert_eq!(question[0], 0x23);
        assert!(question[1..40].iter().all(|byte| *byte == 0));
        assert_eq!(question[40..], COOKIE.to_be_bytes());
    }

    proptest! {
        #![proptest_config(Config {
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(5905),
            failure_persistence: None,
            ..Config::with_cases(2000)
        })]

        #[test]
        fn random_answers_never_panic_and_are_never_uncertain(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            echo in any::<bool>(),
        ) {
            if echo && bytes.len() >= PACKET_BYTES {
                bytes[0] = bytes[0] & !7 | MODE_SERVER;
                bytes[24..32].copy_from_slice(&COOKIE.to_be_bytes());
            }
            if let Ok(sample) = parse_answer(&bytes, COOKIE, local(0.0), local(0.1)) {
                prop_assert!(sample.root_distance <= MOST_ROOT_DISTANCE && (1..=15).contains(&sample.stratum));
            }
        }
    }
}
