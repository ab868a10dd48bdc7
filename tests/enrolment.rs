//! Machines that have to be admitted, against a real anvil: who gets keys, and whom they are good for.

mod anvil_support;

use std::process::{Command, Output};
use std::time::Duration;

use anvil_support::*;
use drophammer::api::enrolment::{Enrolment, NewToken, NotAdmitted, Standing};
use drophammer::api::erasure::Erasure;
use drophammer::api::event::ProvisioningEvent;
use drophammer::api::grpc;
use drophammer::api::hmac::Role;
use drophammer::api::jws::Kind;
use drophammer::api::mac::Mac;
use drophammer::api::metal_config::MetalConfig;
use drophammer::api::progress::{Note, Record};
use drophammer::client::boot::{BootService, WaitEnd, channel};
use drophammer::client::metal_config::{self, Introduction};
use drophammer::client::rest::RestClient;
use drophammer::client::signature::Signer;
use drophammer::net::{Resolver, http_client, pinned_http_client};

const OTHER: &str = "00000000-0000-4000-8000-000000000002";
const REQUIRED: &str = "require_enrolment: true";

fn resolver() -> Resolver {
    Resolver::new(&[], &[])
}

fn introduction(machine: &str, mac: &str, token: Option<&str>) -> Introduction {
    let macs: Vec<Mac> = vec![mac.parse().unwrap()];
    Introduction { machine_id: machine.to_owned(), macs, token: token.map(str::to_owned) }
}

/// As an agent with `drophammer.ca=` does.
async fn fetch(server: &Server, me: &Introduction) -> anyhow::Result<MetalConfig> {
    let http = pinned_http_client(resolver(), &[server.anvil.pki.ca_pin().unwrap()]).unwrap();
    metal_config::fetch(&http, &format!("{}/certs", server.anvil.endpoints.https_url()), me).await
}

async fn fetch_plain(server: &Server, me: &Introduction) -> anyhow::Result<MetalConfig> {
    metal_config::fetch(&http_client(resolver(), None).unwrap(), &format!("{}/certs", server.url()), me).await
}

fn standing(result: anyhow::Result<MetalConfig>) -> Option<Standing> {
    match result {
        Ok(_) => Some(Standing::Admitted),
        Err(error) => error.downcast::<NotAdmitted>().unwrap().enrolment,
    }
}

fn boot(config: &MetalConfig) -> BootService {
    BootService::new(channel(config, &resolver()).unwrap())
}

fn rest(config: &MetalConfig) -> RestClient {
    let http = http_client(resolver(), config.ca_cert.as_deref()).unwrap();
    RestClient::new(http, config.metal_api_url.as_deref().unwrap(), config.hmac.as_deref().unwrap())
}

