//! SSH for operators: off unless somebody gave public keys. Nothing of the agent listens otherwise.
//!
//! dropbear does it, with a host key of this boot, for root, by public key only, without forwarding.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tracing::{info, warn};

use super::Agent;
use super::session::Session;
use super::ssh_host_key::HostKey;
use crate::api::progress::Note;
use crate::api::ssh_key;
use crate::client::events::Events;
use crate::net::{Backoff, Resolver, http_client};

const SERVER: &str = "/usr/sbin/dropbear";
const HOST_KEY: &str = "run/dropbear/ed25519";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Far more keys than anybody means.
const KEYS_LIMIT: usize = 256 << 10;

/// Where public keys come from.
struct Source {
    listed: Vec<String>,
    url: Option<String>,
    resolver: Resolver,
    ca_pem: Option<String>,
}

/// Starts a server behind the scenes when there are keys, or an address to get them from.
pub(crate) fn start(agent: &Agent, session: &Session) {
    let source = Source {
        listed: session.config.ssh_keys.clone(),
        url: agent.cmdline.ssh_keys_url().map(str::to_owned),
        resolver: session.resolver.clone(),
        ca_pem: session.config.ca_cert.clone(),
    };
    if source.listed.is_empty() && source.url.is_none() {
        return;
    }
    let events = agent.events.clone();
    tokio::spawn(async move {
        if let Err(error) = serve(&source, &events).await {
            warn!(error = format!("{error:#}"), "there is no SSH to this machine");
        }
    });
}

async fn serve(source: &Source, events: &Events) -> Result<()> {
    ensure!(Path::new(SERVER).exists(), "this initramfs has no {SERVER}");
    ensure!(Path::new("/bin/sh").exists(), "this initramfs has no shell");
    let keys = source.keys().await;
    ensure!(!keys.is_empty(), "keys were announced, and none of them can be used");
    let host_key = HostKey::generate()?;
    write_files(Path::new("/"), &keys, &host_key)?;
    let fingerprint = host_key.fingerprint();
    info!(keys = keys.len(), host_key = fingerprint, "root may log in by SSH with the configured keys");
    events.tell(&Note::SshHostKey(fingerprint));
    let mut backoff = Backoff::for_server();
    loop {
        let status = run_server().await?;
        warn!(%status, "the SSH server ended; starting it again");
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

impl Source {
    /// Those that can be used, once each. What can't be is a warning without the text, which might be a private key.
    async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        take_keys(&mut keys, self.listed.iter().flat_map(|lines| lines.lines()), "MetalConfig");
        let Some(url) = &self.url else { return keys };
        let mut backoff = Backoff::for_server();
        loop {
            match self.fetch(url).await {
                Ok(text) => {
                    take_keys(&mut keys, text.lines(), "drophammer.ssh_keys=");
                    return keys;
                }
                // Those of MetalConfig do not wait for a server that is away.
                Err(error) if !keys.is_empty() => {
                    warn!(error = format!("{error:#}"), "going on with the keys of MetalConfig alone");
                    return keys;
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    warn!(error = format!("{error:#}"), "no keys for SSH yet; again in {} s", delay.as_secs());
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn fetch(&self, url: &str) -> Result<String> {
        let http = http_client(self.resolver.clone(), self.ca_pem.as_deref())?;
        // A URL may hold a password.
        let fetching = || "fetching drophammer.ssh_keys=";
        let answer = http.get(url).timeout(TIMEOUT).send().await.map_err(reqwest::Error::without_url);
        let mut answer = answer.with_context(fetching)?;
        ensure!(answer.status().is_success(), "{}: the server answered {}, expected 200", fetching(), answer.status());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url).with_context(fetching)? {
            ensure!(body.len() + chunk.len() <= KEYS_LIMIT, "{}: it is larger than {KEYS_LIMIT} bytes", fetching());
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| anyhow::anyhow!("{}: it is no text", fetching()))
    }
}

fn take_keys<'a>(keys: &mut Vec<String>, lines: impl Iterator<Item = &'a str>, from: &str) {
    for (index, line) in lines.enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || keys.iter().any(|key| key == line) {
            continue;
        }
        match ssh_key::check(line) {
            Ok(()) => keys.push(line.to_owned()),
            Err(fault) => warn!(from, line = index + 1, "a key for SSH is left out: it {fault}"),
        }
    }
}

/// What the server needs below `root`: the user with his shell, his keys, and the host's.
fn write_files(root: &Path, keys: &[String], host_key: &HostKey) -> Result<()> {
    write_if_absent(&root.join("etc/passwd"), "root:*:0:0:root:/root:/bin/sh\n")?;
    write_if_absent(&root.join("etc/group"), "root:*:0:\ntty:*:5:\n")?;
    write_if_absent(&root.join("etc/shells"), "/bin/sh\n")?;
    let home = root.join("root");
    make_private_dir(&home)?;
    make_private_dir(&home.join(".ssh"))?;
    write_private(&home.join(".ssh/authorized_keys"), (keys.join("\n") + "\n").as_bytes())?;
    let host_key_file = root.join(HOST_KEY);
    if let Some(dir) = host_key_file.parent() {
        make_private_dir(dir)?;
    }
    write_private(&host_key_file, &host_key.dropbear_file())
}

fn write_if_absent(path: &Path, text: &str) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(writing)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Ok(mut file) => io::Write::write_all(&mut file, text.as_bytes()).with_context(writing),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(writing),
    }
}

