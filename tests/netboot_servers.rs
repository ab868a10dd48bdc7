//! The servers around DHCP, real and on loopback: TFTP, boot HTTP, images, DNS, NTP.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use drophammer::anvil::netboot::file_id::FileIds;
use drophammer::anvil::netboot::http::{BootHttp, router};
use drophammer::anvil::netboot::script::SecureConfig;
use drophammer::anvil::netboot::tftp::TftpServer;
use drophammer::anvil::netboot::{Asking, BootAuthority, BootDecision, ConfigAnswer};
use drophammer::anvil::{dns, images_http, ntp};
use drophammer::api::ca_pin::CaPin;
use drophammer::api::metal_config::MetalConfig;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Only reached when an answer that must come does not.
const PATIENCE: Duration = Duration::from_secs(30);

// ---- TFTP ----

async fn tftp_server(dir: &Path) -> SocketAddr {
    let socket = std::net::UdpSocket::bind((LOOPBACK, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(TftpServer::new(socket, dir.to_owned()).unwrap().run());
    address
}

struct TftpClient {
    socket: UdpSocket,
    peer: SocketAddr,
}

impl TftpClient {
    async fn ask(server: SocketAddr, request: &[u8]) -> (Self, Vec<u8>) {
        let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
        socket.send_to(request, server).await.unwrap();
        let mut client = Self { socket, peer: server };
        let first = client.receive().await;
        assert_ne!(client.peer, server, "a transfer has a port of its own");
        (client, first)
    }

    async fn receive(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let (len, from) = timeout(PATIENCE, self.socket.recv_from(&mut buffer)).await.expect("no answer").unwrap();
        self.peer = from;
        buffer.truncate(len);
        buffer
    }

    async fn acknowledge(&self, block: u16) {
        let [high, low] = block.to_be_bytes();
        self.socket.send_to(&[0, 4, high, low], self.peer).await.unwrap();
    }

    /// The rest of a file whose next packet is given; sends every acknowledgement twice.
    async fn read_to_end(&mut self, mut packet: Vec<u8>, block_size: usize) -> Vec<u8> {
        let (mut content, mut block) = (Vec::new(), 1u16);
        loop {
            assert_eq!(packet[..4], [0, 3, block.to_be_bytes()[0], block.to_be_bytes()[1]]);
            content.extend_from_slice(&packet[4..]);
            self.acknowledge(block).await;
            self.acknowledge(block).await;
            if packet.len() < 4 + block_size {
                return content;
            }
            block = block.wrapping_add(1);
            packet = self.receive().await;
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn tftp_sends_a_file_in_plain_blocks_and_survives_doubled_acknowledgements() {
    let dir = tempfile::tempdir().unwrap();
    for len in [0, 511, 512, 1300] {
        std::fs::write(dir.path().join("undionly.kpxe"), pattern(len)).unwrap();
        let server = tftp_server(dir.path()).await;
        let (mut client, first) = TftpClient::ask(server, b"\0\x0102:00:00:00:00:01/0\0octet\0").await;
        assert_eq!(client.read_to_end(first, 512).await, pattern(len), "{len} bytes");
    }
}

#[tokio::test]
async fn tftp_grants_block_size_and_tells_the_size() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ipxe.efi"), pattern(100_000)).unwrap();
    let server = tftp_server(dir.path()).await;
    let request = b"\0\x0102:00:00:00:00:01/2\0octet\0tsize\x000\0blksize\x009000\0timeout\x005\0";
    let (mut client, ack) = TftpClient::ask(server, request).await;
    assert_eq!(ack, b"\0\x06blksize\x001468\0timeout\x005\0tsize\x00100000\0");
    client.acknowledge(0).await;
    let first = client.receive().await;
    assert_eq!(client.read_to_end(first, 1468).await, pattern(100_000));
}

#[tokio::test]
async fn tftp_sends_again_what_was_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"short").unwrap();
    let (mut client, first) = TftpClient::ask(tftp_server(dir.path()).await, b"\0\x01f\0octet\0").await;
    assert_eq!(client.receive().await, first);
}

#[tokio::test]
async fn tftp_refuses_what_is_not_there_and_any_writing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let server = tftp_server(dir.path()).await;
    for name in ["nothing", "../x", "sub", "02:00:00:00:00:01/7"] {
        let (_, answer) = TftpClient::ask(server, format!("\0\x01{name}\0octet\0").as_bytes()).await;
        assert_eq!(answer, b"\0\x05\0\x01file not found\0", "{name}");
    }
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    socket.send_to(b"\0\x02f\0octet\0", server).await.unwrap();
    let mut buffer = [0; 100];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
    assert_eq!(&buffer[..len], b"\0\x05\0\x04read only\0");
}

// ---- boot HTTP ----

/// Boots `…:01` into the agent, `…:02` from its disk, and knows no others.
struct Authority;

#[async_trait]
impl BootAuthority for Authority {
    async fn saw_dhcp(&self, _uuid: &str) -> Result<()> {
        Ok(())
    }

    async fn boot(&self, mac: &str) -> Result<BootDecision> {
        match mac {
            "02:00:00:00:00:01" => Ok(BootDecision::Agent { cmdline: "console=ttyS0,115200n8".into() }),
            "02:00:00:00:00:02" => Ok(BootDecision::LocalDisk),
            other => bail!("no partition for {other}"),
        }
    }

    async fn metal_config(&self, _: Asking) -> Result<ConfigAnswer> {
        let config = MetalConfig { partition: "lab".into(), hmac: Some("view".into()), ..Default::default() };
        Ok(ConfigAnswer::Config(Box::new(config)))
    }
}

async fn serve_http(router: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

async fn boot_server(dir: &Path) -> SocketAddr {
    std::fs::write(dir.join("vmlinuz"), b"the kernel").unwrap();
    std::fs::write(dir.join("initrd"), pattern(1_000_000)).unwrap();
    std::fs::write(dir.join("snponly.efi"), b"MZ").unwrap();
    serve_http(router(Arc::new(BootHttp {
        authority: Arc::new(Authority),
        address: "10.1.0.5:4242".parse().unwrap(),
        kernel: dir.join("vmlinuz"),
        initrd: dir.join("initrd"),
        pixie_api_url: "http://10.1.0.5:4242/certs".into(),
        secure_config: SecureConfig { url: "https://10.1.0.5:4243/certs".to_owned(), ca: CaPin::of(b"certificate") },
        debug: true,
        loader_dir: dir.to_owned(),
        ids: FileIds::load_or_create(&dir.join("file-id.key")).unwrap(),
    })))
    .await
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let response = http().get(format!("http://{address}{path}")).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn ipxe_gets_a_script_whose_links_lead_to_kernel_and_initrd() {
    let dir = tempfile::tempdir().unwrap();
    let server = boot_server(dir.path()).await;
    let (status, script) = get(server, "/_/ipxe?arch=0&mac=02%3A00%3A00%3A00%3A00%3A01").await;
    assert_eq!(status, 200, "{script}");
    let lines: Vec<&str> = script.lines().collect();
    assert_eq!(lines[..2], ["#!ipxe", "isset ${console} || set console ttyS0"]);
    assert_eq!(
        lines[6],
        format!(
            "boot kernel initrd=initrd0 console=${{console}},115200n8 console=ttyS0,115200n8 \
             PIXIE_API_URL=http://10.1.0.5:4242/certs drophammer.config=https://10.1.0.5:4243/certs drophammer.ca={} \
             drophammer.lldp=optional DEBUG=1 BOOTIF=01-02-00-00-00-00-01",
            CaPin::of(b"certificate")
        )
    );
    let link = |line: &str| {
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        url.strip_prefix(&format!("http://{server}")).expect("the Host header's address").to_owned()
    };
    assert_eq!(get(server, &link(lines[2])).await, (200, "the kernel".into()));
    // A second server with the same key takes the same ids: a restart does not break a boot.
    let restarted = boot_server(dir.path()).await;
    let initrd = http().get(format!("http://{restarted}{}", link(lines[3]))).send().await.unwrap();
    assert_eq!((initrd.status().as_u16(), initrd.content_length()), (200, Some(1_000_000)));
    assert_eq!(initrd.bytes().await.unwrap(), pattern(1_000_000));
    assert_eq!(get(server, &link(lines[4])).await, (200, "# Booting\n".into()));
}

#[tokio::test]
async fn a_machine_with_an_installed_system_boots_its_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (status, script) = get(boot_server(dir.path()).await, "/_/ipxe?arch=1&mac=02:00:00:00:00:02").await;
    assert!(status == 200 && script.starts_with("#!ipxe\n") && script.contains("sanboot"), "{script}");
}

#[tokio::test]
async fn boot_requests_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = boot_server(dir.path()).await;
    for (path, status, reason) in [
        ("/_/ipxe", 400, "arch"),
        ("/_/ipxe?arch=2&mac=02:00:00:00:00:01", 400, "arch"),
        ("/_/ipxe?arch=0", 400, "mac is missing"),
        ("/_/ipxe?arch=0&mac=02:00:00:00:00", 400, "not an Ethernet address"),
        ("/_/ipxe?arch=0&mac=02:00:00:00:00:09", 500, "no partition for 02:00:00:00:00:09"),
        ("/_/file", 400, "name is missing"),
        ("/_/file?name=L2V0Yy9wYXNzd2Q&type=kernel", 400, "not an id"),
        ("/_/loader/vmlinuz", 404, ""),
    ] {
        let (got, text) = get(server, path).await;
        assert!(got == status && text.contains(reason), "{path}: {got} {text}");
    }
    std::fs::remove_file(dir.path().join("vmlinuz")).unwrap();
    let (_, script) = get(server, "/_/ipxe?arch=0&mac=02:00:00:00:00:01").await;
    let kernel = script.lines().nth(2).unwrap().split_whitespace().last().unwrap().to_owned();
    let (status, text) = get(server, kernel.strip_prefix(&format!("http://{server}")).unwrap()).await;
    assert!(status == 500 && text.contains("vmlinuz") && text.contains("No such file"), "{status} {text}");
}

#[tokio::test]
async fn a_host_header_cannot_add_lines_to_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let server = boot_server(dir.path()).await;
    let url = format!("http://{server}/_/ipxe?arch=0&mac=02:00:00:00:00:01");
    let script = http().get(url).header("Host", "a b || shell").send().await.unwrap().text().await.unwrap();
    assert!(!script.contains("shell") && script.contains("http://10.1.0.5:4242/_/file"), "{script}");
}

