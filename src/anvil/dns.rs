//! Names for a network without the internet: the configured hosts and the machines, answered with authority, and nothing
//! else unless resolvers to forward to are configured, too.

mod machines;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, LowerQuery, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tracing::{debug, info, warn};

pub use machines::MachineNames;

use super::refusal::Refusal;

/// Short, so that a changed configuration is soon seen.
const TTL_SECONDS: u32 = 60;
/// Of machines, and of names that do not exist: allocating and freeing should be seen at once.
const MACHINE_TTL_SECONDS: u32 = 5;
/// Largest UDP answer that passes everywhere without fragments (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;
const EDNS_VERSION: u8 = 0;
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);
const TCP_IDLE: Duration = Duration::from_secs(5);
const TCP_RESPONSE_BUFFER: usize = 32;

/// Block `dns` of anvil's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsSettings {
    pub enabled: bool,
    /// Machines have names below it. Names below it that are neither theirs nor hosts do not exist; without it they
    /// are forwarded or refused.
    pub domain: Option<String>,
    pub hosts: BTreeMap<String, Addresses>,
    /// Resolvers for all other names. Empty: such questions are refused.
    pub forward: Vec<IpAddr>,
}

/// The block stands in the file, so the service is wanted.
impl Default for DnsSettings {
    fn default() -> Self {
        Self { enabled: true, domain: None, hosts: BTreeMap::new(), forward: Vec::new() }
    }
}

/// One address or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    One(IpAddr),
    Several(Vec<IpAddr>),
}

impl Addresses {
    fn iter(&self) -> impl Iterator<Item = IpAddr> {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Several(addresses) => addresses,
        }
        .iter()
        .copied()
    }
}

/// The sockets of a server: UDP and TCP of port 53.
pub struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

pub async fn bind(address: IpAddr) -> Result<Sockets> {
    let address = SocketAddr::new(address, 53);
    Ok(Sockets {
        udp: UdpSocket::bind(address).await.with_context(|| format!("binding UDP {address} for DNS"))?,
        tcp: TcpListener::bind(address).await.with_context(|| format!("binding TCP {address} for DNS"))?,
    })
}

/// Answers until `shutdown`. Without `machines` only configured hosts have names.
pub async fn serve(
    sockets: Sockets,
    settings: &DnsSettings,
    machines: Option<MachineNames>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let zone = Zone::new(settings)?;
    let forwarder = forwarder(&settings.forward)?;
    info!(hosts = settings.hosts.len(), domain = settings.domain, forward = ?settings.forward, "DNS runs");
    let mut server = Server::new(Handler { zone, machines, forwarder });
    server.register_socket(sockets.udp);
    server.register_listener(sockets.tcp, TCP_IDLE, TCP_RESPONSE_BUFFER);
    let stop = server.shutdown_token().clone();
    tokio::select! {
        result = server.block_until_done() => return result.context("answering DNS"),
        () = shutdown => stop.cancel(),
    }
    server.block_until_done().await.context("ending the DNS server")
}

/// The configured hosts.
struct Zone {
    domain: Option<Name>,
    hosts: BTreeMap<Name, BTreeSet<IpAddr>>,
    pointers: BTreeMap<Name, BTreeSet<Name>>,
}

/// What the zone knows about a question.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Records(Vec<Record>),
    /// The name exists, but not with records of this type.
    NoData,
    NoSuchName,
    /// Not ours to say.
    NotOurs,
}

impl Zone {
    fn new(settings: &DnsSettings) -> Result<Self> {
        let domain = settings.domain.as_deref().map(|domain| parse_name(domain).context("dns.domain")).transpose()?;
        let mut hosts: BTreeMap<Name, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut pointers: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for (host, addresses) in &settings.hosts {
            let name = parse_name(host).context("dns.hosts")?;
            for address in addresses.iter() {
                hosts.entry(name.clone()).or_default().insert(address);
                pointers.entry(Name::from(address).to_lowercase()).or_default().insert(name.clone());
            }
        }
        Ok(Self { domain, hosts, pointers })
    }

    /// Whether the operator's word on this name stands in the file: no machine's name comes before it.
    fn is_configured(&self, name: &Name) -> bool {
        self.hosts.contains_key(name) || self.pointers.contains_key(name) || self.domain.as_ref() == Some(name)
    }

