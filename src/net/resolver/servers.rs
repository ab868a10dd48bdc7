//! Name servers, asked in turn.

use std::net::IpAddr;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::ResolveError;

/// How a server is asked: by UDP, where an answer that was cut short is asked for again by TCP, or by TCP at once.
type ServerConfig = fn(IpAddr) -> NameServerConfig;

/// All servers are asked in one way before any is asked in the next, which takes longer: one that is dead costs a
/// second. Who never answers by UDP may do by TCP.
const ROUNDS: [(ServerConfig, Duration); 3] = [
    (NameServerConfig::udp_and_tcp, Duration::from_secs(1)),
    (NameServerConfig::tcp, Duration::from_secs(2)),
    (NameServerConfig::udp_and_tcp, Duration::from_secs(4)),
];
/// When a name has an address of one kind, how long those of the other are waited for (RFC 8305 section 3).
const OTHER_KIND: Duration = Duration::from_millis(50);

/// In the order in which they are asked.
pub(super) struct Servers(Vec<Server>);

struct Server {
    address: IpAddr,
    /// One for each of [`ROUNDS`], with a cache of its own.
    lookups: Vec<TokioResolver>,
}

/// What one server says to one name.
enum Answer {
    Addresses(Vec<IpAddr>),
    /// There is nothing, which is an answer as good as any.
    Nothing(String),
    /// It was not of use; another one may be.
    Failed(String),
}

impl Servers {
    /// `search` completes names without a dot.
    pub(super) fn new(addresses: &[IpAddr], search: &[String]) -> Self {
        let search: Vec<Name> = search.iter().filter_map(|domain| Name::from_str(domain).ok()).collect();
        Self(addresses.iter().filter_map(|address| Server::new(*address, &search)).collect())
    }

    /// All addresses of a name, at least one.
    pub(super) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut failures = Vec::new();
        for round in 0..ROUNDS.len() {
            failures.clear();
            for Server { address: server, lookups } in &self.0 {
                let Some(lookup) = lookups.get(round) else { continue };
                let started = Instant::now();
                let answer = ask(lookup, name).await;
                let after_ms = started.elapsed().as_millis();
                match answer {
                    Answer::Addresses(addresses) => {
                        debug!(name, %server, ?addresses, after_ms, "name server answered");
                        return Ok(addresses);
                    }
                    Answer::Nothing(reason) => {
                        debug!(name, %server, reason, after_ms, "name server answered");
                        return Err(ResolveError::Nothing { name: name.to_owned(), server: *server, reason });
                    }
                    Answer::Failed(reason) => {
                        debug!(name, %server, reason, after_ms, "name server is of no use");
                        failures.push((*server, reason));
                    }
                }
            }
        }
        Err(ResolveError::Failed { name: name.to_owned(), failures })
    }
}

impl Server {
    fn new(address: IpAddr, search: &[Name]) -> Option<Self> {
        let build = |(server, limit): (ServerConfig, Duration)| {
            let config = ResolverConfig::from_parts(None, search.to_vec(), vec![server(address)]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            let options = builder.options_mut();
            options.timeout = limit;
            options.attempts = 0;
            options.try_tcp_on_error = true;
            options.use_hosts_file = ResolveHosts::Never;
            builder.build()
        };
        match ROUNDS.into_iter().map(build).collect() {
            Ok(lookups) => Some(Self { address, lookups }),
            Err(error) => {
                tracing::warn!(server = %address, %error, "name server can't be used");
                None
            }
        }
    }
}

/// Asks for addresses of both kinds at once.
async fn ask(lookup: &TokioResolver, name: &str) -> Answer {
    let (mut v4, mut v6) =
        (pin!(ask_kind(lookup, name, RecordType::A)), pin!(ask_kind(lookup, name, RecordType::AAAA)));
    tokio::select! {
        v4 = &mut v4 => {
            let v6 = other_kind(&v4, v6).await;
            v4.or(v6)
        }
        v6 = &mut v6 => {
            let v4 = other_kind(&v6, v4).await;
            v4.or(v6)
        }
    }
}

/// The second answer, which is not worth much time when the first is of use.
async fn other_kind(first: &Answer, second: impl Future<Output = Answer>) -> Answer {
    if !matches!(first, Answer::Addresses(_)) {
        return second.await;
    }
    timeout(OTHER_KIND, second).await.unwrap_or_else(|_| Answer::Failed("no answer".to_owned()))
}

async fn ask_kind(lookup: &TokioResolver, name: &str, kind: RecordType) -> Answer {
    match lookup.lookup(name, kind).await {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            if addresses.is_empty() {
                Answer::Nothing("it has no address".to_owned())
            } else {
                Answer::Addresses(addresses)
            }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Answer::Nothing("there is no such name".to_owned()),
            ResponseCode::NoError => Answer::Nothing("it has no address".to_owned()),
            code => Answer::Failed(format!("answers {code}")),
        },
        Err(NetError::Timeout) => Answer::Failed("does not answer".to_owned()),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

impl Answer {
    /// Two answers about one name: what was found counts most, then what failed.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Addresses(mut all), Self::Addresses(more)) => {
                all.extend(more);
                Self::Addresses(all)
            }
            (found @ Self::Addresses(_), _) | (_, found @ Self::Addresses(_)) => found,
            (failed @ Self::Failed(_), _) | (_, failed @ Self::Failed(_)) => failed,
            (nothing, Self::Nothing(_)) => nothing,
        }
    }
}
