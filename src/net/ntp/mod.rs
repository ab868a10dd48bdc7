//! Time from the configured servers, by an SNTP client of our own: asks all at once, believes the majority, and sets
//! the clock only with a time that passed every check.

mod choose;
mod packet;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{debug, warn};

pub use choose::{NoChoice, choose_answer};
pub use packet::{BadAnswer, PACKET_BYTES, Sample, parse_answer, render_question};

use super::bring_up::Network;
use super::resolver::{ResolveError, Resolver};
use crate::build_time::BUILD_TIME;
use crate::causes::with_causes;
use crate::config::cmdline::Cmdline;
use crate::sys::clock::{set_hardware_clock, set_system_clock};
use crate::sys::roots::Roots;

/// The step of the boot takes at most this long (contract: bounded, for example 10 s).
pub const CLOCK_LIMIT: Duration = Duration::from_secs(10);
const NTP_PORT: u16 = 123;
/// Before the same server is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// After the first usable answer the others get this long: a dead server must not hold up the boot.
const GRACE: Duration = Duration::from_secs(1);

/// A usable answer of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAnswer {
    /// As configured.
    pub server: String,
    pub address: SocketAddr,
    pub sample: Sample,
}

/// Why one server was of no use.
#[derive(Debug, Error)]
pub enum AskError {
    #[error(transparent)]
    Name(#[from] ResolveError),
    #[error("does not answer")]
    Silent,
    #[error("answer {0}")]
    Bad(#[from] BadAnswer),
    #[error("asking {address}")]
    Socket { address: SocketAddr, source: std::io::Error },
    #[error("drawing a random number: {0}")]
    Random(String),
}

/// What became of one server.
#[derive(Debug)]
pub struct Asked {
    pub server: String,
    pub result: Result<ServerAnswer, AskError>,
}

/// The clock as it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSet {
    /// The server whose answer was taken.
    pub server: String,
    /// How far the clock was moved, nanoseconds; positive is forward.
    pub offset_ns: i128,
    /// Servers with a usable answer.
    pub answers: usize,
    /// The hardware clock was set as well.
    pub hardware_clock: bool,
}

/// Why the clock was left alone.
#[derive(Debug, Error)]
pub enum ClockError {
    #[error("no time server is configured")]
    NoServers,
    #[error("{choice}{}", told(asked))]
    NoChoice { choice: NoChoice, asked: Vec<Asked> },
    #[error("time server {server} says {unix_s} s since 1970, which was before this program was built")]
    LongPast { server: String, unix_s: i128 },
    #[error("setting the system clock")]
    Set(#[source] std::io::Error),
}

/// The failures, for a person.
fn told(asked: &[Asked]) -> String {
    let failures = asked.iter().filter_map(|asked| match &asked.result {
        Ok(_) => None,
        Err(error) => Some(format!("; {}: {}", asked.server, with_causes(error))),
    });
    failures.collect()
}

/// The servers to use: `drophammer.ntp=`, else MetalConfig's, else those the network told.
pub fn choose_servers(cmdline: &Cmdline, metal_config: &[String], network: &Network) -> Vec<String> {
    let from_cmdline: Vec<String> = cmdline.list("drophammer.ntp").into_iter().map(str::to_owned).collect();
    [from_cmdline.as_slice(), metal_config, &network.ntp]
        .into_iter()
        .find(|servers| !servers.is_empty())
        .map(<[String]>::to_vec)
        .unwrap_or_default()
}

/// Asks all servers and, when enough agree, sets the system clock and the hardware clock. Ends within `limit`.
/// The clock is never touched on the way to an error.
pub async fn set_clock(
    roots: &Roots,
    servers: &[String],
    resolver: &Resolver,
    limit: Duration,
) -> Result<ClockSet, ClockError> {
    if servers.is_empty() {
        return Err(ClockError::NoServers);
    }
    let asked = ask_all(servers, resolver, limit).await;
    let answers: Vec<ServerAnswer> = asked.iter().filter_map(|asked| asked.result.as_ref().ok().cloned()).collect();
    let chosen = match choose_answer(&answers) {
        Ok(chosen) => chosen.clone(),
        Err(choice) => return Err(ClockError::NoChoice { choice, asked }),
    };
    for Asked { server, result } in &asked {
        if let Err(error) = result {
            debug!(server, error = with_causes(error), "time server left out");
        }
    }
    let time = time_after_step(SystemTime::now(), &chosen)?;
    set_system_clock(time).map_err(ClockError::Set)?;
    let hardware_clock = apply_hardware_clock(&roots.dev.join("rtc0"));
    Ok(ClockSet { server: chosen.server, offset_ns: chosen.sample.offset_ns, answers: answers.len(), hardware_clock })
}

/// `now` moved by the answer's offset.
fn time_after_step(now: SystemTime, answer: &ServerAnswer) -> Result<SystemTime, ClockError> {
    let unix_ns = packet::unix_ns(now) + answer.sample.offset_ns;
    let long_past = || ClockError::LongPast { server: answer.server.clone(), unix_s: unix_ns / 1_000_000_000 };
    let since_epoch = u64::try_from(unix_ns).map(Duration::from_nanos).map_err(|_| long_past())?;
    if since_epoch < BUILD_TIME { Err(long_past()) } else { Ok(UNIX_EPOCH + since_epoch) }
}

/// False when there is no hardware clock or it can't be set: the system clock is right all the same.
fn apply_hardware_clock(device: &Path) -> bool {
    if !device.exists() {
        return false;
    }
    match set_hardware_clock(device, SystemTime::now()) {
        Ok(()) => true,
        Err(error) => {
            warn!(device = %device.display(), %error, "hardware clock not set");
            false
        }
    }
}

/// Asks all servers at once, in the order given. Ends when all have answered, a moment after the first usable answer,
/// or after `limit`.
pub async fn ask_all(servers: &[String], resolver: &Resolver, limit: Duration) -> Vec<Asked> {
    let limit_ends = Instant::now() + limit;
    let mut tasks = JoinSet::new();
    for (place, server) in servers.iter().cloned().enumerate() {
        let resolver = resolver.clone();
        tasks.spawn(async move {
            let result = ask(&server, &resolver, limit_ends).await;
            (place, result)
        });
    }
    let mut results: Vec<Option<Result<ServerAnswer, AskError>>> = servers.iter().map(|_| None).collect();
    let mut ends = limit_ends;
    while let Ok(Some(done)) = timeout_at(ends, tasks.join_next()).await {
        // A task that panicked counts as silent.
        let Ok((place, result)) = done else { continue };
        if result.is_ok() {
            ends = ends.min(Instant::now() + GRACE);
        }
        if let Some(slot) = results.get_mut(place) {
            *slot = Some(result);
        }
    }
    let asked = servers.iter().zip(results);
    asked
        .map(|(server, result)| Asked { server: server.clone(), result: result.unwrap_or(Err(AskError::Silent)) })
        .collect()
}

/// Asks one server until it answers usably or time is up.
async fn ask(server: &str, resolver: &Resolver, ends: Instant) -> Result<ServerAnswer, AskError> {
    let (host, port) = split_port(server);
    let lookup = timeout_at(ends, resolver.resolve(host)).await.map_err(|_| AskError::Silent)??;
    // IPv4 first: the agent's own address is one.
    let ip = lookup.iter().find(|ip| ip.is_ipv4()).or(lookup.first()).copied().ok_or(AskError::Silent)?;
    let address = SocketAddr::new(ip, port);
    let mut last = AskError::Silent;
    while Instant::now() < ends {
        let try_ends = ends.min(Instant::now() + ASK_AGAIN);
        match ask_once(address, try_ends).await {
            Ok(sample) => return Ok(ServerAnswer { server: server.to_owned(), address, sample }),
            // Whoever refuses, or has no time, will do so again in two seconds.
            Err(error @ AskError::Bad(_)) => return Err(error),
            Err(error) => last = error,
        }
        sleep_until(try_ends).await;
    }
    Err(last)
}

/// `host`, `host:port`, `[v6]:port`, or a bare IPv6 address.
fn split_port(server: &str) -> (&str, u16) {
    if server.parse::<IpAddr>().is_ok() {
        return (server, NTP_PORT);
    }
    match server.rsplit_once(':') {
        Some((host, port)) => port.parse().map_or((server, NTP_PORT), |port| (host, port)),
        None => (server, NTP_PORT),
    }
}

async fn ask_once(address: SocketAddr, ends: Instant) -> Result<Sample, AskError> {
    let broken = |source| AskError::Socket { address, source };
    let local: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await.map_err(broken)?;
    socket.connect(address).await.map_err(broken)?;
    let cookie = getrandom::u64().map_err(|error| AskError::Random(error.to_string()))?;
    // The local clock may be stepped meanwhile; elapsed time comes from the other one.
    let (sent, sent_at) = (SystemTime::now(), Instant::now());
    socket.send(&render_question(cookie)).await.map_err(broken)?;
    let mut buffer = [0; 512];
    let listen = async {
        loop {
            let len = socket.recv(&mut buffer).await.map_err(broken)?;
            let received = sent + sent_at.elapsed();
            match parse_answer(buffer.get(..len).unwrap_or_default(), cookie, sent, received) {
                // Somebody else's answer, or a forgery: the right one may still come.
                Err(BadAnswer::Origin | BadAnswer::TooShort { .. }) => {}
                answer => return Ok(answer?),
            }
        }
    };
    timeout(ends.saturating_duration_since(Instant::now()), listen).await.map_err(|_| AskError::Silent)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_from_the_first_source_that_has_any() {
        let network = Network {
            interface: "eth0".into(),
            link_index: 2,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            addresses: vec!["10.1.0.77/24".parse().unwrap()],
            routes: vec![],
            dns: vec![],
            domain: None,
            search: vec![],
            ntp: vec!["10.1.0.3".into()],
            host_name: None,
            dhcp_server: None,
            origin: crate::net::Origin::Dhcp,
        };
        let configured = ["10.1.0.2".to_owned()];
        let ours = Cmdline::parse("drophammer.ntp=10.1.0.1,ntp.lab");
        assert_eq!(choose_servers(&ours, &configured, &network), ["10.1.0.1", "ntp.lab"]);
        assert_eq!(choose_servers(&Cmdline::default(), &configured, &network), ["10.1.0.2"]);
        assert_eq!(choose_servers(&Cmdline::default(), &[], &network), ["10.1.0.3"]);
    }

    #[test]
    fn ports_are_split_off() {
        assert_eq!(split_port("10.0.0.1"), ("10.0.0.1", 123));
        assert_eq!(split_port("ntp.lab:1123"), ("ntp.lab", 1123));
        assert_eq!(split_port("2001:db8::1"), ("2001:db8::1", 123));
        assert_eq!(split_port("[2001:db8::1]:1123"), ("[2001:db8::1]", 1123));
    }

    #[test]
    fn a_time_before_this_program_is_never_set() {
        let answer = |offset_s: i128| ServerAnswer {
            server: "10.1.0.1".into(),
            address: ([10, 1, 0, 1], 123).into(),
            sample: Sample {
                offset_ns: offset_s * 1_000_000_000,
                delay: Duration::ZERO,
                stratum: 2,
                root_distance: Duration::ZERO,
            },
        };
        let built = i128::from(BUILD_TIME.as_secs());
        let day = Duration::from_secs(86_400);
        assert_eq!(time_after_step(UNIX_EPOCH, &answer(built + 86_400)).unwrap(), UNIX_EPOCH + BUILD_TIME + day);
        for offset_s in [-1, 0, 1_700_000_000, built - 1] {
            assert!(matches!(time_after_step(UNIX_EPOCH, &answer(offset_s)), Err(ClockError::LongPast { .. })));
        }
    }

    #[tokio::test]
    async fn without_servers_the_clock_is_left_alone() {
        let error = set_clock(&Roots::system(), &[], &Resolver::new(&[], &[]), CLOCK_LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "no time server is configured");
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_looked_up_is_told() {
        let servers = ["ntp.lab.example".to_owned()];
        let error = set_clock(&Roots::system(), &servers, &Resolver::new(&[], &[]), CLOCK_LIMIT).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no time server gave a usable answer; ntp.lab.example: cannot look up \"ntp.lab.example\": no name server \
             is configured"
        );
    }
}