    /// The label of a name right below the domain.
    fn label(&self, name: &Name) -> Option<String> {
        let domain = self.domain.as_ref().filter(|domain| domain.zone_of(name))?;
        let label = name.iter().next().filter(|_| name.iter().count() == domain.iter().count() + 1)?;
        String::from_utf8(label.to_vec()).ok()
    }

    fn look_up(&self, name: &Name, kind: RecordType) -> Known {
        if let Some(addresses) = self.hosts.get(name) {
            return address_records(name, addresses, kind, TTL_SECONDS);
        }
        if let Some(hosts) = self.pointers.get(name) {
            return pointer_records(name, hosts, kind, TTL_SECONDS);
        }
        match &self.domain {
            Some(domain) if domain == name && kind == RecordType::SOA => {
                Known::Records(vec![start_of_authority(domain)])
            }
            Some(domain) if domain == name || self.has_hosts_below(name) => Known::NoData,
            Some(domain) if domain.zone_of(name) => Known::NoSuchName,
            Some(_) | None => Known::NotOurs,
        }
    }

    fn has_hosts_below(&self, name: &Name) -> bool {
        self.domain.as_ref().is_some_and(|domain| domain.zone_of(name))
            && self.hosts.keys().any(|host| name.zone_of(host))
    }
}

fn parse_name(text: &str) -> Result<Name> {
    let mut name = Name::from_ascii(text).with_context(|| format!("{text:?} is not a domain name"))?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

fn records_or_none(records: impl Iterator<Item = Record>) -> Known {
    let records: Vec<Record> = records.collect();
    if records.is_empty() { Known::NoData } else { Known::Records(records) }
}

fn address_records(name: &Name, addresses: &BTreeSet<IpAddr>, kind: RecordType, ttl_seconds: u32) -> Known {
    records_or_none(addresses.iter().filter_map(|address| {
        let data = match (*address, kind) {
            (IpAddr::V4(address), RecordType::A | RecordType::ANY) => RData::A(A(address)),
            (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(address)),
            _ => return None,
        };
        Some(Record::from_rdata(name.clone(), ttl_seconds, data))
    }))
}

fn pointer_records(name: &Name, hosts: &BTreeSet<Name>, kind: RecordType, ttl_seconds: u32) -> Known {
    let wanted = matches!(kind, RecordType::PTR | RecordType::ANY);
    let records = hosts.iter().map(|host| Record::from_rdata(name.clone(), ttl_seconds, RData::PTR(PTR(host.clone()))));
    records_or_none(records.filter(|_| wanted))
}

/// The address whose name is asked for by `4.3.2.1.in-addr.arpa`.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// Types that stand for no record (RFC 6895 section 3.1): zone transfers above all, which would hand out a list of all
/// machines.
fn is_no_record(kind: RecordType) -> bool {
    (128..=255).contains(&u16::from(kind)) && kind != RecordType::ANY
}

/// Tells clients how long to remember that a name does not exist (RFC 2308).
fn start_of_authority(domain: &Name) -> Record {
    let ttl = TTL_SECONDS as i32;
    let data = SOA::new(domain.clone(), domain.clone(), 1, ttl, ttl, ttl, MACHINE_TTL_SECONDS);
    Record::from_rdata(domain.clone(), MACHINE_TTL_SECONDS, RData::SOA(data))
}

/// `None` without resolvers. Only those given are ever asked: neither the host's nor any built-in ones.
fn forwarder(resolvers: &[IpAddr]) -> Result<Option<TokioResolver>> {
    if resolvers.is_empty() {
        return Ok(None);
    }
    let servers = resolvers.iter().map(|address| NameServerConfig::udp_and_tcp(*address)).collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut options = ResolverOpts::default();
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = FORWARD_TIMEOUT;
    options.preserve_intermediates = true;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
    Ok(Some(builder.build().context("setting up dns.forward")?))
}

struct Handler {
    zone: Zone,
    machines: Option<MachineNames>,
    forwarder: Option<TokioResolver>,
}

/// An answer before it is encoded.
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    records: Vec<Record>,
    /// Beside an answer without records.
    authority: Option<Record>,
}

impl Answer {
    fn empty(code: ResponseCode) -> Self {
        Self { code, authoritative: false, records: Vec::new(), authority: None }
    }
}

