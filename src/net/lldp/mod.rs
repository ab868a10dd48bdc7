//! LLDP on all Ethernet links: tells switches who waits here, and hears which switch ports the cables lead to.
//!
//! Frames and rules: contract of the agent, section "Network and LLDP"; IEEE 802.1AB.

mod firmware;
mod frame;
mod requirement;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

pub use firmware::silence_firmware;
use frame::OTHER_MULTICASTS;
pub use frame::{ETHERTYPE, FrameError, MULTICAST, Neighbour, OtherTlv, PortKind, parse_frame, render_frame};
pub use requirement::{LldpMode, NotMet, check_requirement};

use super::AbortOnDrop;
use super::links::EthernetLink;
use crate::sys::packet::PacketSocket;

/// Between two frames; go-lldpd's value, which switch agents count on.
const SEND_INTERVAL: Duration = Duration::from_secs(5);
const TIME_TO_LIVE_S: u16 = 10;
/// SO_PRIORITY of control traffic.
const PRIORITY: i32 = 7;
/// How long after the start a required pair of neighbours is waited for. Switches send every 10 s.
pub const REQUIREMENT_LIMIT: Duration = Duration::from_secs(32);
/// One interval of the switches: after the requirement is met, so that every cable is listed and not only the first
/// two; and at least so long a requirement is waited for.
const GRACE: Duration = Duration::from_secs(10);
/// After an error of a packet socket (its link went down).
const SOCKET_PAUSE: Duration = Duration::from_secs(1);
/// A switch that makes up neighbours does not fill the memory.
const MOST_NEIGHBOURS_PER_LINK: usize = 64;

/// What the machine tells its switches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The system name. `None` leaves it empty.
    pub uuid: Option<Uuid>,
    /// `None` until the network is up; see [`Lldp::set_ip`].
    pub ip: Option<IpAddr>,
    pub version: String,
    pub started: OffsetDateTime,
}

impl Identity {
    fn system_name(&self) -> String {
        self.uuid.map(|uuid| uuid.to_string()).unwrap_or_default()
    }

    /// Whether it is this machine that speaks: a bridge or a loop in the cabling leads from one link to another.
    fn is_of(&self, neighbour: &Neighbour) -> bool {
        self.uuid.is_some() && neighbour.system_name.as_deref() == Some(self.system_name().as_str())
    }

    /// Never contains the word "provisioned", which switch agents take for the phone-home of an installed machine.
    fn system_description(&self) -> String {
        let ip = self.ip.map(|ip| ip.to_string()).unwrap_or_default();
        // The clock may have any value, but it has a four-digit year.
        let started = self.started.format(&Rfc3339).unwrap_or_default();
        let version = self.version.replace("provisioned", "");
        format!("metal-hammer IP:{ip} version:{version} waiting since {started} for installation")
    }
}

/// Neighbours by link name; a link without any is absent.
pub type Neighbours = BTreeMap<String, Vec<Neighbour>>;

/// Runs on its links until it is dropped.
pub struct Lldp {
    shared: Arc<Shared>,
    started: Instant,
    tasks: Mutex<BTreeMap<u32, AbortOnDrop>>,
}

struct Shared {
    state: Mutex<State>,
    /// Rung at every new neighbour.
    news: Notify,
}

/// The lock is held for moments only, never across an await.
struct State {
    identity: Identity,
    /// By link, then by chassis and port: one switch port counts once on a link, and again on another.
    heard: BTreeMap<String, BTreeMap<(String, String), Heard>>,
    /// Since when the requirement has been met, should it ever have been.
    met: Option<Instant>,
}

impl State {
    /// Everybody who was heard and has not gone silent.
    fn neighbours(&self) -> Neighbours {
        let now = Instant::now();
        let present = self.heard.iter().map(|(link, heard)| {
            let there = heard.values().filter(|heard| heard.until > now);
            (link.clone(), there.map(|heard| heard.neighbour.clone()).collect::<Vec<_>>())
        });
        present.filter(|(_, neighbours)| !neighbours.is_empty()).collect()
    }
}

struct Heard {
    neighbour: Neighbour,
    until: Instant,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lldp {
    /// Begins to send and to listen on `links`. A link that can't be used is logged and left out.
    pub fn start(links: &[EthernetLink], identity: Identity) -> Self {
        let lldp = Self::idle(identity);
        lldp.add_links(links);
        lldp
    }

    fn idle(identity: Identity) -> Self {
        let state = Mutex::new(State { identity, heard: BTreeMap::new(), met: None });
        let shared = Arc::new(Shared { state, news: Notify::new() });
        Self { shared, started: Instant::now(), tasks: Mutex::new(BTreeMap::new()) }
    }

    /// Also runs on these links; those it runs on already stay as they are. Returns those that are new.
    pub fn add_links(&self, links: &[EthernetLink]) -> Vec<EthernetLink> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut added = Vec::new();
        for link in links {
            if tasks.contains_key(&link.index) {
                continue;
            }
            match open_socket(link) {
                Ok(socket) => {
                    let task = tokio::spawn(run_on_link(link.clone(), socket, Arc::clone(&self.shared)));
                    tasks.insert(link.index, AbortOnDrop(task));
                    added.push(link.clone());
                }
                Err(error) => warn!(link = %link.name, error = format!("{error:#}"), "no LLDP on this link"),
            }
        }
        added
    }

