//! Network namespaces of our own, joined by veth cables. Needs root.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Gone when dropped, with all its links.
pub struct Namespace {
    name: String,
}

#[allow(dead_code, reason = "each test uses its own part")]
impl Namespace {
    pub fn new(purpose: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dh-{purpose}-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self { name }
    }

    /// `ip -n NAMESPACE …`; panics when it fails.
    pub fn ip(&self, arguments: &str) -> String {
        let mut words = vec!["-n", &self.name];
        words.extend(arguments.split_whitespace());
        ip(&words)
    }

    /// Whether `ip -n NAMESPACE …` does it.
    pub fn try_ip(&self, arguments: &str) -> bool {
        self.ip_command(arguments).output().expect("running ip").status.success()
    }

    /// What `ip -n NAMESPACE …` prints; nothing when it fails.
    pub fn try_ip_output(&self, arguments: &str) -> String {
        String::from_utf8_lossy(&self.ip_command(arguments).output().expect("running ip").stdout).into_owned()
    }

    fn ip_command(&self, arguments: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        command
    }

    /// A cable from `near` in here to `far` in the other namespace. The far end is up.
    pub fn plug(&self, near: &str, other: &Self, far: &str) {
        self.ip(&format!("link add {near} type veth peer name {far} netns {}", other.name));
        other.ip(&format!("link set {far} up"));
    }

    /// Runs a future on a thread of its own inside the namespace.
    pub fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> thread::JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let file = File::open(self.path()).expect("namespace file");
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(work())
        })
    }

    /// `ip netns exec NAMESPACE …`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("running ip");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
