//! anvil's DNS, asked by dig: hosts, machines that are allocated and freed, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use drophammer::anvil::dns::{self, MachineNames};
use drophammer::anvil::machines::{self, Hardware, MachineRecord, Nic};
use drophammer::anvil::netboot::leases::{Lease, LeaseFile};
use drophammer::anvil::sizes::Matching;
use drophammer::anvil::store::Store;
use drophammer::api::rest::{Allocation, Image};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::{TcpListener, UdpSocket};

const SETTINGS: &str = "{domain: lab.test, hosts: {anvil.lab.test: 10.77.0.1, big.lab.test: [BIG]}}";
const ID: &str = "8c1e0d2a-0000-4000-8000-000000000001";
const MAC: &str = "02:00:00:00:00:01";
const FOR_EVER: u64 = u64::MAX;

struct Site {
    server: SocketAddr,
    store: Store,
    dir: TempDir,
}

impl Site {
    /// A machine with a lease, and so many addresses of one host that they do not fit a packet.
    async fn new() -> Self {
        let many: Vec<String> = (1..=120).map(|n| format!("10.78.0.{n}")).collect();
        Self::with(&SETTINGS.replace("BIG", &many.join(", "))).await
    }

    async fn with(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::in_memory().unwrap();
        let settings: dns::DnsSettings = serde_saphyr::from_str(settings).unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(server).await.unwrap();
        let names = MachineNames::new(store.clone(), LeaseFile::in_data(dir.path()));
        tokio::spawn(async move { dns::serve(dns::Sockets { udp, tcp }, &settings, Some(names), pending()).await });
        let site = Self { server, store, dir };
        site.add_machine(ID, MAC);
        site.lease(&[("10.77.0.101", MAC, FOR_EVER)]);
        site
    }

    fn add_machine(&self, id: &str, mac: &str) {
        let mut machine = MachineRecord::new(id, OffsetDateTime::now_utc());
        machine.hardware = Hardware { nics: vec![Nic { mac: mac.into(), ..Nic::default() }], ..Hardware::default() };
        self.store.run_blocking(|tx| tx.put_machine(&machine)).unwrap();
    }

    fn allocate(&self, id: &str, hostname: &str) {
        self.store
            .run_blocking(|tx| {
                let mut machine = tx.expect_machine(id)?;
                let image = Some(Image { id: "debian-12.0.1".into(), ..Image::default() });
                machine.allocation = Some(Allocation { hostname: hostname.into(), image, ..Allocation::default() });
                tx.put_machine(&machine)
            })
            .unwrap();
    }

    fn free(&self, id: &str) {
        let now = OffsetDateTime::now_utc();
        self.store.run_blocking(|tx| machines::free(tx, id, Matching::Strict, now)).unwrap();
    }

    fn lease(&self, leases: &[(&str, &str, u64)]) {
        let leases: BTreeMap<Ipv4Addr, Lease> = leases
            .iter()
            .map(|(ip, mac, ends)| (ip.parse().unwrap(), Lease { mac: (*mac).into(), client_id: None, ends: *ends }))
            .collect();
        LeaseFile::in_data(self.dir.path()).save(&leases).unwrap();
    }

    /// What dig says: status, header flags, and the records of the answer.
    async fn dig(&self, words: &str) -> Answer {
        let mut command = tokio::process::Command::new("dig");
        command.args(["@127.0.0.1", "-p", &self.server.port().to_string(), "+nocookie", "+time=30", "+tries=1"]);
        let output = command.args(words.split_whitespace()).output().await;
        let output = output.expect("dig (Debian's package bind9-dnsutils)");
        Answer::parse(&String::from_utf8(output.stdout).unwrap())
    }