/// The server takes no keys from a directory that others may write to.
fn make_private_dir(path: &Path) -> Result<()> {
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    };
    make().with_context(|| format!("making {}", path.display()))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        io::Write::write_all(&mut file, bytes)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// dropbear(8): in the foreground (-F), its log on standard error (-E), no passwords (-s), no forwarding (-j, -k), a sign
/// of life every 30 s (-K). It drops the environment before it starts a shell.
async fn run_server() -> Result<ExitStatus> {
    let mut server = Command::new(SERVER)
        .args(["-F", "-E", "-s", "-j", "-k", "-K", "30", "-p", "22", "-P", "/run/dropbear/pid", "-r"])
        .arg(Path::new("/").join(HOST_KEY))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {SERVER}"))?;
    if let Some(stderr) = server.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                info!("ssh: {}", without_stamp(&line));
            }
        });
    }
    server.wait().await.with_context(|| format!("waiting for {SERVER}"))
}

/// dropbear puts its process id and the time before each line, `[123] Jan 01 00:00:00 …`; our log has its own.
fn without_stamp(line: &str) -> &str {
    let Some(("", rest)) = line.split_once('[') else { return line };
    let Some((_, rest)) = rest.split_once("] ") else { return line };
    rest.splitn(4, ' ').nth(3).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

    #[test]
    fn only_public_keys_are_taken_and_each_once() {
        let text =
            format!("# operators\n{KEY} me\n\n{KEY} me\n-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n{KEY} you\n");
        let mut keys = Vec::new();
        take_keys(&mut keys, text.lines(), "a test");
        assert_eq!(keys, [format!("{KEY} me"), format!("{KEY} you")]);
    }

    #[test]
    fn files_are_private_and_an_existing_user_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/ash\n").unwrap();
        let host_key = HostKey::generate().unwrap();
        write_files(root.path(), &[KEY.to_owned()], &host_key).unwrap();
        let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("root/.ssh"), mode("root/.ssh/authorized_keys"), mode(HOST_KEY)), (0o700, 0o600, 0o600));
        assert_eq!(fs::read(root.path().join(HOST_KEY)).unwrap(), host_key.dropbear_file());
        assert_eq!(fs::read_to_string(root.path().join("etc/passwd")).unwrap(), "root:x:0:0::/:/bin/ash\n");
        assert_eq!(fs::read_to_string(root.path().join("root/.ssh/authorized_keys")).unwrap(), format!("{KEY}\n"));
    }

    #[test]
    fn the_servers_own_stamp_is_left_out() {
        assert_eq!(without_stamp("[81] Nov 23 08:00:01 Not backgrounding"), "Not backgrounding");
        assert_eq!(without_stamp("something else"), "something else");
    }
}
