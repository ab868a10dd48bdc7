//! The log, to the server that MetalConfig names.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use super::Agent;
use super::session::Session;
use crate::api::metal_config::Logging;
use crate::client::loki::Loki;
use crate::net::{ClientIdentity, Resolver, log_http_client};

/// For the last lines, before the machine goes on to another life.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// The only kind there is.
const LOKI: &str = "loki";

/// Sends the log from its first line on, or forgets it when no server is configured. What is wrong with the
/// configuration is a warning: a machine is not kept from its work by its log.
pub(crate) fn start(agent: &Agent, session: &Session, machine_id: &str) {
    let Some(logging) = session.config.logging.as_ref().filter(|logging| !logging.endpoint.is_empty()) else {
        return agent.log.close();
    };
    match open(logging, &session.resolver, session.config.ca_cert.as_deref(), machine_id) {
        Ok(loki) => {
            info!(server = loki.shown_url(), "the log goes to a log server, too");
            // It ends with the queue; there is nothing to wait for.
            drop(loki.start(agent.log.clone()));
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), "the log stays here, as MetalConfig's logging can't be used");
            agent.log.close();
        }
    }
}

fn open(logging: &Logging, resolver: &Resolver, ca_pem: Option<&str>, machine_id: &str) -> Result<Loki> {
    if logging.log_type != LOKI {
        bail!("expected log_type {LOKI:?}, found {:?}", logging.log_type);
    }
    let identity = logging.certificate_auth.as_ref().map(|auth| ClientIdentity {
        cert_pem: auth.cert.clone(),
        key_pem: auth.key.clone(),
        trusts_anybody: auth.insecure_skip_verify,
    });
    let http = log_http_client(resolver.clone(), ca_pem, identity.as_ref()).context("setting its HTTP client up")?;
    let basic_auth = logging.basic_auth.as_ref().filter(|auth| !auth.user.is_empty());
    let basic_auth = basic_auth.map(|auth| (auth.user.clone(), auth.password.clone()));
    Loki::new(http, &logging.endpoint, basic_auth, machine_id)
}

/// The last lines get a moment to arrive.
pub(crate) async fn flush(agent: &Agent) {
    if !agent.log.flush(FLUSH_LIMIT).await {
        warn!("the last lines of the log did not get to the log server");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::metal_config::{BasicAuth, CertificateAuth};

    fn opened(logging: &Logging) -> Result<Loki> {
        open(logging, &Resolver::new(&[], &[]), None, "m-1")
    }

    fn logging() -> Logging {
        Logging {
            endpoint: "http://10.0.0.9:3100/loki/api/v1/push".into(),
            log_type: "loki".into(),
            basic_auth: Some(BasicAuth { user: "agent".into(), password: "SECRET".into() }),
            certificate_auth: None,
        }
    }

    #[test]
    fn what_cannot_be_used_says_why_and_shows_no_secret() {
        opened(&logging()).unwrap();
        let error = |logging: &Logging| format!("{:#}", opened(logging).err().unwrap());
        let other = Logging { log_type: "elastic".into(), ..logging() };
        assert_eq!(error(&other), "expected log_type \"loki\", found \"elastic\"");
        let auth = CertificateAuth { cert: "SECRET".into(), key: "SECRET".into(), insecure_skip_verify: false };
        let wrong = error(&Logging { certificate_auth: Some(auth), ..logging() });
        assert!(wrong.contains("certificate") && !wrong.contains("SECRET"), "{wrong}");
    }

    #[test]
    fn a_client_certificate_is_taken() {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["agent".to_owned()]).unwrap().self_signed(&key).unwrap();
        let auth = CertificateAuth { cert: cert.pem(), key: key.serialize_pem(), insecure_skip_verify: true };
        opened(&Logging { certificate_auth: Some(auth), ..logging() }).unwrap();
    }
}