    async fn short(&self, words: &str) -> Vec<String> {
        self.dig(words).await.records
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: String,
    flags: Vec<String>,
    /// Their values, sorted.
    records: Vec<String>,
    /// Seconds, of the first record.
    ttl: Option<String>,
    text: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let between = |before: &str, end: &[char]| {
            let rest = text.split_once(before).map(|(_, rest)| rest)?;
            rest.split(end).next().map(str::trim)
        };
        let section = text.split(";; ANSWER SECTION:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        let rows: Vec<Vec<&str>> =
            section.unwrap_or_default().lines().map(|line| line.split_whitespace().collect()).collect();
        let mut records: Vec<String> = rows.iter().map(|row| row[4..].join(" ")).collect();
        records.sort();
        Self {
            status: between("status: ", &[',']).unwrap_or_default().to_owned(),
            flags: between(";; flags: ", &[';']).unwrap_or_default().split(' ').map(str::to_owned).collect(),
            records,
            ttl: rows.first().map(|row| row[1].to_owned()),
            text: text.to_owned(),
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }
}

#[tokio::test]
async fn an_allocated_host_name_is_there_at_once_and_gone_at_once() {
    let site = Site::new().await;
    assert_eq!(site.dig("web-1.lab.test").await.status, "NXDOMAIN");
    site.allocate(ID, "Web-1");
    for name in ["web-1.lab.test", "WEB-1.LAB.TEST"] {
        let answer = site.dig(name).await;
        assert_eq!(answer.records, ["10.77.0.101"], "{}", answer.text);
        assert!(answer.has("aa"), "{}", answer.text);
        let seconds: u32 = answer.ttl.unwrap().parse().unwrap();
        assert!(seconds <= 5, "a client would believe it for {seconds} s after the machine is free");
    }
    assert_eq!(site.short("-x 10.77.0.101").await, ["web-1.lab.test."]);
    let none = site.dig("AAAA web-1.lab.test").await;
    assert_eq!((none.status.as_str(), none.records.len()), ("NOERROR", 0), "{}", none.text);

    site.free(ID);
    assert_eq!(site.dig("web-1.lab.test").await.status, "NXDOMAIN");
    assert_eq!(site.short("-x 10.77.0.101").await, ["02-00-00-00-00-01.lab.test."]);
}

#[tokio::test]
async fn a_machine_has_names_of_its_own() {
    let site = Site::new().await;
    for label in [ID, "8c1e0d2a", "8C1E0D2A", "02-00-00-00-00-01"] {
        assert_eq!(site.short(&format!("{label}.lab.test")).await, ["10.77.0.101"], "{label}");
    }
    for label in ["8c1e0d2", "8c1e0d2b", "02-00-00-00-00-02", "00000000-0000-4000-8000-000000000009"] {
        assert_eq!(site.dig(&format!("{label}.lab.test")).await.status, "NXDOMAIN", "{label}");
    }
    assert_eq!(site.dig("a.8c1e0d2a.lab.test").await.status, "NXDOMAIN", "nothing is below a machine");
    // Two machines whose ids begin alike.
    site.add_machine("8c1e0d2a-ffff-4000-8000-000000000002", "02:00:00:00:00:02");
    assert_eq!(site.dig("8c1e0d2a.lab.test").await.status, "NXDOMAIN");
    assert_eq!(site.short(&format!("{ID}.lab.test")).await, ["10.77.0.101"]);
}

#[tokio::test]
async fn an_address_is_a_machines_only_as_long_as_its_lease() {
    let site = Site::new().await;
    site.allocate(ID, "web-1");
    site.lease(&[("10.77.0.101", MAC, 1), ("10.77.0.7", "02:00:00:00:00:09", FOR_EVER)]);
    let answer = site.dig("web-1.lab.test").await;
    assert_eq!((answer.status.as_str(), answer.records.len()), ("NOERROR", 0), "{}", answer.text);
    assert_eq!(site.dig("-x 10.77.0.101").await.status, "REFUSED");
    // A machine that has not registered yet.
    assert_eq!(site.short("02-00-00-00-00-09.lab.test").await, ["10.77.0.7"]);
    // A card that was moved: the machine that registered it last has its address.
    site.add_machine("9d000000-0000-4000-8000-000000000003", MAC);
    site.lease(&[("10.77.0.101", MAC, FOR_EVER)]);
    assert_eq!(site.dig("web-1.lab.test").await.records.len(), 0);
    assert_eq!(site.short("9d000000.lab.test").await, ["10.77.0.101"]);
}

#[tokio::test]
async fn what_the_operator_wrote_comes_before_what_machines_are_called() {
    let site = Site::new().await;
    site.allocate(ID, "anvil");
    assert_eq!(site.short("anvil.lab.test").await, ["10.77.0.1"]);
    assert_eq!(site.short("-x 10.77.0.1").await, ["anvil.lab.test."]);
    site.allocate(ID, "8c1e0d2b");
    assert_eq!(site.short("8c1e0d2b.lab.test").await, ["10.77.0.101"], "a host name that looks like an id");
}

#[tokio::test]
async fn zone_transfers_and_all_that_is_not_ours_are_refused() {
    let site = Site::new().await;
    site.allocate(ID, "web-1");
    for words in [
        "AXFR lab.test",
        "+tcp IXFR=1 lab.test",
        "AXFR .",
        "TYPE253 lab.test",
        "example.com",
        "MX example.com",
        "-x 192.0.2.1",
        ". NS",
        "CH TXT version.bind",
        "-x fd00::1",
    ] {
        let answer = site.dig(words).await;
        let refused = answer.status == "REFUSED" || answer.text.contains("; Transfer failed.");
        assert!(refused && answer.records.is_empty() && !answer.has("ra"), "{words}: {}", answer.text);
        assert!(!answer.text.contains("10.77.0.101"), "{words}: {}", answer.text);
    }
    assert_eq!(site.dig("+opcode=notify lab.test").await.status, "NOTIMP");
    assert_eq!(site.dig("+opcode=update lab.test").await.status, "NOTIMP");
}

#[tokio::test]
async fn answers_keep_to_the_size_that_the_client_takes() {
    let site = Site::new().await;
    let whole = site.dig("big.lab.test").await;
    assert_eq!(whole.records.len(), 120, "by TCP, after an answer that was cut off: {}", whole.text);
    for words in
        ["+noedns +ignore big.lab.test", "+bufsize=512 +ignore big.lab.test", "+bufsize=4096 +ignore big.lab.test"]
    {
        let cut = site.dig(words).await;
        assert!(cut.has("tc"), "{words}: {}", cut.text);
        let limit = if words.contains("4096") { 1232 } else { 512 };
        let size = cut.text.split("MSG SIZE  rcvd: ").nth(1).unwrap().trim().parse::<usize>().unwrap();
        assert!(size <= limit, "{words}: {size} bytes");
    }
    let newer = site.dig("+edns=1 +noednsneg anvil.lab.test").await;
    assert_eq!((newer.status.as_str(), newer.records.len()), ("BADVERS", 0), "{}", newer.text);
}

#[tokio::test]
async fn without_a_domain_machines_have_no_names() {
    let site = Site::with("{hosts: {anvil.lab.test: 10.77.0.1}}").await;
    site.allocate(ID, "web-1");
    assert_eq!(site.short("anvil.lab.test").await, ["10.77.0.1"]);
    for words in ["web-1.lab.test", "web-1", "-x 10.77.0.101"] {
        assert_eq!(site.dig(words).await.status, "REFUSED", "{words}");
    }
}

#[tokio::test]
async fn leases_that_can_not_be_read_are_a_failure_and_no_denial() {
    let site = Site::new().await;
    fs::write(Path::new(site.dir.path()).join("dhcp-leases.json"), "{").unwrap();
    assert_eq!(site.dig("web-1.lab.test").await.status, "SERVFAIL");
    assert_eq!(site.short("anvil.lab.test").await, ["10.77.0.1"], "hosts need no leases");
}
