//! The network phase of one machine in a namespace, as tests watch it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use drophammer::config::cmdline::Cmdline;
use drophammer::net::{Network, Online, bring_up};
use drophammer::sys::roots::Roots;
use uuid::Uuid;

use crate::namespace::Namespace;

pub const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// Far longer than anything here takes: only a fault waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

struct Seen {
    network: Network,
    /// That are asked.
    name_servers: Vec<IpAddr>,
}

/// Runs until it is dropped.
pub struct Machine {
    seen: Arc<Mutex<Option<Seen>>>,
    said: Arc<Mutex<Vec<String>>>,
    resolved: Arc<Mutex<Option<Vec<IpAddr>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

#[allow(dead_code, reason = "each test uses its own part")]
impl Machine {
    pub fn boot(namespace: &Namespace, cmdline: &str, proc: Option<PathBuf>) -> Self {
        Self::start(namespace, cmdline, proc, None)
    }

    /// Looks a name up as soon as there is a network, until it is found.
    pub fn boot_and_resolve(namespace: &Namespace, cmdline: &str, name: &'static str) -> Self {
        Self::start(namespace, cmdline, None, Some(name))
    }

    fn start(namespace: &Namespace, cmdline: &str, proc: Option<PathBuf>, name: Option<&'static str>) -> Self {
        let (seen, said) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
        let (resolved, stop) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let (publish, log, found, stopped) =
            (Arc::clone(&seen), Arc::clone(&said), Arc::clone(&resolved), Arc::clone(&stop));
        let cmdline = Cmdline::parse(cmdline);
        let thread = namespace.run(move || async move {
            let mut roots = Roots::under(std::path::Path::new("/nonexistent"));
            if let Some(proc) = proc {
                roots.proc = proc;
            }
            let say = move |text: String| log.lock().unwrap().push(text);
            let up = bring_up(&roots, &cmdline, Some(Uuid::parse_str(UUID).unwrap()), &say);
            let mut up = Box::pin(up);
            let mut online: Option<Online> = None;
            while !stopped.load(Ordering::Relaxed) {
                match &online {
                    None => online = tokio::time::timeout(Duration::from_millis(20), &mut up).await.ok(),
                    Some(online) => {
                        *publish.lock().unwrap() =
                            Some(Seen { network: online.network(), name_servers: online.resolver.servers() });
                        let missing = name.filter(|_| found.lock().unwrap().is_none());
                        if let Some(name) = missing
                            && let Ok(addresses) = online.resolver.resolve(name).await
                        {
                            *found.lock().unwrap() = Some(addresses);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        });
        Self { seen, said, resolved, stop, thread: Some(thread) }
    }

    pub fn network(&self) -> Option<Network> {
        self.seen.lock().unwrap().as_ref().map(|seen| seen.network.clone())
    }

    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.seen.lock().unwrap().as_ref().map(|seen| seen.name_servers.clone()).unwrap_or_default()
    }

    pub fn resolved(&self) -> Option<Vec<IpAddr>> {
        self.resolved.lock().unwrap().clone()
    }

    pub fn wait_for_network(&self) -> Network {
        wait_until("the network", || self.network().is_some() || self.thread.as_ref().unwrap().is_finished());
        self.network().expect("the network phase has ended")
    }

    /// Waits until the network is as `condition` wants it.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Network) -> bool) -> Network {
        wait_until(what, || self.network().is_some_and(|network| condition(&network)));
        self.network().unwrap()
    }

    pub fn said(&self, part: &str) -> bool {
        self.said.lock().unwrap().iter().any(|text| text.contains(part))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if thread::panicking() {
            eprintln!("the machine said:\n{}", self.said.lock().unwrap().join("\n"));
        }
    }
}