impl Handler {
    async fn answer(&self, query: &LowerQuery) -> Answer {
        if query.query_class() != DNSClass::IN || is_no_record(query.query_type()) {
            return Answer::empty(ResponseCode::Refused);
        }
        let name = query.original().name().to_lowercase();
        let authority = || self.zone.domain.as_ref().filter(|domain| domain.zone_of(&name)).map(start_of_authority);
        let known = match self.known(&name, query.query_type()).await {
            Ok(known) => known,
            Err(error) => {
                warn!(%name, %error, "DNS: the machine could not be looked up");
                return Answer::empty(ResponseCode::ServFail);
            }
        };
        match known {
            Known::Records(records) => {
                Answer { code: ResponseCode::NoError, authoritative: true, records, authority: None }
            }
            Known::NoData => {
                Answer { authoritative: true, authority: authority(), ..Answer::empty(ResponseCode::NoError) }
            }
            Known::NoSuchName => {
                Answer { authoritative: true, authority: authority(), ..Answer::empty(ResponseCode::NXDomain) }
            }
            Known::NotOurs => match &self.forwarder {
                Some(forwarder) => forward(forwarder, name, query.query_type()).await,
                None => Answer::empty(ResponseCode::Refused),
            },
        }
    }

    /// Hosts first, then machines.
    async fn known(&self, name: &Name, kind: RecordType) -> Result<Known, Refusal> {
        let configured = self.zone.look_up(name, kind);
        let (Some(machines), Some(domain)) = (&self.machines, &self.zone.domain) else { return Ok(configured) };
        if self.zone.is_configured(name) {
            return Ok(configured);
        }
        if let Some(label) = self.zone.label(name) {
            let addresses = machines.addresses(&label).await?;
            return Ok(addresses.map_or(configured, |all| address_records(name, &all, kind, MACHINE_TTL_SECONDS)));
        }
        let Some(address) = reverse_address(name) else { return Ok(configured) };
        let Some(label) = machines.label_of(address).await? else { return Ok(configured) };
        // Host names of allocations are labels; another one is no machine's of ours.
        let host = Name::from_ascii(&label).and_then(|label| label.append_domain(domain));
        Ok(host.map_or(configured, |host| pointer_records(name, &BTreeSet::from([host]), kind, MACHINE_TTL_SECONDS)))
    }
}

async fn forward(forwarder: &TokioResolver, name: Name, kind: RecordType) -> Answer {
    match forwarder.lookup(name.clone(), kind).await {
        Ok(found) => Answer { records: found.answers().to_vec(), ..Answer::empty(ResponseCode::NoError) },
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            Answer { authority: none.soa.map(|soa| soa.into_record_of_rdata()), ..Answer::empty(none.response_code) }
        }
        Err(error) => {
            debug!(%name, %kind, %error, "DNS: forwarding failed");
            Answer::empty(ResponseCode::ServFail)
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut respond: R) -> ResponseInfo {
        let is_newer_edns = request.edns.as_ref().is_some_and(|edns| edns.version() > EDNS_VERSION);
        let answer = match (request.metadata.op_code, request.request_info()) {
            _ if is_newer_edns => Answer::empty(ResponseCode::BADVERS),
            (OpCode::Query, Ok(info)) => self.answer(info.query).await,
            (OpCode::Query, Err(_)) => Answer::empty(ResponseCode::FormErr),
            _ => Answer::empty(ResponseCode::NotImp),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        metadata.recursion_available = self.forwarder.is_some();
        let mut edns = Edns::new();
        // The server cuts answers off at this size, and some clients take less than we would send.
        let theirs = request.edns.as_ref().map_or(UDP_PAYLOAD, Edns::max_payload);
        edns.set_max_payload(theirs.min(UDP_PAYLOAD));
        edns.set_rcode_high(answer.code.high());
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(metadata, &answer.records, &[], &answer.authority, &[]);
        match respond.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                warn!(client = %request.src(), %error, "DNS: answer not sent");
                unanswered(request)
            }
        }
    }
}

