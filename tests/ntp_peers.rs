//! Real time servers: Debian's chrony, with and without NTS, in a network namespace. It never touches the clock (`-x`).
//!
//! scripts/test unpacks the package into `DROPHAMMER_PACKAGES`. Needs root.

mod namespace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use drophammer::config::cmdline::Cmdline;
use drophammer::net::ntp::{AskError, BadAnswer, Protection, ServerAnswer};
use drophammer::net::{NtpClient, Resolver};
use namespace::Namespace;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Long enough for a server that is just starting.
const LIMIT: Duration = Duration::from_secs(10);

fn packages() -> PathBuf {
    PathBuf::from(std::env::var("DROPHAMMER_PACKAGES").expect("DROPHAMMER_PACKAGES names the unpacked packages"))
}

/// chronyd on the loopback address of a namespace of its own. Both end with this.
struct Chrony {
    namespace: Namespace,
    process: Child,
    authority_pem: String,
    _dir: TempDir,
}

impl Drop for Chrony {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Chrony {
    fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority_pem = write_certificate(dir.path());
        let at = dir.path().display();
        let conf = format!(
            "user root\nallow all\ncmdport 0\nbindcmdaddress {at}/command\npidfile {at}/pid\n{}\n",
            settings.replace("DIR", &at.to_string())
        );
        fs::write(dir.path().join("chrony.conf"), conf).unwrap();
        let namespace = Namespace::new("chrony");
        let process = namespace
            .command(packages().join("chrony/usr/sbin/chronyd").to_str().unwrap())
            .args(["-d", "-x", "-f", &format!("{at}/chrony.conf")])
            .env("LD_LIBRARY_PATH", packages().join("libedit2/usr/lib/x86_64-linux-gnu"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { namespace, process, authority_pem, _dir: dir }
    }

    fn ask(&self, server: &str) -> Result<ServerAnswer, AskError> {
        let (server, pem) = (server.to_owned(), self.authority_pem.clone());
        let asked = self.namespace.run(move || async move {
            let cmdline = Cmdline::parse("drophammer.host=ntp.lab.example=127.0.0.1");
            let client = NtpClient::with_trust(Resolver::of_cmdline(&cmdline, &|_| {}), Some(&pem)).unwrap();
            client.ask_all(&[server], LIMIT).await.remove(0).result
        });
        asked.join().unwrap()
    }
}

/// Key and certificate of `ntp.lab.example`; the authority's certificate.
fn write_certificate(dir: &Path) -> String {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["ntp.lab.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(dir.join("certificate.pem"), certificate.pem()).unwrap();
    pem
}

#[test]
#[ignore = "scripts/test unpacks the package"]
fn chrony_with_nts_proves_its_time() {
    let chrony = Chrony::start("local stratum 5\nntsserverkey DIR/key.pem\nntsservercert DIR/certificate.pem");
    // The first question waits for the server to start.
    assert_eq!(chrony.ask("127.0.0.1").unwrap().protection, Protection::Plain { why: None });
    for server in ["nts:ntp.lab.example", "ntp.lab.example"] {
        let answer = chrony.ask(server).unwrap();
        assert_eq!((answer.protection, answer.sample.stratum), (Protection::Nts, 5), "{server}");
        assert!(answer.sample.offset_ns.abs() < 1_000_000_000, "{}", answer.sample.offset_ns);
    }
}

#[test]
#[ignore = "scripts/test unpacks the package"]
fn chrony_without_nts_is_asked_without_unless_nts_is_demanded() {
    let chrony = Chrony::start("local stratum 5");
    let answer = chrony.ask("ntp.lab.example").unwrap();
    let Protection::Plain { why: Some(why) } = answer.protection else { panic!("{:?}", answer.protection) };
    assert!(why.contains("connecting for the key exchange: 127.0.0.1:4460"), "{why}");
    assert!(matches!(chrony.ask("nts:ntp.lab.example"), Err(AskError::Nts(_))));
}

#[test]
#[ignore = "scripts/test unpacks the package"]
fn chrony_that_has_no_time_itself_is_not_believed() {
    let chrony = Chrony::start("");
    let refused = chrony.ask("127.0.0.1");
    assert!(matches!(&refused, Err(AskError::Bad(BadAnswer::LeapAlarm))), "{refused:?}");
}
