//! A time server for machines that boot: SNTP (RFC 4330, RFC 5905) from this host's clock.
//!
//! A host whose clock somebody disciplines says so by stratum 4 (the kernel does not know its real one; servers of an
//! ordinary site have 2 or 3, and we are one below) and by the error that the kernel reckons with. A host left alone
//! tells its clients not to use it, as it may be off by years. With `serve_unsynchronised` it answers as stratum 10 with
//! reference `LOCL`: in a lab without any time source all machines then at least agree with each other and with their
//! control plane.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::sys::clock_state::{ClockState, read_clock_state};

pub const PACKET_LEN: usize = 48;
/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_TO_UNIX_SECONDS: u64 = 2_208_988_800;
const STRATUM_SYNCHRONISED: u8 = 4;
const STRATUM_ALONE: u8 = 10;
/// 16 inside a server, which stands in packets as 0 (RFC 5905 section 7.3).
const STRATUM_UNFIT: u8 = 0;
const LEAP_ALARM: u8 = 3;
/// Resolution of the answers' times: about a microsecond, as a power of two seconds.
const PRECISION: i8 = -20;
/// Root dispersion of a clock that is right by definition, in units of 2^-16 s: about 10 ms, so that clients that
/// judge servers by their distance do not refuse it.
const DISPERSION_ALONE: u32 = 655;
const SOCKET_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Block `ntp` of anvil's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NtpSettings {
    pub enabled: bool,
    /// Also when nobody disciplines the host's clock.
    pub serve_unsynchronised: bool,
}

/// The block stands in the file, so the service is wanted.
impl Default for NtpSettings {
    fn default() -> Self {
        Self { enabled: true, serve_unsynchronised: false }
    }
}

/// Binds port 123 of an address.
pub async fn bind(address: IpAddr) -> Result<UdpSocket> {
    UdpSocket::bind((address, 123))
        .await
        .with_context(|| format!("binding UDP {} for NTP", SocketAddr::new(address, 123)))
}

/// What is known of the host's clock, as far as clients have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Somebody disciplines it, to within this error.
    Disciplined { max_error_us: u64 },
    /// Nobody does, and it is served all the same.
    Alone,
    /// Nobody does: not to be used.
    Unfit,
}

impl Standing {
    pub fn of(state: ClockState, serve_unsynchronised: bool) -> Self {
        match (state.synchronised, serve_unsynchronised) {
            (true, _) => Self::Disciplined { max_error_us: state.max_error_us },
            (false, true) => Self::Alone,
            (false, false) => Self::Unfit,
        }
    }

    fn read(serve_unsynchronised: bool) -> Self {
        // A state that can't be read counts as a clock left alone.
        let state = read_clock_state().unwrap_or(ClockState { synchronised: false, max_error_us: 0 });
        Self::of(state, serve_unsynchronised)
    }

    fn tell(self) {
        match self {
            Self::Disciplined { .. } => info!("NTP: this host's clock is synchronised and is served"),
            Self::Alone => info!("NTP: this host's clock is not synchronised and is served all the same"),
            Self::Unfit => warn!(
                "NTP: this host's clock is not synchronised: clients are told not to use it, until it is; \
                 ntp.serve_unsynchronised in the configuration serves it all the same"
            ),
        }
    }
}

/// Answers until `shutdown`. Bad packets are ignored.
pub async fn serve(socket: UdpSocket, serve_unsynchronised: bool, shutdown: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        () = answer_for_ever(&socket, serve_unsynchronised) => Ok(()),
        () = shutdown => Ok(()),
    }
}

async fn answer_for_ever(socket: &UdpSocket, serve_unsynchronised: bool) {
    let mut told = Standing::read(serve_unsynchronised);
    told.tell();
    let mut limiter = RateLimiter::default();
    let mut buffer = [0; 512];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "NTP: receiving failed");
                tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                continue;
            }
        };
        let received = SystemTime::now();
        if !limiter.allows(from.ip(), Instant::now()) {
            debug!(%from, "NTP: asks too often, not answered");
            continue;
        }
        let request = buffer.get(..len).unwrap_or_default();
        let standing = Standing::read(serve_unsynchronised);
        if std::mem::discriminant(&standing) != std::mem::discriminant(&told) {
            standing.tell();
            told = standing;
        }
        if let Some(reply) = answer(request, standing, received, SystemTime::now())
            && let Err(error) = socket.send_to(&reply, from).await
        {
            debug!(%from, %error, "NTP: not sent");
        }
    }
}