/// The operator's command, on the server's host.
async fn anvil(server: &Server, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anvil"));
    command.env_remove("ANVIL_URL").env_remove("ANVIL_KEY_FILE").env_remove("ANVIL_DATA");
    command.arg("--data").arg(server.dir.path().join("data")).args(words);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn said(server: &Server, words: &[&str]) -> String {
    let output = anvil(server, words).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_gets_keys_of_its_own_when_an_operator_admits_it_and_none_before() {
    let server = Server::start_rack(REQUIRED).await;
    let me = introduction(MACHINE, MAC, None);
    let told = format!("{:#}", fetch(&server, &me).await.unwrap_err());
    assert_eq!(told, format!("this machine waits to be admitted: anvil machine admit {MACHINE}"));
    assert_eq!(standing(fetch(&server, &Introduction::default()).await), None, "it does not say who it is");

    let pending = said(&server, &["machine", "pending"]).await;
    for expected in [MACHINE, MAC, "pending", "127.0.0.1"] {
        assert!(pending.contains(expected), "{expected}: {pending}");
    }
    said(&server, &["machine", "admit", &MAC.to_uppercase()]).await;
    assert!(!said(&server, &["machine", "pending"]).await.contains(MACHINE));
    let all: Vec<Enrolment> =
        serde_json::from_str(&said(&server, &["--format", "json", "machine", "pending", "--all"]).await).unwrap();
    assert_eq!((all[0].standing, all[0].how.as_str()), (Standing::Admitted, "an operator, by MAC 02:00:00:00:00:01"));

    let config = fetch(&server, &me).await.unwrap();
    let shared = server.anvil.metal_config();
    assert!(config.cert != shared.cert && config.key != shared.key && config.hmac != shared.hmac);
    assert!(config == fetch(&server, &me).await.unwrap(), "the same at every start");
    let plain = format!("{:#}", fetch_plain(&server, &me).await.unwrap_err());
    assert!(plain.contains("HTTPS only"), "{plain}");
    assert_eq!(standing(fetch(&server, &introduction(OTHER, MAC, None)).await), Some(Standing::Pending));
    server.stop().await;
}

#[tokio::test]
async fn a_machine_speaks_for_itself_only() {
    let server = Server::start_rack(REQUIRED).await;
    let admin = server.rest(Role::Admin);
    for id in [MACHINE, OTHER] {
        let _: Enrolment = admin.post(&format!("/v1/enrolment/{id}/admit"), &serde_json::json!({})).await.unwrap();
    }
    let own = fetch(&server, &introduction(MACHINE, MAC, None)).await.unwrap();
    let others = fetch(&server, &introduction(OTHER, "02:00:00:00:00:02", None)).await.unwrap();
    boot(&own).register(register_request(MACHINE)).await.unwrap();
    boot(&others).register(register_request(OTHER)).await.unwrap();

    for (config, id) in [(&own, OTHER), (&others, MACHINE), (&server.anvil.metal_config(), MACHINE)] {
        let failure = boot(config).register(register_request(id)).await.unwrap_err().to_string();
        assert!(failure.contains("PermissionDenied") && failure.contains("certificate"), "{failure}");
        assert!(boot(config).report(report_request(id)).await.unwrap_err().to_string().contains("PermissionDenied"));
        assert!(matches!(boot(config).wait(id).await, WaitEnd::CertificateRefused(_)));
        let send = grpc::EventServiceSendRequest { events: [(id.to_owned(), event())].into_iter().collect() };
        let channel = channel(config, &resolver()).unwrap();
        let refused = grpc::event_service_client::EventServiceClient::new(channel).send(send).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
    assert_eq!(rest(&own).machine(MACHINE).await.unwrap().events.log, []);
    for (signing, is_valid) in [(&others, false), (&own, true)] {
        let jws = Signer::new(signing, MACHINE).sign(Kind::EraseRecord, r#"{"disk":"vda"}"#).unwrap();
        let note = Note::Record(Record { kind: Kind::EraseRecord, jws }).to_string();
        let alive = grpc::MachineProvisioningEvent {
            event: ProvisioningEvent::Alive.as_str().to_owned(),
            message: note,
            ..Default::default()
        };
        let send = grpc::EventServiceSendRequest { events: [(MACHINE.to_owned(), alive)].into_iter().collect() };
        let channel = channel(&own, &resolver()).unwrap();
        grpc::event_service_client::EventServiceClient::new(channel).send(send).await.unwrap();
        let kept: Vec<Erasure> = admin.get(&format!("/v1/machine/{MACHINE}/erasure")).await.unwrap();
        assert_eq!(kept[0].signature.valid, is_valid, "{:?}", kept[0].signature);
    }
    let read = format!("{:#}", rest(&own).machine(OTHER).await.unwrap_err());
    assert!(read.contains("403"), "{read}");
    let list = drophammer::anvil::client::Client::new(
        &server.url(),
        drophammer::anvil::keys::Key { role: Role::View, secret: own.hmac.clone().unwrap() },
    );
    assert!(list.unwrap().get::<serde_json::Value>("/v1/machine").await.is_err(), "a machine reads the list of all");
    assert_eq!(server.rest(Role::View).get::<Vec<serde_json::Value>>("/v1/machine").await.unwrap().len(), 2);
    server.stop().await;
}

fn event() -> grpc::MachineProvisioningEvent {
    grpc::MachineProvisioningEvent { event: ProvisioningEvent::Crashed.as_str().to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_machine_that_is_shut_out_stays_out_and_its_open_call_ends() {
    let server = Server::start_rack(REQUIRED).await;
    let admin = server.rest(Role::Admin);
    let change = async |word: &str| {
        let _: Enrolment =
            admin.post(&format!("/v1/enrolment/{MACHINE}/{word}"), &serde_json::json!({})).await.unwrap();
    };
    change("admit").await;
    let me = introduction(MACHINE, MAC, None);
    let before = fetch(&server, &me).await.unwrap();
    boot(&before).register(register_request(MACHINE)).await.unwrap();
    let mut waiting = boot(&before);
    let wait = tokio::spawn(async move { waiting.wait(MACHINE).await });
    let is_waiting = async {
        while !server.anvil.store.run(|tx| Ok(tx.expect_machine(MACHINE)?.waiting)).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_waiting).await.expect("the machine never waited");

    change("revoke").await;
    let end = tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the call goes on").unwrap();
    assert!(matches!(end, WaitEnd::CertificateRefused(_)), "{end:?}");
    assert!(!server.anvil.store.run(|tx| Ok(tx.expect_machine(MACHINE)?.waiting)).await.unwrap());
    assert!(boot(&before).register(register_request(MACHINE)).await.is_err());
    assert!(rest(&before).machine(MACHINE).await.is_err());
    assert_eq!(standing(fetch(&server, &me).await), Some(Standing::Revoked));
    let shown: serde_json::Value = admin.get(&format!("/v1/machine/{MACHINE}")).await.unwrap();
    assert_eq!(shown["enrolment"], "revoked");

    change("admit").await;
    let after = fetch(&server, &me).await.unwrap();
    assert!(after.cert != before.cert && after.hmac != before.hmac);
    boot(&after).register(register_request(MACHINE)).await.unwrap();
    assert!(boot(&before).register(register_request(MACHINE)).await.is_err(), "the old certificate is good again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_admits_so_many_machines_and_is_stored_nowhere() {
    let server = Server::start_rack(REQUIRED).await;
    let made: NewToken = serde_json::from_str(
        &said(&server, &["--format", "json", "machine", "token", "--machines", "1", "--expires", "1h"]).await,
    )
    .unwrap();
    let token = made.token.as_str();
    let plain = fetch_plain(&server, &introduction(MACHINE, MAC, Some(token))).await;
    assert!(format!("{:#}", plain.unwrap_err()).contains("HTTPS only"));
    assert_eq!(standing(fetch(&server, &introduction(MACHINE, MAC, Some(token))).await), Some(Standing::Admitted));
    let other = introduction(OTHER, "02:00:00:00:00:02", Some(token));
    assert_eq!(standing(fetch(&server, &other).await), Some(Standing::Pending));
    assert_eq!(standing(fetch(&server, &introduction(MACHINE, MAC, None)).await), Some(Standing::Admitted));
    let wrong = anvil(&server, &["machine", "token", "--expires", "tomorrow"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{}", String::from_utf8_lossy(&wrong.stderr));
    let dir = server.stop().await;
    for entry in std::fs::read_dir(dir.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        let is_there = bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!is_there, "the token is in {}", path.display());
    }
}

#[tokio::test]
async fn unless_it_is_asked_for_every_machine_gets_the_shared_keys() {
    let server = Server::start_rack("").await;
    let shared = server.anvil.metal_config();
    assert!(fetch_plain(&server, &Introduction::default()).await.unwrap() == shared);
    assert!(fetch(&server, &introduction(MACHINE, MAC, Some("x"))).await.unwrap() == shared);
    assert_eq!(server.rest(Role::View).get::<Vec<Enrolment>>("/v1/enrolment").await.unwrap(), []);
    server.stop().await;
}

#[tokio::test]
async fn a_viewer_sees_neither_tokens_nor_user_data() {
    let token = "drophammer.token=SECRET";
    let server = Server::start_rack(REQUIRED).await;
    let mut partition: drophammer::anvil::machines::Partition =
        server.anvil.store.run(|tx| tx.expect("lab")).await.unwrap();
    partition.bootconfig.commandline = format!("console=ttyS0 {token}");
    server.anvil.store.run(move |tx| tx.put(&partition)).await.unwrap();
    add_offer(&server).await;
    let admin = server.rest(Role::Admin);
    let _: Enrolment = admin.post(&format!("/v1/enrolment/{MACHINE}/admit"), &serde_json::json!({})).await.unwrap();
    let config = fetch(&server, &introduction(MACHINE, MAC, None)).await.unwrap();
    boot(&config).register(register_request(MACHINE)).await.unwrap();
    server.anvil.store.run(|tx| drophammer::anvil::machines::set_waiting(tx, MACHINE, true)).await.unwrap();
    let request = drophammer::api::rest::AllocateRequest {
        uuid: Some(MACHINE.to_owned()),
        user_data: "SECRET".to_owned(),
        ..allocate_request()
    };
    let _: serde_json::Value = admin.post("/v1/machine/allocate", &request).await.unwrap();

    let view = server.rest(Role::View);
    let one = format!("/v1/machine/{MACHINE}");
    for path in ["/v1/partition", "/v1/partition/lab", "/v1/machine", &one, "/v1/enrolment", "/v1/image"] {
        let shown: serde_json::Value = view.get(path).await.unwrap();
        assert!(!shown.to_string().contains("SECRET"), "{path}: {shown}");
    }
    let own = rest(&config).machine(MACHINE).await.unwrap();
    assert_eq!(own.allocation.unwrap().user_data, "SECRET");
    server.stop().await;
}
