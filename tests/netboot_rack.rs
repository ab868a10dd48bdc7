//! Network boot on a real link: two network namespaces with a virtual cable between them. Needs root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use drophammer::anvil::netboot::config::{DhcpMode, DhcpSettings, TftpSettings};
use drophammer::anvil::netboot::ra::RouterAdvertiser;
use drophammer::anvil::netboot::{Asking, BootAuthority, BootDecision, Config, ConfigAnswer, Handles, start};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

/// This thread's namespace holds `rack0` (10.77.0.1/24); the client's holds the other end, `nic0`.
struct Rack {
    client: Child,
}

impl Rack {
    /// Moves the calling thread, and with it all it opens and starts, into a new network namespace.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace (needs root)");
        let script = "echo ready; exec sleep 600";
        let mut client =
            Command::new("unshare").args(["--net", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let rack = Self { client };
        ip("link add rack0 type veth peer name nic0");
        // Without duplicate detection the link-local address can be used at once.
        fs::write("/proc/sys/net/ipv6/conf/rack0/accept_dad", "0").unwrap();
        ip(&format!("link set nic0 netns {}", rack.client.id()));
        ip("addr add 10.77.0.1/24 dev rack0");
        rack.on_client(&["ip", "link", "set", "nic0", "up"]);
        ip("link set rack0 up");
        rack
    }

    /// Runs a command in the client's namespace and returns all it says.
    fn on_client(&self, command: &[&str]) -> String {
        let pid = self.client.id().to_string();
        let output = Command::new("nsenter").args(["--net", "--target", &pid]).args(command).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{command:?}: {text}");
        text
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[derive(Default)]
struct Authority {
    seen: AtomicUsize,
}

#[async_trait]
impl BootAuthority for Authority {
    async fn saw_dhcp(&self, uuid: &str) -> Result<()> {
        assert_eq!(uuid, "00112233-4455-6677-8899-aabbccddeeff");
        self.seen.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn boot(&self, _mac: &str) -> Result<BootDecision> {
        Ok(BootDecision::LocalDisk)
    }

    async fn metal_config(&self, _: Asking) -> Result<ConfigAnswer> {
        Ok(ConfigAnswer::Config(Box::default()))
    }
}

async fn servers(data: &Path, authority: &Arc<Authority>) -> Result<Handles> {
    let dhcp = DhcpSettings {
        mode: DhcpMode::Server,
        range: Some([[10, 77, 0, 100].into(), [10, 77, 0, 199].into()]),
        domain: Some("lab.test".into()),
        ..DhcpSettings::default()
    };
    let config = Config {
        listen: [10, 77, 0, 1].into(),
        interface: Some("rack0".into()),
        http_port: 4242,
        data: data.to_owned(),
        dhcp,
        tftp: TftpSettings { enabled: true, dir: data.to_owned() },
    };
    start(config, Arc::<Authority>::clone(authority)).await
}

/// A lease taken by busybox's client; the script's environment is what the lease says.
fn lease(rack: &Rack, dir: &Path, mac: &str, more: &[&str]) -> String {
    let script = dir.join("print");
    fs::write(&script, "#!/bin/sh\necho \"$1 ip=$ip mask=$mask domain=$domain boot_file=$boot_file\"\n").unwrap();
    Command::new("chmod").arg("+x").arg(&script).status().unwrap();
    rack.on_client(&["ip", "link", "set", "nic0", "address", mac]);
    let client = ["busybox", "udhcpc", "-i", "nic0", "-n", "-q", "-f", "-t", "10", "-s", script.to_str().unwrap()];
    let text = rack.on_client(&[&client, more].concat());
    text.lines().find(|line| line.starts_with("bound ")).unwrap_or_else(|| panic!("no lease: {text}")).to_owned()
}

/// Waits in steps for what another task does; the limit only ends a broken test.
async fn eventually(condition: impl Fn() -> bool) -> bool {
    for _ in 0..600 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[test]
fn a_real_client_gets_the_same_lease_before_and_after_a_restart() {
    let rack = Rack::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("undionly.kpxe"), "loader").unwrap();
    // Sockets belong to the namespace of the thread that opens them, hence a runtime in this thread; clients run
    // beside it.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let authority = Arc::new(Authority::default());
        let rack = Arc::new(rack);
        let ask = async |mac: &'static str, more: &'static [&'static str]| {
            let (rack, dir) = (Arc::clone(&rack), dir.path().to_owned());
            tokio::task::spawn_blocking(move || lease(&rack, &dir, mac, more)).await.unwrap()
        };
        let running = servers(dir.path(), &authority).await.unwrap();
        let taken = servers(dir.path(), &authority).await.map(|_| ()).unwrap_err();
        assert!(format!("{taken:#}").contains("binding UDP 0.0.0.0:67 on rack0 for DHCP"), "{taken:#}");

        let first = "bound ip=10.77.0.100 mask=24 domain=lab.test boot_file=";
        assert_eq!(ask("02:00:00:00:00:01", &[]).await, first);
        let pxe = ["-x", "0x5d:0000", "-V", "PXEClient", "-x", "0x61:0033221100554477668899aabbccddeeff"];
        let booting = ask("02:00:00:00:00:02", Box::leak(Box::new(pxe))).await;
        assert!(booting.contains("ip=10.77.0.101") && booting.ends_with("boot_file=02:00:00:00:00:02/0"), "{booting}");
        assert!(eventually(|| authority.seen.load(Ordering::SeqCst) > 0).await, "the authority was not told");
        running.stop().await;

        let restarted = servers(dir.path(), &authority).await.unwrap();
        assert!(ask("02:00:00:00:00:03", &[]).await.contains("ip=10.77.0.102"), "leased addresses are remembered");
        assert_eq!(ask("02:00:00:00:00:01", &[]).await, first);
        restarted.stop().await;
    });
}

#[test]
fn the_advertisement_on_the_wire_is_one_that_hosts_accept() {
    let _rack = Rack::new();
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::new(30, 0)).unwrap();
    let frame = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        tokio::spawn(RouterAdvertiser::open("rack0").unwrap().run());
        tokio::task::spawn_blocking(move || next_advertisement(&wire)).await.unwrap()
    });
    let (header, message) = frame.split_at(40);
    assert_eq!(header[7], 255, "hop limit");
    assert_eq!(header[8..10], [0xfe, 0x80], "from a link-local address");
    assert_eq!(header[24..], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "to all nodes");
    assert_eq!(message.len(), 16);
    assert_eq!(message[6..8], [0, 0], "router lifetime 0");
    assert_eq!(checksum(header, message), 0xffff, "with its checksum the sum is all ones");
}

