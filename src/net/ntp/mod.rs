//! Time from the configured servers, by an SNTP client of our own: asks all at once, by NTS where a server has it,
//! believes the majority, and sets the clock only with a time that passed every check.

mod ask;
mod choose;
pub mod nts;
mod packet;
mod refusals;
mod target;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tracing::{debug, warn};

pub use ask::{AskError, Asked, NtpClient, Protection, ServerAnswer};
pub use choose::{NoChoice, choose_answer};
pub use packet::{BadAnswer, PACKET_BYTES, Sample, parse_answer, render_question};
pub(crate) use target::split_port;

use super::bring_up::Network;
use crate::build_time::BUILD_TIME;
use crate::causes::with_causes;
use crate::config::cmdline::Cmdline;
use crate::sys::clock::{set_hardware_clock, set_system_clock};
use crate::sys::roots::Roots;

/// The step of the boot takes at most this long (contract: bounded, for example 10 s).
pub const CLOCK_LIMIT: Duration = Duration::from_secs(10);

/// The clock as it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSet {
    /// The server whose answer was taken.
    pub server: String,
    pub protection: Protection,
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
    client: &NtpClient,
    limit: Duration,
) -> Result<ClockSet, ClockError> {
    if servers.is_empty() {
        return Err(ClockError::NoServers);
    }
    let asked = client.ask_all(servers, limit).await;
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
    Ok(ClockSet {
        server: chosen.server,
        protection: chosen.protection,
        offset_ns: chosen.sample.offset_ns,
        answers: answers.len(),
        hardware_clock,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::resolver::Resolver;

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
            protection: Protection::Plain { why: None },
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
        let error =
            set_clock(&Roots::system(), &[], &NtpClient::new(Resolver::new(&[], &[])), CLOCK_LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "no time server is configured");
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_looked_up_is_told() {
        let servers = ["ntp.lab.example".to_owned()];
        let error = set_clock(&Roots::system(), &servers, &NtpClient::new(Resolver::new(&[], &[])), CLOCK_LIMIT)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no time server gave a usable answer; ntp.lab.example: cannot look up \"ntp.lab.example\": no name server \
             is configured"
        );
    }
}
