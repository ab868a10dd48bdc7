//! Router advertisements that say "there is no router here".
//!
//! iPXE configures IPv6 beside IPv4 and waits 13 seconds for an advertisement before it goes on. One with lifetime 0
//! and no prefix ends the wait and gives nobody a route or an address (RFC 4861 section 4.2).

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::sys::udp::{icmpv6_router_socket, interface_index};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Unasked, for clients whose solicitation was lost.
const INTERVAL: Duration = Duration::from_secs(30);
const SOCKET_ERROR_PAUSE: Duration = Duration::from_secs(1);
/// Answers to senders without an address go to everybody, at most this often (RFC 4861 section 6.2.6).
const MIN_DELAY_BETWEEN_ADVERTISEMENTS: Duration = Duration::from_secs(3);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The whole ICMPv6 message: no hop limit, no flags (neither DHCPv6 nor else), router lifetime 0, no timers, no
/// options. The kernel puts the checksum in.
pub const fn advertisement() -> [u8; 16] {
    [ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Type, code and the length of its fixed part; the kernel has checked the checksum.
pub fn is_solicitation(message: &[u8]) -> bool {
    message.len() >= 8 && message.starts_with(&[ROUTER_SOLICITATION, 0])
}

pub struct RouterAdvertiser {
    /// Raw ICMPv6, not UDP.
    socket: UdpSocket,
    interface: u32,
}

impl RouterAdvertiser {
    /// Opens the raw socket on an interface (needs CAP_NET_RAW).
    pub fn open(device: &str) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let socket = UdpSocket::from_std(icmpv6_router_socket(device)?)?;
            Ok(Self { socket, interface: interface_index(device)? })
        };
        open().with_context(|| format!("opening an ICMPv6 socket on {device} for router advertisements"))
    }

    /// Answers solicitations for ever. Failures are logged: without advertisements machines boot later, not never.
    pub async fn run(self) -> Result<()> {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_to_all = None;
        loop {
            let to = tokio::select! {
                _ = ticks.tick() => ALL_NODES,
                received = self.receive() => match received {
                    Ok(Some(from)) if from.is_unspecified() => ALL_NODES,
                    Ok(Some(from)) => from,
                    Ok(None) => continue,
                    Err(error) => {
                        warn!(%error, "router advertisements: receiving failed");
                        tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                        continue;
                    }
                },
            };
            if to == ALL_NODES {
                let now = tokio::time::Instant::now();
                if last_to_all.is_some_and(|last| now - last < MIN_DELAY_BETWEEN_ADVERTISEMENTS) {
                    continue;
                }
                last_to_all = Some(now);
            } else {
                debug!(client = %to, "router advertisement: answering a solicitation");
            }
            match self.send(to).await {
                Ok(()) => {}
                // The interface has no link-local address, or not yet: nobody waits for this one.
                Err(error) if to == ALL_NODES => debug!(%error, "router advertisement not sent"),
                Err(error) => info!(client = %to, %error, "router advertisement not sent, iPXE will wait for it"),
            }
        }
    }

    /// The sender of a solicitation; `None` for any other message.
    async fn receive(&self) -> std::io::Result<Option<Ipv6Addr>> {
        let mut buffer = [0; 1500];
        let (len, from) = self.socket.recv_from(&mut buffer).await?;
        match from.ip() {
            IpAddr::V6(from) if is_solicitation(buffer.get(..len).unwrap_or_default()) => Ok(Some(from)),
            IpAddr::V6(_) | IpAddr::V4(_) => Ok(None),
        }
    }

    async fn send(&self, to: Ipv6Addr) -> std::io::Result<()> {
        let to = SocketAddrV6::new(to, 0, 0, self.interface);
        self.socket.send_to(&advertisement(), to).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertisement_offers_nothing() {
        let message = advertisement();
        assert_eq!(message[0], 134);
        assert_eq!(message[5], 0, "neither managed addresses nor other configuration");
        assert_eq!(message[6..8], [0, 0], "lifetime 0: not a default router");
        assert_eq!(message.len(), 16, "no options, hence no prefix");
    }

    #[test]
    fn only_solicitations_are_answered() {
        assert!(is_solicitation(&[133, 0, 1, 2, 0, 0, 0, 0]));
        assert!(!is_solicitation(&[134, 0, 1, 2, 0, 0, 0, 0]));
        assert!(!is_solicitation(&[133, 0, 1, 2]));
        assert!(!is_solicitation(&[]));
    }
}
