//! LLDP against the real lldpd, in network namespaces. Needs root and the package lldpd.

mod namespace;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use drophammer::net::links::Netlink;
use drophammer::net::lldp::{Identity, Lldp, LldpMode, Neighbours, PortKind, REQUIREMENT_LIMIT};
use namespace::Namespace;
use time::macros::datetime;

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// Far longer than anything here takes: only a fault waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A switch: lldpd on one port.
struct Switch {
    daemon: Child,
    socket: std::path::PathBuf,
}

impl Switch {
    fn start(namespace: &Namespace, port: &str, dir: &Path) -> Self {
        let socket = dir.join(format!("{port}.sock"));
        let mut command = namespace.command("lldpd");
        command.args(["-d", "-I", port, "-C", port, "-S", "a switch", "-u"]).arg(&socket);
        let daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting lldpd");
        let switch = Self { daemon, socket };
        let started = Instant::now();
        while switch.cli(&["configure", "lldp", "tx-interval", "1"]).is_none() {
            assert!(started.elapsed() < PATIENCE, "lldpd does not listen on {}", switch.socket.display());
            thread::sleep(Duration::from_millis(50));
        }
        switch.cli(&["configure", "lldp", "portidsubtype", "local", "Eth1/1"]).expect("naming the port");
        switch
    }

    /// `None` when lldpcli fails.
    fn cli(&self, words: &[&str]) -> Option<String> {
        let output = Command::new("lldpcli").arg("-u").arg(&self.socket).args(words).output().expect("running lldpcli");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
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

#[test]
fn two_switches_are_heard_and_hear_the_machine() {
    let machine = Namespace::new("machine");
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    machine.plug("eth0", &left, "swp1");
    machine.plug("eth1", &right, "swp2");
    let dir = tempfile::tempdir().unwrap();
    let leaf1 = Switch::start(&left, "swp1", dir.path());
    let _leaf2 = Switch::start(&right, "swp2", dir.path());

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel::<Neighbours>();
    let agent = machine.run(|| async move {
        let netlink = Netlink::open().unwrap();
        let links = netlink.apply_ethernet_up().await.unwrap();
        let lldp = Lldp::start(&links, identity());
        lldp.wait_for_requirement(LldpMode::Required, REQUIREMENT_LIMIT).await.expect("two switches");
        tell.send(lldp.neighbours()).unwrap();
        let _ = stopped.await;
    });
    let neighbours = told.recv_timeout(PATIENCE).expect("neighbours");
    assert_eq!(neighbours.keys().collect::<Vec<_>>(), ["eth0", "eth1"]);
    let first = &neighbours["eth0"][0];
    assert_eq!((first.port_id.as_str(), first.port_kind), ("Eth1/1", PortKind::Local));
    let mac = left.ip("-o link show swp1");
    assert!(first.chassis_is_mac && mac.contains(&first.chassis_id), "{} in {mac}", first.chassis_id);
    assert!(first.system_description.as_deref().is_some_and(|text| text.contains("a switch")));

    // What the switch makes of our frames.
    let started = Instant::now();
    let seen = loop {
        let seen = leaf1.cli(&["-f", "keyvalue", "show", "neighbors", "details"]).unwrap_or_default();
        if seen.contains(UUID) {
            break seen;
        }
        assert!(started.elapsed() < PATIENCE, "lldpd does not see the machine:\n{seen}");
        thread::sleep(Duration::from_millis(100));
    };
    let _ = stop.send(());
    agent.join().unwrap();
    let machine_mac = machine.ip("-o link show eth0");
    let value = |key: &str| {
        let line = seen.lines().find(|line| line.split('=').next().is_some_and(|name| name.ends_with(key)));
        line.and_then(|line| line.split_once('=')).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    assert!(machine_mac.contains(&value("chassis.mac")), "{seen}");
    assert_eq!(value("chassis.name"), UUID);
    assert_eq!(value("port.ifname"), "eth0");
    assert_eq!(value("port.descr"), "eth0");
    assert_eq!(value("port.ttl"), "10");
    assert_eq!(
        value("chassis.descr"),
        "metal-hammer IP:10.1.0.77 version:v0.1.0 waiting since 2026-11-22T14:32:00Z for installation"
    );
}
