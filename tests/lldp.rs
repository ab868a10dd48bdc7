//! LLDP against the real lldpd, in network namespaces. Needs root and the package lldpd.

mod namespace;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use drophammer::net::links::Netlink;
use drophammer::net::lldp::{Identity, Lldp, Neighbour, Neighbours, NotMet, PortKind, check_requirement};
use namespace::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use time::macros::datetime;
use tokio::sync::oneshot;

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// Far longer than anything here takes: only a fault waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// In intervals of one second. What is gone sooner was not waited out.
const HOLD: &str = "600";

/// A switch: lldpd on one port.
struct Switch {
    daemon: Child,
    socket: PathBuf,
    port: String,
}

impl Switch {
    /// `port_id`: how lldpd names its port: `local NAME`, `ifname` or `macaddress`.
    fn start(namespace: &Namespace, port: &str, name: &str, port_id: &[&str], dir: &Path) -> Self {
        // So that it can send from its start on.
        until(&format!("a carrier on {port}"), || {
            namespace.ip(&format!("-o link show {port}")).contains("LOWER_UP").then_some(())
        });
        let socket = dir.join(format!("{name}.sock"));
        let mut command = namespace.command("lldpd");
        command.args(["-d", "-I", port, "-C", port, "-S", "a switch", "-u"]).arg(&socket);
        let daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting lldpd");
        let switch = Self { daemon, socket, port: port.to_owned() };
        let port_id = [&["configure", "lldp", "portidsubtype"], port_id].concat();
        // lldpd pauses itself while it reads its files, and forgets what it was told meanwhile.
        until(&format!("lldpd speaks on {port}"), || {
            switch.cli(&["resume"])?;
            switch.cli(&["configure", "lldp", "tx-interval", "1"])?;
            switch.cli(&["configure", "lldp", "tx-hold", HOLD])?;
            switch.cli(&["configure", "system", "hostname", name])?;
            switch.cli(&port_id)?;
            switch.speaks().then_some(())
        });
        switch
    }

    /// Whether it is as configured, and sends.
    fn speaks(&self) -> bool {
        thread::sleep(Duration::from_millis(1500));
        let configuration = self.cli(&["-f", "keyvalue", "show", "configuration"]).unwrap_or_default();
        let statistics = self.cli(&["-f", "keyvalue", "show", "statistics"]).unwrap_or_default();
        let sent = format!("lldp.{}.tx.tx=", self.port);
        configuration.lines().any(|line| line == "configuration.config.tx-delay=1")
            && statistics.lines().any(|line| line.strip_prefix(&sent).is_some_and(|count| count != "0"))
    }

    /// `None` when lldpcli fails.
    fn cli(&self, words: &[&str]) -> Option<String> {
        let output = Command::new("lldpcli").arg("-u").arg(&self.socket).args(words).output().expect("running lldpcli");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.cli(&[&["-f", "json"], words].concat()).expect("lldpcli answers");
        serde_json::from_str(&text).expect("lldpcli prints JSON")
    }

    /// What it says of itself.
    fn announced(&self) -> Value {
        self.json(&["show", "interfaces"])["lldp"]["interface"][&self.port].clone()
    }

    /// The machine as it sees it, when it does.
    fn seen(&self) -> Option<Value> {
        let seen = self.json(&["show", "neighbors"])["lldp"]["interface"][&self.port].clone();
        seen["chassis"].get(UUID).is_some().then_some(seen)
    }