    /// As if this neighbour had been heard on a link of this name.
    #[cfg(test)]
    pub(crate) fn hear(&self, link: &str, neighbour: Neighbour) {
        let mac = crate::api::mac::Mac([2, 0, 0, 0, 0, 1]);
        note(&EthernetLink { index: 2, name: link.to_owned(), mac }, neighbour, &self.shared);
    }

    /// From the next frame on tells this address.
    pub fn set_ip(&self, ip: IpAddr) {
        self.shared.state().identity.ip = Some(ip);
    }

    /// Everybody who was heard and has not gone silent.
    pub fn neighbours(&self) -> Neighbours {
        self.shared.state().neighbours()
    }

    /// Returns when somebody new is heard.
    pub async fn changed(&self) {
        self.shared.news.notified().await;
    }

    /// Waits until two links lead to two switches, and until that is [`GRACE`] ago, for the other cables. `limit`
    /// counts from the start, so that what was done meanwhile costs nothing. In the modes `optional` and `off` it does
    /// not wait at all.
    pub async fn wait_for_requirement(&self, mode: LldpMode, limit: Duration) -> Result<(), NotMet> {
        match mode {
            LldpMode::Off | LldpMode::Optional => return Ok(()),
            LldpMode::Required => {}
        }
        let ends = (self.started + limit).max(Instant::now() + GRACE.min(limit));
        while let Err(missing) = check_requirement(&self.neighbours()) {
            let news = timeout_at(ends, self.changed()).await;
            if news.is_err() {
                return check_requirement(&self.neighbours()).map_err(|_| missing);
            }
        }
        let met = self.shared.state().met.unwrap_or_else(Instant::now);
        sleep_until(met + GRACE).await;
        Ok(())
    }
}

fn open_socket(link: &EthernetLink) -> Result<PacketSocket> {
    let socket = PacketSocket::open(link.index, ETHERTYPE).context("opening a packet socket")?;
    // Without joining, the NIC filters the switch's frames out.
    socket.join_multicast(MULTICAST.0).with_context(|| format!("joining {MULTICAST}"))?;
    for other in OTHER_MULTICASTS {
        if let Err(error) = socket.join_multicast(other.0) {
            debug!(link = %link.name, %error, "not joining {other}");
        }
    }
    socket.set_priority(PRIORITY).context("setting the priority")?;
    Ok(socket)
}

async fn run_on_link(link: EthernetLink, socket: PacketSocket, shared: Arc<Shared>) {
    tokio::join!(send_on_link(&link, &socket, &shared), listen_on_link(&link, &socket, &shared));
}

async fn send_on_link(link: &EthernetLink, socket: &PacketSocket, shared: &Shared) {
    let mut ticks = interval(SEND_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let identity = shared.state().identity.clone();
        let frame =
            render_frame(link.mac, &link.name, TIME_TO_LIVE_S, &identity.system_name(), &identity.system_description());
        // A link without a carrier may refuse or block; its time will come.
        match timeout(SEND_INTERVAL, socket.send(&frame)).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => debug!(link = %link.name, %error, "LLDP frame not sent"),
        }
    }
}

async fn listen_on_link(link: &EthernetLink, socket: &PacketSocket, shared: &Shared) {
    let mut buffer = vec![0; 9216];
    loop {
        let len = match socket.receive(&mut buffer).await {
            Ok(received) => received.len,
            Err(error) => {
                debug!(link = %link.name, %error, "packet socket");
                sleep(SOCKET_PAUSE).await;
                continue;
            }
        };
        match parse_frame(buffer.get(..len).unwrap_or_default()) {
            Ok((source, neighbour)) if source != link.mac => note(link, neighbour, shared),
            // Our own frame, back through a loop in the cabling.
            Ok(_) => {}
            Err(error) => debug!(link = %link.name, %error, "no LLDP frame"),
        }
    }
}

