//! Asking time servers: all at once, each until it answers usably.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result as AnyResult;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::nts::{self, Association, NtsError, SealedQuestion};
use super::packet::{BadAnswer, Sample, parse_answer, render_question};
use super::refusals::{Refusals, is_refusal};
use super::target::{Nts, Target, resolve};
use crate::causes::with_causes;
use crate::net::resolver::{ResolveError, Resolver};

/// Before the same server is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// NTS that nobody demanded may hold up a server's answer for so long.
const NTS_TRY: Duration = Duration::from_secs(1);
/// After the first usable answer the others get this long: a dead server must not hold up the boot, and one that has to
/// be asked without NTS in the end must not be left out.
const GRACE: Duration = Duration::from_millis(1500);
/// So long before the end each server is given up, for there to be time to say why.
const REASONS: Duration = Duration::from_millis(100);

/// A usable answer of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAnswer {
    /// As configured.
    pub server: String,
    pub address: SocketAddr,
    pub sample: Sample,
    pub protection: Protection,
}

/// Whether it is proven who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// By NTS (RFC 8915).
    Nts,
    Plain {
        /// Why it is not proven by NTS; `None` when that was not tried.
        why: Option<String>,
    },
}

/// Why one server was of no use.
#[derive(Debug, Error)]
pub enum AskError {
    #[error(transparent)]
    Name(#[from] ResolveError),
    #[error("does not answer")]
    Silent,
    #[error("answer {0}")]
    Bad(#[from] BadAnswer),
    #[error("asking {address}")]
    Socket { address: SocketAddr, source: std::io::Error },
    #[error("drawing a random number: {0}")]
    Random(String),
    #[error("NTS")]
    Nts(#[from] NtsError),
    #[error("is left alone: it refused us with kiss-o'-death code {code:?}")]
    LeftAlone { code: String },
}

/// What became of one server.
#[derive(Debug)]
pub struct Asked {
    pub server: String,
    pub result: Result<ServerAnswer, AskError>,
}

/// Asks time servers, and remembers those that do not want to be asked. A cheap handle.
#[derive(Clone)]
pub struct NtpClient {
    resolver: Resolver,
    /// `None`: no certificate is trusted, so that NTS can't prove anything.
    nts: Option<Arc<ClientConfig>>,
    /// The lock is never held while waiting.
    refusals: Arc<Mutex<Refusals>>,
}

impl NtpClient {
    /// Without NTS.
    pub fn new(resolver: Resolver) -> Self {
        Self { resolver, nts: None, refusals: Arc::default() }
    }

    /// NTS servers are to show a certificate of `extra_ca_pem` or of the system's authorities.
    pub fn with_trust(resolver: Resolver, extra_ca_pem: Option<&str>) -> AnyResult<Self> {
        Ok(Self { nts: nts::tls(extra_ca_pem)?, ..Self::new(resolver) })
    }

    /// Asks all servers at once, and answers in the order given. Ends when all have answered, a moment after the first
    /// usable answer, or after `limit`.
    pub async fn ask_all(&self, servers: &[String], limit: Duration) -> Vec<Asked> {
        let limit_ends = Instant::now() + limit.max(REASONS);
        let mut tasks = JoinSet::new();
        for (place, server) in servers.iter().cloned().enumerate() {
            let client = self.clone();
            tasks.spawn(async move { (place, client.ask(&server, limit_ends - REASONS).await) });
        }
        let mut results: Vec<Option<Result<ServerAnswer, AskError>>> = servers.iter().map(|_| None).collect();
        let mut ends = limit_ends;
        while let Ok(Some(done)) = timeout_at(ends, tasks.join_next()).await {
            // A task that panicked counts as silent.
            let Ok((place, result)) = done else { continue };
            if result.is_ok() {
                ends = ends.min(Instant::now() + GRACE);
            }
            if let Some(slot) = results.get_mut(place) {
                *slot = Some(result);
            }
        }
        let asked = servers.iter().zip(results);
        asked
            .map(|(server, result)| Asked { server: server.clone(), result: result.unwrap_or(Err(AskError::Silent)) })
            .collect()
    }

    async fn ask(&self, server: &str, ends: Instant) -> Result<ServerAnswer, AskError> {
        let code = self.refusals().find(server, Instant::now()).map(str::to_owned);
        if let Some(code) = code {
            return Err(AskError::LeftAlone { code });
        }
        let asked = self.ask_target(&Target::parse(server), ends).await;
        if let Err(AskError::Bad(BadAnswer::KissOfDeath { code })) = &asked {
            self.refusals().note(server, code, Instant::now());
        }
        let (address, sample, protection) = asked?;
        Ok(ServerAnswer { server: server.to_owned(), address, sample, protection })
    }

    async fn ask_target(&self, target: &Target, ends: Instant) -> Result<(SocketAddr, Sample, Protection), AskError> {
        let plain = |(address, sample), why| (address, sample, Protection::Plain { why });
        let proven = |(address, sample)| (address, sample, Protection::Nts);
        match target.nts {
            Nts::Demanded => self.ask_proven(target, ends).await.map(proven),
            Nts::Never => self.ask_plain(target, ends).await.map(|answer| plain(answer, None)),
            Nts::Offered if self.nts.is_none() => {
                let why = with_causes(&NtsError::NoTrust);
                self.ask_plain(&target.plain(), ends).await.map(|answer| plain(answer, Some(why)))
            }
            Nts::Offered => {
                let tried = self.ask_proven(target, ends.min(Instant::now() + NTS_TRY)).await;
                let why = match tried {
                    Ok(answer) => return Ok(proven(answer)),
                    // Whoever does not want to be asked is not asked once more.
                    Err(AskError::Bad(BadAnswer::KissOfDeath { code })) if is_refusal(&code) => {
                        return Err(BadAnswer::KissOfDeath { code }.into());
                    }
                    Err(error) => with_causes(&error),
                };
                self.ask_plain(&target.plain(), ends).await.map(|answer| plain(answer, Some(why)))
            }
        }
    }

    async fn ask_plain(&self, target: &Target, ends: Instant) -> Result<(SocketAddr, Sample), AskError> {
        let addresses = self.resolve(target, ends).await?;
        ask_in_turns(&addresses, ends, &mut Plain).await
    }

    /// Keys first, then the time.
    async fn ask_proven(&self, target: &Target, ends: Instant) -> Result<(SocketAddr, Sample), AskError> {
        let tls = self.nts.as_ref().ok_or(NtsError::NoTrust)?;
        let key_exchange = target.key_exchange();
        let at = self.resolve(&key_exchange, ends).await?;
        let exchange = nts::exchange_keys(&key_exchange.host, &at, Arc::clone(tls));
        let mut association = timeout_at(ends, exchange).await.map_err(|_| NtsError::TooSlow)??;
        let time_server = association.time_server(&key_exchange.host);
        let addresses = self.resolve(&time_server, ends).await?;
        ask_in_turns(&addresses, ends, &mut association).await
    }

    async fn resolve(&self, target: &Target, ends: Instant) -> Result<Vec<SocketAddr>, AskError> {
        let found = timeout_at(ends, resolve(target, &self.resolver)).await;
        Ok(found.map_err(|_| AskError::Silent)??)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes questions, and judges who answered them.
trait Questions {
    /// A question, and what is needed to judge its answer.
    fn next(&mut self) -> Result<(Vec<u8>, Judge), AskError>;
}

/// Of one answer.
struct Judge {
    cookie: u64,
    sealed: Option<SealedQuestion>,
}

impl Judge {
    fn parse(&self, bytes: &[u8], sent: SystemTime, received: SystemTime) -> Result<Sample, BadAnswer> {
        if let Some(sealed) = &self.sealed {
            sealed.check(bytes)?;
        }
        parse_answer(bytes, self.cookie, sent, received)
    }
}

struct Plain;

impl Questions for Plain {
    fn next(&mut self) -> Result<(Vec<u8>, Judge), AskError> {
        let cookie = random_u64()?;
        Ok((render_question(cookie).to_vec(), Judge { cookie, sealed: None }))
    }
}

impl Questions for Association {
    fn next(&mut self) -> Result<(Vec<u8>, Judge), AskError> {
        let cookie = random_u64()?;
        let (question, sealed) = self.seal(&render_question(cookie))?;
        Ok((question, Judge { cookie, sealed: Some(sealed) }))
    }
}

fn random_u64() -> Result<u64, AskError> {
    getrandom::u64().map_err(|error| AskError::Random(error.to_string()))
}

/// One address after the other until one answers usably or time is up. There is at least one.
async fn ask_in_turns(
    addresses: &[SocketAddr],
    ends: Instant,
    questions: &mut impl Questions,
) -> Result<(SocketAddr, Sample), AskError> {
    let mut last = AskError::Silent;
    while Instant::now() < ends && !addresses.is_empty() {
        let mut try_ends = Instant::now();
        for address in addresses {
            try_ends = ends.min(Instant::now() + ASK_AGAIN);
            match ask_once(*address, try_ends, questions).await {
                Ok(sample) => return Ok((*address, sample)),
                // Whoever refuses, or has no time, will do so again in two seconds. A forger may stop.
                Err(error @ AskError::Bad(BadAnswer::Unauthentic { .. })) => last = error,
                Err(error @ (AskError::Bad(_) | AskError::Nts(_))) => return Err(error),
                Err(error) => last = error,
            }
        }
        // An address that can't be sent to fails at once.
        sleep_until(try_ends).await;
    }
    Err(last)
}

async fn ask_once(address: SocketAddr, ends: Instant, questions: &mut impl Questions) -> Result<Sample, AskError> {
    let broken = |source| AskError::Socket { address, source };
    let local: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await.map_err(broken)?;
    socket.connect(address).await.map_err(broken)?;
    let (question, judge) = questions.next()?;
    // The local clock may be stepped meanwhile; elapsed time comes from the other one.
    let (sent, sent_at) = (SystemTime::now(), Instant::now());
    socket.send(&question).await.map_err(broken)?;
    let mut buffer = [0; 2048];
    let mut forged = None;
    let listen = async {
        loop {
            let len = socket.recv(&mut buffer).await.map_err(broken)?;
            let received = sent + sent_at.elapsed();
            match judge.parse(buffer.get(..len).unwrap_or_default(), sent, received) {
                // Somebody else's answer, or a forgery: the right one may still come.
                Err(BadAnswer::Origin | BadAnswer::TooShort { .. }) => {}
                Err(error @ BadAnswer::Unauthentic { .. }) => forged = Some(error),
                answer => return Ok(answer?),
            }
        }
    };
    let heard = timeout(ends.saturating_duration_since(Instant::now()), listen).await;
    match (heard, forged) {
        (Ok(answer), _) => answer,
        (Err(_), Some(forged)) => Err(forged.into()),
        (Err(_), None) => Err(AskError::Silent),
    }
}