#[tokio::test]
async fn the_agents_configuration_is_indented_json() {
    let dir = tempfile::tempdir().unwrap();
    let (status, text) = get(boot_server(dir.path()).await, "/certs").await;
    assert_eq!(status, 200);
    assert!(text.starts_with("{\n  \"") && text.contains("\n  \"hmac\": \"view\""), "{text}");
    assert_eq!(serde_json::from_str::<MetalConfig>(&text).unwrap().partition, "lab");
}

#[tokio::test]
async fn http_boot_gets_a_loader_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(get(boot_server(dir.path()).await, "/_/loader/ipxe.efi").await, (200, "MZ".into()));
}

// ---- images ----

async fn image_server(dir: &Path) -> String {
    std::fs::create_dir(dir.join("debian-12")).unwrap();
    std::fs::write(dir.join("debian-12/img.tar.zst"), pattern(700_000)).unwrap();
    std::fs::write(dir.join("debian-12/img.tar.zst.sha256"), "abc  img.tar.zst\n").unwrap();
    std::fs::write(dir.join("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("debian-12/link")).unwrap();
    let address = serve_http(images_http::router(dir.to_owned())).await;
    format!("http://{address}/images/debian-12")
}

#[tokio::test]
async fn an_image_comes_whole_in_part_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let base = image_server(dir.path()).await;
    let (client, url) = (http(), format!("{base}/img.tar.zst"));
    let whole = client.get(&url).send().await.unwrap();
    assert_eq!((whole.status().as_u16(), whole.content_length()), (200, Some(700_000)));
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    let (tag, date) = (whole.headers()["etag"].clone(), whole.headers()["last-modified"].clone());
    assert_eq!(whole.bytes().await.unwrap(), pattern(700_000));

    let head = client.head(&url).send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"700000".parse().unwrap()));

    for validator in [&tag, &date] {
        let rest =
            client.get(&url).header("Range", "bytes=300000-").header("If-Range", validator).send().await.unwrap();
        assert_eq!((rest.status().as_u16(), rest.content_length()), (206, Some(400_000)));
        assert_eq!(rest.headers()["content-range"], "bytes 300000-699999/700000");
        assert_eq!(rest.bytes().await.unwrap(), pattern(700_000)[300_000..]);
    }
    let changed = client.get(&url).header("Range", "bytes=300000-").header("If-Range", "\"old\"").send().await.unwrap();
    assert_eq!(changed.status().as_u16(), 200, "a part of another file would be garbage");

    let beyond = client.get(&url).header("Range", "bytes=700000-").send().await.unwrap();
    assert_eq!(
        (beyond.status().as_u16(), &beyond.headers()["content-range"]),
        (416, &"bytes */700000".parse().unwrap())
    );
    let known = client.get(&url).header("If-None-Match", &tag).send().await.unwrap();
    assert_eq!(known.status().as_u16(), 304);
    let unchanged = client.get(&url).header("If-Modified-Since", &date).send().await.unwrap();
    assert_eq!(unchanged.status().as_u16(), 304);

    std::fs::write(dir.path().join("debian-12/img.tar.zst"), pattern(700_001)).unwrap();
    let replaced = client.get(&url).header("If-None-Match", &tag).send().await.unwrap();
    assert_eq!((replaced.status().as_u16(), replaced.content_length()), (200, Some(700_001)));

    let digest = client.get(format!("{url}.sha256")).send().await.unwrap();
    assert_eq!(digest.headers()["content-type"], "text/plain");
    assert_eq!(digest.text().await.unwrap(), "abc  img.tar.zst\n");
}