/// What the server logs about a request whose answer could not be sent.
fn unanswered(request: &Request) -> ResponseInfo {
    use hickory_server::proto::op::{Header, HeaderCounts};
    let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    metadata.response_code = ResponseCode::ServFail;
    Header { metadata, counts: HeaderCounts::default() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let settings: DnsSettings = serde_saphyr::from_str(
            "{domain: lab.test, hosts: {Anvil.lab.test: 10.77.0.1, a.b.lab.test: [10.77.0.2, 'fd00::2'], other.example: 10.77.0.3}}",
        )
        .unwrap();
        Zone::new(&settings).unwrap()
    }

    fn look_up(name: &str, kind: RecordType) -> Known {
        zone().look_up(&parse_name(name).unwrap(), kind)
    }

    fn shown(known: Known) -> Vec<String> {
        let Known::Records(records) = known else { panic!("{known:?}") };
        records.into_iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn hosts_have_addresses_of_the_asked_type() {
        assert_eq!(shown(look_up("ANVIL.lab.test", RecordType::A)), ["10.77.0.1"]);
        assert_eq!(look_up("anvil.lab.test", RecordType::AAAA), Known::NoData);
        assert_eq!(shown(look_up("a.b.lab.test", RecordType::AAAA)), ["fd00::2"]);
        assert_eq!(shown(look_up("other.example", RecordType::A)), ["10.77.0.3"]);
    }

    #[test]
    fn addresses_have_names() {
        assert_eq!(shown(look_up("1.0.77.10.in-addr.arpa", RecordType::PTR)), ["anvil.lab.test."]);
        assert_eq!(look_up("9.0.77.10.in-addr.arpa", RecordType::PTR), Known::NotOurs);
    }

    #[test]
    fn other_names_of_the_domain_do_not_exist_and_all_others_are_not_ours() {
        assert_eq!(look_up("nobody.lab.test", RecordType::A), Known::NoSuchName);
        assert_eq!(look_up("b.lab.test", RecordType::A), Known::NoData, "something is below it");
        assert_eq!(look_up("lab.test", RecordType::A), Known::NoData);
        assert_eq!(look_up("example.com", RecordType::A), Known::NotOurs);
    }

    #[test]
    fn a_machines_name_is_one_label_below_the_domain() {
        let label = |name: &str| zone().label(&parse_name(name).unwrap());
        assert_eq!(label("Web-1.lab.test").as_deref(), Some("web-1"));
        for other in ["lab.test", "a.web-1.lab.test", "web-1.example.com", "web-1", "."] {
            assert_eq!(label(other), None, "{other}");
        }
    }

    #[test]
    fn transfers_are_no_question_for_a_record() {
        assert!([RecordType::AXFR, RecordType::IXFR, RecordType::from(253)].into_iter().all(is_no_record));
        assert!(![RecordType::A, RecordType::ANY, RecordType::HTTPS, RecordType::CAA].into_iter().any(is_no_record));
    }

    #[test]
    fn only_whole_addresses_have_names() {
        let address = |name: &str| reverse_address(&parse_name(name).unwrap());
        assert_eq!(address("7.0.77.10.in-addr.arpa"), Some([10, 77, 0, 7].into()));
        for other in ["0.77.10.in-addr.arpa", "in-addr.arpa", "x.0.77.10.in-addr.arpa", "web-1.lab.test"] {
            assert_eq!(address(other), None, "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_address_of_a_host_leads_back_to_it(
            hosts in proptest::collection::btree_map("[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-z0-9])?", proptest::prelude::any::<IpAddr>(), 1..8)
        ) {
            let settings = DnsSettings {
                domain: Some("lab.test".into()),
                hosts: hosts.iter().map(|(host, ip)| (format!("{host}.lab.test"), Addresses::One(*ip))).collect(),
                ..DnsSettings::default()
            };
            let zone = Zone::new(&settings).unwrap();
            for (host, address) in &hosts {
                let name = parse_name(&format!("{host}.LAB.test")).unwrap();
                let Known::Records(records) = zone.look_up(&name, RecordType::ANY) else { panic!("{host}") };
                proptest::prop_assert!(records.iter().any(|record| record.data.to_string() == address.to_string()));
                let reverse = Name::from(*address).to_lowercase();
                let Known::Records(names) = zone.look_up(&reverse, RecordType::PTR) else { panic!("{address}") };
                proptest::prop_assert!(names.iter().any(|record| record.data == RData::PTR(PTR(name.clone()))));
            }
        }

        /// What stands in no file is never answered with a record.
        #[test]
        fn other_names_have_no_records(labels in proptest::collection::vec(proptest::collection::vec(0..=255u8, 1..63), 1..4)) {
            let name = Name::from_labels(labels).unwrap().to_lowercase();
            let known = zone().look_up(&name, RecordType::ANY);
            proptest::prop_assert!(!matches!(known, Known::Records(_)), "{known:?}");
        }
    }
}