#[test]
fn dns_forwards_only_to_the_configured_resolver() {
    use drophammer::anvil::dns;
    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    let _rack = Rack::new();
    ip("link set lo up");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (upstream, ours) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        for (address, settings) in [
            (upstream, "{hosts: {www.example.com: 192.0.2.7}, domain: example.com}"),
            (ours, "{hosts: {anvil.lab.test: 10.77.0.1}, domain: lab.test, forward: [127.0.0.1]}"),
        ] {
            let settings: dns::DnsSettings = serde_saphyr::from_str(settings).unwrap();
            let sockets = dns::bind(address).await.unwrap();
            tokio::spawn(async move { dns::serve(sockets, &settings, None, std::future::pending()).await });
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![NameServerConfig::udp_and_tcp(ours)]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        let found = resolver.lookup_ip("www.example.com.").await.unwrap();
        assert_eq!(found.iter().next().unwrap().to_string(), "192.0.2.7");
        assert!(resolver.lookup_ip("nobody.example.com.").await.unwrap_err().is_nx_domain());
        assert_eq!(resolver.lookup_ip("anvil.lab.test.").await.unwrap().iter().count(), 1);
    });
}

/// The IPv6 packet of the next router advertisement that passes.
fn next_advertisement(wire: &std::os::fd::OwnedFd) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut frame = [0; 2048];
    loop {
        let len = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()).expect("no advertisement came");
        let is_icmpv6 = len >= 14 + 40 + 16 && frame[12..14] == [0x86, 0xdd] && frame[14 + 6] == 58;
        if is_icmpv6 && frame[14 + 40] == 134 {
            return frame[14..len].to_vec();
        }
    }
}

/// One's complement sum over pseudo header and message (RFC 8200 section 8.1).
fn checksum(header: &[u8], message: &[u8]) -> u16 {
    let pseudo = [&header[8..40], &[0, 0, 0, message.len() as u8, 0, 0, 0, 58], message].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}