#[tokio::test]
async fn nothing_but_images_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let base = image_server(dir.path()).await;
    for path in ["/", "", "/..%2Foutside", "/%2E%2E%2Foutside", "/link", "/nothing", "/.hidden", "/%2Fetc%2Fpasswd"] {
        let response = http().get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 404, "{path}");
    }
}

// ---- DNS ----

async fn dns_server(settings: &str) -> SocketAddr {
    let settings: dns::DnsSettings = serde_saphyr::from_str(settings).unwrap();
    let udp = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { dns::serve(dns::Sockets { udp, tcp }, &settings, None, pending()).await });
    address
}

mod resolver {
    use super::*;
    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    pub fn at(address: SocketAddr, mut connection: ConnectionConfig) -> TokioResolver {
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder.options_mut().cache_size = 0;
        builder.build().unwrap()
    }
}

const HOSTS: &str =
    "{enabled: true, domain: lab.test, hosts: {anvil.lab.test: 10.77.0.1, six.lab.test: ['fd00::1', 10.77.0.2]}}";

#[tokio::test]
async fn dns_answers_hosts_over_udp_and_tcp() {
    use hickory_resolver::config::ConnectionConfig;
    use hickory_resolver::proto::rr::RecordType;
    let server = dns_server(HOSTS).await;
    for connection in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
        let resolver = resolver::at(server, connection);
        let found = resolver.lookup_ip("Anvil.lab.test.").await.unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), [IpAddr::from([10, 77, 0, 1])]);
        let found = resolver.lookup("six.lab.test.", RecordType::AAAA).await.unwrap();
        assert_eq!(found.answers()[0].data.to_string(), "fd00::1");
        let found = resolver.reverse_lookup(IpAddr::from([10, 77, 0, 1])).await.unwrap();
        assert_eq!(found.answers()[0].data.to_string(), "anvil.lab.test.");
    }
}