    /// As an operator stops it: it says farewell.
    fn stop(mut self) {
        let pid = i32::try_from(self.daemon.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("stopping lldpd");
        let _ = self.daemon.wait();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Asks again and again.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "never came: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// LLDP as the agent runs it, on all links of a namespace.
struct Machine {
    heard: Receiver<Neighbours>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    fn start(namespace: &Namespace) -> Self {
        let (tell, heard) = std::sync::mpsc::channel();
        let (stop, mut stopped) = oneshot::channel();
        let thread = namespace.run(move || async move {
            let links = Netlink::open().unwrap().apply_ethernet_up().await.unwrap();
            let lldp = Lldp::start(&links, identity());
            loop {
                let _ = tell.send(lldp.neighbours());
                tokio::select! {
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        });
        Self { heard, stop: Some(stop), thread: Some(thread) }
    }

    /// What is heard, as soon as it is as wanted.
    fn heard(&self, what: &str, wanted: impl Fn(&Neighbours) -> bool) -> Neighbours {
        let started = Instant::now();
        let mut last = Neighbours::new();
        while started.elapsed() < PATIENCE {
            let Ok(heard) = self.heard.recv_timeout(PATIENCE) else { break };
            if wanted(&heard) {
                return heard;
            }
            last = heard;
        }
        panic!("never came: {what}; last heard: {last:#?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn identity() -> Identity {
    Identity {
        uuid: Some(UUID.parse().unwrap()),
        ip: Some("10.1.0.77".parse().unwrap()),
        version: "v0.1.0".into(),
        started: datetime!(2026-11-22 14:32:00 UTC),
    }
}

/// Every field of the contract.
fn assert_is_what_was_announced(heard: &Neighbour, name: &str, announced: &Value) {
    let chassis = &announced["chassis"][name];
    let port = &announced["port"];
    assert_eq!(chassis["id"]["type"], "mac", "{announced}");
    assert!(heard.chassis_is_mac);
    assert_eq!(heard.chassis_id, chassis["id"]["value"], "{announced}");
    assert_eq!(heard.system_name.as_deref(), Some(name));
    assert_eq!(heard.system_description.as_deref(), chassis["descr"].as_str(), "{announced}");
    assert_eq!(heard.port_id, port["id"]["value"], "{announced}");
    let kind = match heard.port_kind {
        PortKind::Mac => "mac",
        PortKind::Interface => "ifname",
        PortKind::Local => "local",
        PortKind::Other => "other",
    };
    assert_eq!(kind, port["id"]["type"], "{announced}");
    assert_eq!(heard.port_description.as_deref(), port["descr"].as_str(), "{announced}");
    assert_eq!(heard.time_to_live.as_secs().to_string(), announced["ttl"]["ttl"], "{announced}");
    // Capabilities and 802.3's, which lldpd always sends.
    for kind in [7, 127] {
        assert!(heard.others.iter().any(|tlv| tlv.kind == kind), "TLV {kind}: {:?}", heard.others);
    }
}

#[test]
fn what_switches_announce_is_reported_and_what_we_announce_is_what_they_show() {
    let machine = Namespace::new("machine");
    let switches = [
        ("eth0", "swp1", "leaf01", vec!["local", "Eth1/3"], PortKind::Local),
        ("eth1", "swp2", "leaf02", vec!["macaddress"], PortKind::Mac),
        ("eth2", "swp3", "leaf03", vec!["ifname"], PortKind::Interface),
    ];
    let dir = tempfile::tempdir().unwrap();
    let running: Vec<(Namespace, Switch)> = switches
        .iter()
        .map(|(link, port, name, port_id, _)| {
            let namespace = Namespace::new(name);
            machine.plug(link, &namespace, port);
            machine.ip(&format!("link set {link} up"));
            let switch = Switch::start(&namespace, port, name, port_id, dir.path());
            (namespace, switch)
        })
        .collect();
    let agent = Machine::start(&machine);
    // lldpd's first frames are older than its configuration.
    let configured = |heard: &Neighbours| {
        switches.iter().all(|(link, _, name, _, kind)| {
            let new = |n: &Neighbour| n.system_name.as_deref() == Some(name) && n.port_kind == *kind;
            heard.get(*link).is_some_and(|heard| heard.iter().any(new))
        })
    };
    let heard = agent.heard("all three switches", configured);
    for ((link, _, name, _, kind), (_, switch)) in switches.iter().zip(&running) {
        let neighbour = heard[*link].iter().find(|neighbour| neighbour.port_kind == *kind).unwrap();
        assert_is_what_was_announced(neighbour, name, &switch.announced());
    }
    assert_eq!(check_requirement(&heard), Ok(()));
    let only = |links: &[&str]| -> Neighbours {
        let chosen = |link: &str, kind| {
            let heard = heard[link].iter().filter(|neighbour| neighbour.port_kind == kind).cloned().collect();
            (link.to_owned(), heard)
        };
        switches.iter().filter(|s| links.contains(&s.0)).map(|s| chosen(s.0, s.4)).collect()
    };
    assert_eq!(check_requirement(&only(&["eth0", "eth1"])), Ok(()));
    let missing = NotMet { links: 2, chassis: 1 };
    assert_eq!(check_requirement(&only(&["eth0", "eth2"])), Err(missing), "interface names do not count");

    for ((link, ..), (_, switch)) in switches.iter().zip(&running) {
        let seen = until(&format!("the machine, seen on {link}"), || switch.seen());
        let chassis = &seen["chassis"][UUID];
        assert_eq!(chassis["id"]["type"], "mac", "{seen}");
        let mac = chassis["id"]["value"].as_str().unwrap();
        assert!(machine.ip(&format!("-o link show {link}")).contains(&format!("link/ether {mac} ")), "{seen}");
        assert_eq!(
            chassis["descr"],
            "metal-hammer IP:10.1.0.77 version:v0.1.0 waiting since 2026-11-22T14:32:00Z for installation"
        );
        let port = serde_json::json!({ "id": { "type": "ifname", "value": link }, "descr": link, "ttl": "10" });
        for key in ["id", "descr", "ttl"] {
            assert_eq!(seen["port"][key], port[key], "{seen}");
        }
    }
}

#[test]
fn switches_on_one_link_are_told_apart_and_one_that_says_farewell_is_gone() {
    let machine = Namespace::new("machine");
    // A hub: a bridge that forwards even what bridges must not.
    let hub = Namespace::new("hub");
    machine.plug("eth0", &hub, "p0");
    hub.ip("link add br0 type bridge group_fwd_mask 16384");
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    left.plug("swp1", &hub, "p1");
    right.plug("swp2", &hub, "p2");
    left.ip("link set swp1 up");
    right.ip("link set swp2 up");
    for port in ["p0", "p1", "p2"] {
        hub.ip(&format!("link set {port} master br0"));
    }
    hub.ip("link set br0 up");
    let dir = tempfile::tempdir().unwrap();
    let leaf1 = Switch::start(&left, "swp1", "leaf01", &["local", "Eth1/3"], dir.path());
    let leaf2 = Switch::start(&right, "swp2", "leaf02", &["local", "Eth1/3"], dir.path());

    let agent = Machine::start(&machine);
    let names = |heard: &Neighbours| -> Vec<String> {
        let mut names: Vec<String> =
            heard.get("eth0").into_iter().flatten().filter_map(|neighbour| neighbour.system_name.clone()).collect();
        names.sort();
        names
    };
    let heard = agent.heard("both switches", |heard| names(heard) == ["leaf01", "leaf02"]);
    assert_eq!(heard.len(), 1, "all on one link");
    assert_eq!(check_requirement(&heard), Err(NotMet { links: 1, chassis: 2 }));
    let others: Vec<&str> = heard["eth0"].iter().map(|neighbour| neighbour.port_id.as_str()).collect();
    assert_eq!(others, ["Eth1/3", "Eth1/3"], "the same port name on two switches");

    leaf1.stop();
    let heard = agent.heard("the farewell of leaf01", |heard| names(heard) == ["leaf02"]);
    let [left] = heard["eth0"].as_slice() else { panic!("{heard:?}") };
    assert_eq!(left.time_to_live.as_secs().to_string(), HOLD, "it would have been present for long");
    leaf2.stop();
    agent.heard("the farewell of leaf02", Neighbours::is_empty);
}

/// The subcommand, as somebody at the console uses it.
#[test]
fn the_subcommand_prints_what_it_hears() {
    let machine = Namespace::new("machine");
    let left = Namespace::new("left");
    machine.plug("eth0", &left, "swp1");
    machine.ip("link set eth0 up");
    let dir = tempfile::tempdir().unwrap();
    let _leaf = Switch::start(&left, "swp1", "leaf01", &["local", "Eth1/3"], dir.path());
    let lldp = |words: &[&str]| {
        let mut command = machine.command(env!("CARGO_BIN_EXE_drophammer"));
        let output = command.arg("lldp").args(words).args(["--seconds", "2"]).output().expect("running drophammer");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // On a busy machine the switch may need longer than it is listened to.
    let heard = |words: &[&str]| {
        until("a neighbour", || match lldp(words) {
            (Some(0), text) if text.contains("Eth1/3") => Some(text),
            _ => None,
        })
    };
    let text = heard(&["eth0", "--debug"]);
    assert!(text.contains("port Eth1/3") && text.contains("system leaf01"), "{text}");
    assert!(text.contains("\n  TLV 7 "), "{text}");
    assert!(!heard(&["eth0"]).contains("TLV"));
    let json = heard(&["--format", "json"]);
    let heard: Value = serde_json::from_str(&json).expect("one JSON document");
    assert_eq!((&heard[0]["interface"], &heard[0]["port_id"]), (&"eth0".into(), &"Eth1/3".into()), "{json}");
    assert!(heard[0]["others"].as_array().is_some_and(|others| others.iter().any(|tlv| tlv["type"] == 7)), "{json}");
    let (status, _) = lldp(&["no-such-link"]);
    assert_eq!(status, Some(1));
}
