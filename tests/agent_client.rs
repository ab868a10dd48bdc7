//! The agent's side of the wire against a real anvil on loopback: mTLS, HMAC, events in order, a server that goes away.

mod anvil_support;

use std::time::Duration;

use anvil_support::*;
use drophammer::api::event::ProvisioningEvent;
use drophammer::api::hmac::Role;
use drophammer::api::metal_config::MetalConfig;
use drophammer::api::progress::{Note, Phase, PhaseState};
use drophammer::api::rest::Machine;
use drophammer::client::boot::{BootService, WaitEnd, channel};
use drophammer::client::events::Events;
use drophammer::client::metal_config::{self, Introduction};
use drophammer::client::rest::RestClient;
use drophammer::net::{Resolver, http_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Without name servers: literal addresses need none.
fn resolver() -> Resolver {
    Resolver::new(&[], &[])
}

fn boot_service(config: &MetalConfig) -> BootService {
    BootService::new(channel(config, &resolver()).unwrap())
}

fn rest_client(config: &MetalConfig, key: &str) -> RestClient {
    let http = http_client(resolver(), config.ca_cert.as_deref()).unwrap();
    RestClient::new(http, config.metal_api_url.as_deref().unwrap(), key)
}

fn names(machine: &Machine) -> Vec<&str> {
    machine.events.log.iter().rev().map(|event| event.event.as_str()).collect()
}

#[tokio::test]
async fn the_agent_registers_waits_and_reports() {
    let server = Server::start().await;
    add_offer(&server).await;
    let config = server.anvil.metal_config();
    let mut boot = boot_service(&config);
    let rest = rest_client(&config, config.hmac.as_deref().unwrap());

    let registered = boot.register(register_request(MACHINE)).await.unwrap();
    assert_eq!(registered.size, "small");
    assert_eq!(rest.machine(MACHINE).await.unwrap().allocation, None);

    let mut waiting = boot.clone();
    let wait = tokio::spawn(async move { waiting.wait(MACHINE).await });
    let allocate = async {
        // Refused until the machine waits.
        loop {
            let edit = server.rest(Role::Edit);
            if edit.post::<Machine>("/v1/machine/allocate", &allocate_request()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), allocate).await.expect("the machine never waited");
    assert_eq!(wait.await.unwrap(), WaitEnd::Allocated);

    boot.report(report_request(MACHINE)).await.unwrap();
    let allocation = rest.machine(MACHINE).await.unwrap().allocation.unwrap();
    assert_eq!(allocation.boot_info.unwrap().kernel, "/boot/vmlinuz");
    server.stop().await;
}

#[tokio::test]
async fn events_queued_before_there_is_a_server_arrive_in_order_and_notes_become_phases() {
    let server = Server::start().await;
    let config = server.anvil.metal_config();
    let events = Events::default();
    let phase = Phase { name: "network".into(), state: PhaseState::Done, start_ms: 100, took_ms: 900 };
    events.note(&Note::Phase(phase.clone()));
    events.send_first(ProvisioningEvent::Preparing, "starting");
    events.send(ProvisioningEvent::Registering, "start registering");
    tokio::spawn(events.clone().run());
    assert!(!events.flush(Duration::from_millis(50)).await, "there is no server yet");

    events.connect(channel(&config, &resolver()).unwrap(), MACHINE);
    assert!(events.flush(Duration::from_secs(30)).await);
    boot_service(&config).register(register_request(MACHINE)).await.unwrap();
    let machine = rest_client(&config, config.hmac.as_deref().unwrap()).machine(MACHINE).await.unwrap();
    assert_eq!(names(&machine), ["Preparing", "Registering"]);
    assert_eq!(machine.provisioning.unwrap().phases, [phase]);
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_is_passed_on_word_for_word() {
    let server = Server::start().await;
    let config = server.anvil.metal_config();
    let failure = boot_service(&config).report(report_request(MACHINE)).await.unwrap_err();
    assert!(!failure.is_transient(), "{failure}");
    assert!(failure.to_string().contains(MACHINE), "{failure}");

    let error = rest_client(&config, "another key").machine(MACHINE).await.unwrap_err();
    assert!(format!("{error:#}").contains("403"), "{error:#}");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_transient() {
    let server = Server::start().await;
    let config = server.anvil.metal_config();
    let mut boot = boot_service(&config);
    server.stop().await;
    let failure = boot.register(register_request(MACHINE)).await.unwrap_err();
    assert!(failure.is_transient(), "{failure}");
}

#[tokio::test]
async fn a_server_of_another_ca_is_a_certificate_fault_and_not_waited_for() {
    let (ours, other) = (Server::start().await, Server::start().await);
    let mut config = ours.anvil.metal_config();
    config.ca_cert = other.anvil.metal_config().ca_cert;
    let end = tokio::time::timeout(Duration::from_secs(30), boot_service(&config).wait(MACHINE)).await.unwrap();
    assert!(matches!(end, WaitEnd::CertificateRefused(_)), "{end:?}");
    ours.stop().await;
    other.stop().await;
}

/// Answers one request with a fixed text.
async fn serve_once(answer: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    format!("http://{address}/certs")
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_says_what_is_wrong() {
    let http = http_client(resolver(), None).unwrap();
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let cases = [
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned(), "503"),
        (ok("<html>"), "is not MetalConfig"),
        (ok(r#"{"partition":"lab","hmac":"k"}"#), "missing or empty: address, metal_api_url, ca_cert, cert, key"),
    ];
    for (answer, expected) in cases {
        let url = serve_once(answer).await;
        let error = format!("{:#}", metal_config::fetch(&http, &url, &Introduction::default()).await.unwrap_err());
        assert!(error.contains(expected) && error.contains(&url), "{error}");
    }
}