/// The answer to a client's packet (mode 3, any version from 1 to 4); `None` for everything else. It is never longer
/// than the request, so that a forged sender is not flooded with our help.
pub fn answer(request: &[u8], standing: Standing, received: SystemTime, sent: SystemTime) -> Option<[u8; PACKET_LEN]> {
    let request: &[u8; PACKET_LEN] = request.first_chunk()?;
    let [flags, _, poll, ..] = *request;
    let (version, mode) = ((flags >> 3) & 7, flags & 7);
    if mode != 3 || !(1..=4).contains(&version) {
        return None;
    }
    // The kernel corrects a disciplined clock all the time, so that it was last set just now.
    let (leap, stratum, dispersion, reference, last_set) = match standing {
        Standing::Disciplined { max_error_us } => {
            (0, STRATUM_SYNCHRONISED, short_format(max_error_us), [127, 127, 1, 0], timestamp(received))
        }
        Standing::Alone => (0, STRATUM_ALONE, DISPERSION_ALONE, *b"LOCL", timestamp(received)),
        Standing::Unfit => (LEAP_ALARM, STRATUM_UNFIT, u32::MAX, [0; 4], [0; 8]),
    };
    let mut reply = [0; PACKET_LEN];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = reply.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, &[leap << 6 | version << 3 | 4, stratum, poll, PRECISION.to_be_bytes()[0]]);
    put(8, &dispersion.to_be_bytes());
    put(12, &reference);
    put(16, &last_set);
    put(24, request.get(40..48)?);
    put(32, &timestamp(received));
    put(40, &timestamp(sent));
    Some(reply)
}

/// 32 bits of seconds since 1900 (era 1 from 2036 wraps, as it should) and 32 bits of fraction.
fn timestamp(time: SystemTime) -> [u8; 8] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().wrapping_add(NTP_TO_UNIX_SECONDS) as u32;
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    ((u64::from(seconds) << 32) | fraction).to_be_bytes()
}

/// Microseconds in units of 2^-16 s.
fn short_format(microseconds: u64) -> u32 {
    u32::try_from(u128::from(microseconds) * 65_536 / 1_000_000).unwrap_or(u32::MAX)
}

/// So many packets of one source at once …
const BURST: f64 = 16.0;
/// … and so many a second for long.
const PER_SECOND: f64 = 2.0;
/// Sources remembered. When there are more, all are forgotten: soft, but bounded.
const MAX_SOURCES: usize = 4096;

#[derive(Default)]
struct RateLimiter {
    /// Tokens left and when they were counted.
    sources: HashMap<IpAddr, (f64, Instant)>,
}

impl RateLimiter {
    fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.clear();
        }
        let (tokens, counted) = self.sources.entry(source).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*counted).as_secs_f64() * PER_SECOND).min(BURST);
        *counted = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALONE: Standing = Standing::Alone;

    fn request() -> [u8; PACKET_LEN] {
        let mut packet = [0; PACKET_LEN];
        packet[0] = 4 << 3 | 3;
        packet[2] = 6;
        packet[40..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        packet
    }

    #[test]
    fn a_client_gets_its_own_time_back_and_ours() {
        let received = UNIX_EPOCH + Duration::from_millis(1_500);
        let reply = answer(&request(), ALONE, received, received + Duration::from_secs(1)).unwrap();
        assert_eq!(reply[0], 0b00_100_100, "no leap warning, version 4, mode server");
        assert_eq!(reply[1..4], [10, 6, 0xec]);
        assert_eq!(reply[12..16], *b"LOCL");
        assert_eq!(reply[24..32], [1, 2, 3, 4, 5, 6, 7, 8], "origin is the client's transmit time");
        assert_eq!(reply[32..40], [0x83, 0xaa, 0x7e, 0x81, 0x80, 0, 0, 0], "1.5 s after 1970");
        assert_eq!(reply[40..48], [0x83, 0xaa, 0x7e, 0x82, 0x80, 0, 0, 0]);
    }

    #[test]
    fn a_synchronised_host_says_so() {
        let standing = Standing::of(ClockState { synchronised: true, max_error_us: 500_000 }, false);
        let reply = answer(&request(), standing, UNIX_EPOCH, UNIX_EPOCH).unwrap();
        assert_eq!(reply[1], 4);
        assert_eq!(reply[8..12], 32_768u32.to_be_bytes(), "half a second in units of 2^-16 s");
    }

    #[test]
    fn a_host_left_alone_says_that_it_is_not_to_be_used_unless_told_to_serve() {
        let state = ClockState { synchronised: false, max_error_us: 16_000_000 };
        let reply = answer(&request(), Standing::of(state, false), UNIX_EPOCH, UNIX_EPOCH).unwrap();
        assert_eq!(reply[0], 0b11_100_100, "alarm, version 4, mode server");
        assert_eq!((reply[1], &reply[12..16]), (0, [0; 4].as_slice()));
        assert_eq!(Standing::of(state, true), Standing::Alone);
    }

    #[test]
    fn only_clients_are_answered() {
        for flags in [4 << 3 | 4, 4 << 3 | 1, 3, 7 << 3 | 3, 4 << 3 | 6] {
            let mut packet = request();
            packet[0] = flags;
            assert_eq!(answer(&packet, ALONE, UNIX_EPOCH, UNIX_EPOCH), None, "{flags:#x}");
        }
        assert_eq!(answer(&request()[..47], ALONE, UNIX_EPOCH, UNIX_EPOCH), None);
    }

    #[test]
    fn a_source_that_asks_too_often_waits() {
        let (mut limiter, start) = (RateLimiter::default(), Instant::now());
        let source = IpAddr::from([10, 0, 0, 5]);
        let allowed = (0..20).filter(|_| limiter.allows(source, start)).count();
        assert_eq!(allowed, 16);
        assert!(limiter.allows(IpAddr::from([10, 0, 0, 6]), start), "others are not affected");
        assert!(limiter.allows(source, start + Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = answer(&bytes, ALONE, UNIX_EPOCH, UNIX_EPOCH);
        }
    }
}