#[tokio::test]
async fn dns_denies_unknown_hosts_and_refuses_the_rest_of_the_world() {
    use hickory_resolver::config::ConnectionConfig;
    use hickory_resolver::proto::op::ResponseCode;
    let resolver = resolver::at(dns_server(HOSTS).await, ConnectionConfig::udp());
    let missing = resolver.lookup_ip("nobody.lab.test.").await.unwrap_err();
    assert!(missing.is_nx_domain(), "{missing}");
    let outside = resolver.lookup_ip("example.com.").await.unwrap_err();
    assert!(outside.to_string().contains(&ResponseCode::Refused.to_string()), "{outside}");
}

// ---- NTP ----

#[tokio::test]
async fn ntp_answers_a_client_over_the_network() {
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(ntp::serve(socket, true, pending()));
    let client = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let mut request = [0; 48];
    request[0] = 0x23;
    request[40..].copy_from_slice(b"mystamp!");
    client.send_to(&request, address).await.unwrap();
    let mut reply = [0; 100];
    let len = timeout(PATIENCE, client.recv(&mut reply)).await.expect("no answer").unwrap();
    assert_eq!((len, reply[0], &reply[24..32]), (48, 0x24, b"mystamp!".as_slice()));
    assert!(matches!(reply[1], 4 | 10), "stratum {}", reply[1]);
    let seconds = u64::from(u32::from_be_bytes(reply[40..44].try_into().unwrap()));
    assert!(seconds > 3_800_000_000, "a time after 2020: {seconds}");
}