fn note(link: &EthernetLink, neighbour: Neighbour, shared: &Shared) {
    let now = Instant::now();
    let key = (neighbour.chassis_id.clone(), neighbour.port_id.clone());
    let mut state = shared.state();
    if state.identity.is_of(&neighbour) {
        return debug!(link = %link.name, port = %neighbour.port_id, "another link of this machine is on the same wire");
    }
    let heard = state.heard.entry(link.name.clone()).or_default();
    heard.retain(|_, heard| heard.until > now);
    if neighbour.time_to_live.is_zero() {
        heard.remove(&key);
        return;
    }
    let is_new = !heard.contains_key(&key);
    if is_new && heard.len() >= MOST_NEIGHBOURS_PER_LINK {
        return;
    }
    if is_new {
        let system = neighbour.system_name.as_deref().unwrap_or(&neighbour.chassis_id);
        info!(link = %link.name, switch = system, port = %neighbour.port_id, "neighbour");
        for tlv in &neighbour.others {
            debug!(link = %link.name, switch = system, "{tlv}");
        }
    }
    let until = now + neighbour.time_to_live;
    heard.insert(key, Heard { neighbour, until });
    if state.met.is_none() && check_requirement(&state.neighbours()).is_ok() {
        state.met = Some(now);
    }
    drop(state);
    if is_new {
        shared.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_description_is_upstreams_and_never_says_provisioned() {
        let identity = Identity {
            uuid: Some("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()),
            ip: Some("10.1.0.77".parse().unwrap()),
            version: "v0.1.0-provisioned".into(),
            started: datetime!(2026-11-22 14:32:00 UTC),
        };
        assert_eq!(
            identity.system_description(),
            "metal-hammer IP:10.1.0.77 version:v0.1.0- waiting since 2026-11-22T14:32:00Z for installation"
        );
        assert_eq!(identity.system_name(), "00112233-4455-6677-8899-aabbccddeeff");
    }

    fn idle() -> Lldp {
        Lldp::idle(Identity { uuid: None, ip: None, version: String::new(), started: OffsetDateTime::UNIX_EPOCH })
    }

    fn neighbour(port: &str, ttl_s: u64) -> Neighbour {
        Neighbour {
            chassis_id: "02:00:00:00:00:09".into(),
            chassis_is_mac: true,
            port_id: port.into(),
            port_kind: PortKind::Local,
            port_description: None,
            system_name: None,
            system_description: None,
            time_to_live: Duration::from_secs(ttl_s),
            others: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_counts_once_per_link_until_it_goes_silent_or_says_farewell() {
        let lldp = idle();
        let ports = |lldp: &Lldp| -> Vec<(String, usize)> {
            lldp.neighbours().into_iter().map(|(link, neighbours)| (link, neighbours.len())).collect()
        };
        for _ in 0..2 {
            lldp.hear("eth0", neighbour("p1", 20));
            lldp.hear("eth1", neighbour("p1", 10));
        }
        lldp.hear("eth0", neighbour("p2", 20));
        assert_eq!(ports(&lldp), [("eth0".to_owned(), 2), ("eth1".to_owned(), 1)]);
        lldp.hear("eth0", neighbour("p2", 0));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(ports(&lldp), [("eth0".to_owned(), 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_no_neighbour_of_itself() {
        let uuid: Uuid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        let identity =
            Identity { uuid: Some(uuid), ip: None, version: String::new(), started: OffsetDateTime::UNIX_EPOCH };
        let lldp = Lldp::idle(identity);
        lldp.hear("eth0", Neighbour { system_name: Some(uuid.to_string()), ..neighbour("eth1", 20) });
        assert!(lldp.neighbours().is_empty());
        lldp.hear("eth0", Neighbour { system_name: Some("leaf01".into()), ..neighbour("swp1", 20) });
        assert_eq!(lldp.neighbours().len(), 1);
    }

    /// Two switches are heard, on two links.
    fn note_pair(lldp: &Lldp) {
        lldp.hear("eth0", neighbour("p1", 120));
        let other = Neighbour { chassis_id: "02:00:00:00:00:0a".into(), ..neighbour("p1", 120) };
        lldp.hear("eth1", other);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_requirement_nothing_is_waited_for() {
        let lldp = idle();
        for mode in [LldpMode::Optional, LldpMode::Off] {
            assert_eq!(lldp.wait_for_requirement(mode, REQUIREMENT_LIMIT).await, Ok(()));
        }
        assert_eq!(lldp.started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_required_pair_is_waited_for_as_long_as_upstream_does() {
        let lldp = idle();
        tokio::time::advance(Duration::from_secs(5)).await;
        let missing = lldp.wait_for_requirement(LldpMode::Required, REQUIREMENT_LIMIT).await;
        assert_eq!(missing, Err(NotMet { links: 0, chassis: 0 }));
        assert_eq!(lldp.started.elapsed().as_secs(), REQUIREMENT_LIMIT.as_secs(), "from the start, not from the call");
        let missing = lldp.wait_for_requirement(LldpMode::Required, REQUIREMENT_LIMIT).await;
        assert!(missing.is_err());
        let after = REQUIREMENT_LIMIT + GRACE;
        assert_eq!(lldp.started.elapsed().as_secs(), after.as_secs(), "one interval of the switches at least");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_pair_the_other_cables_get_one_interval() {
        let lldp = idle();
        let came = async {
            sleep(Duration::from_secs(3)).await;
            note_pair(&lldp);
            sleep(Duration::from_secs(9)).await;
            lldp.hear("eth2", neighbour("p7", 120));
        };
        let (met, ()) = tokio::join!(lldp.wait_for_requirement(LldpMode::Required, REQUIREMENT_LIMIT), came);
        assert_eq!((met, lldp.started.elapsed().as_secs()), (Ok(()), 13));
        assert_eq!(lldp.neighbours().len(), 3);
        lldp.wait_for_requirement(LldpMode::Required, REQUIREMENT_LIMIT).await.unwrap();
        assert_eq!(lldp.started.elapsed().as_secs(), 13, "the interval is over");
    }
}
