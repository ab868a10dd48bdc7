//! anvil's gRPC and REST against real clients on loopback.

mod anvil_support;

use std::collections::HashMap;
use std::time::Duration;

use anvil_support::*;
use drophammer::anvil::authority::Authority;
use drophammer::anvil::netboot::{BootAuthority, BootDecision};
use drophammer::api::grpc;
use drophammer::api::hmac::Role;
use drophammer::api::rest::{ErrorBody, Image, Machine};
use tonic::Code;

fn send(id: &str, event: &str, message: &str) -> grpc::EventServiceSendRequest {
    let event = grpc::MachineProvisioningEvent { time: None, event: event.into(), message: message.into() };
    grpc::EventServiceSendRequest { events: HashMap::from([(id.to_owned(), event)]) }
}

#[tokio::test]
async fn a_machine_goes_from_registration_to_its_disk() {
    let server = Server::start().await;
    add_offer(&server).await;
    let mut boot = server.boot_service().await;
    let mut events = server.event_service().await;
    let authority = Authority::new(server.anvil.clone());
    let agent = BootDecision::Agent { cmdline: "console=ttyS0,115200n8".into() };

    boot.dhcp(grpc::BootServiceDhcpRequest { uuid: MACHINE.into() }).await.unwrap();
    assert_eq!(authority.boot(MAC).await.unwrap(), agent);
    for event in ["Preparing", "Registering"] {
        events.send(send(MACHINE, event, "")).await.unwrap();
    }
    let registered = boot.register(register_request(MACHINE)).await.unwrap().into_inner();
    assert_eq!((registered.size.as_str(), registered.partition_id.as_str()), ("small", "lab"));
    events.send(send(MACHINE, "Waiting", "waiting for allocation")).await.unwrap();
    let mut stream = boot.wait(grpc::BootServiceWaitRequest { machine_id: MACHINE.into() }).await.unwrap().into_inner();

    let machine: Machine = server.rest(Role::Edit).post("/v1/machine/allocate", &allocate_request()).await.unwrap();
    assert_eq!(machine.id, MACHINE);
    // The first sign of life is due after 5 s: an end before it means that the call was woken.
    assert!(stream.message().await.unwrap().is_none(), "the stream ends with OK");
    assert_eq!(authority.boot(MAC).await.unwrap(), agent, "not installed yet");

    let progress = "progress step=image done=50 total=100 rate=10 left_s=5";
    events.send(send(MACHINE, "Installing", "start installation")).await.unwrap();
    events.send(send(MACHINE, "Alive", "phase name=install state=running start_ms=5 took_ms=0")).await.unwrap();
    events.send(send(MACHINE, "Alive", progress)).await.unwrap();
    let machine: Machine = server.rest(Role::View).get(&format!("/v1/machine/{MACHINE}")).await.unwrap();
    let provisioning = machine.provisioning.unwrap();
    assert_eq!(provisioning.phases[0].name, "install");
    assert_eq!(provisioning.progress.unwrap().done, 50);
    let allocation = machine.allocation.unwrap();
    assert_eq!((allocation.hostname.as_str(), allocation.role.as_str()), ("web-1", "machine"));
    assert_eq!(allocation.dns_servers[0].ip, "10.77.0.1");
    assert_eq!(allocation.image.unwrap().url, "http://10.77.0.1:4242/img.tar.zst");

    boot.report(report_request(MACHINE)).await.unwrap();
    assert_eq!(authority.boot(&MAC.to_uppercase()).await.unwrap(), BootDecision::LocalDisk);
    events.send(send(MACHINE, "Booting New Kernel", "")).await.unwrap();
    authority.saw_dhcp(MACHINE).await.unwrap();
    let machine: Machine = server.rest(Role::View).get(&format!("/v1/machine/{MACHINE}")).await.unwrap();
    let names: Vec<&str> = machine.events.log.iter().map(|event| event.event.as_str()).collect();
    let expected = ["Booting New Kernel", "Installing", "Waiting", "Registering", "Preparing", "PXE Booting"];
    assert_eq!(names, expected);
    assert!(!machine.events.crash_loop, "passing by on the way to the disk is no crash");

    let freed: Machine = server.rest(Role::Edit).delete(&format!("/v1/machine/{MACHINE}/free")).await.unwrap();
    assert_eq!(freed.allocation, None);
    assert_eq!(freed.events.log[0].event, "Machine Reclaim");
    assert_eq!(authority.boot(MAC).await.unwrap(), agent);
    server.stop().await;
}

#[tokio::test]
async fn a_reinstallation_boots_the_agent_again_and_keeps_the_allocation() {
    let server = Server::start().await;
    add_offer(&server).await;
    let mut boot = server.boot_service().await;
    let authority = Authority::new(server.anvil.clone());
    boot.register(register_request(MACHINE)).await.unwrap();
    let request = drophammer::api::rest::AllocateRequest { uuid: Some(MACHINE.into()), ..allocate_request() };
    let edit = server.rest(Role::Edit);
    let _: Machine = edit.post("/v1/machine/allocate", &request).await.unwrap();
    boot.report(report_request(MACHINE)).await.unwrap();
    assert_eq!(authority.boot(MAC).await.unwrap(), BootDecision::LocalDisk);

    let body = serde_json::json!({ "id": MACHINE, "imageid": IMAGE });
    let machine: Machine = edit.post(&format!("/v1/machine/{MACHINE}/reinstall"), &body).await.unwrap();
    assert!(machine.allocation.unwrap().reinstall);
    assert_ne!(authority.boot(MAC).await.unwrap(), BootDecision::LocalDisk);

    let abort = grpc::BootServiceAbortReinstallRequest { uuid: MACHINE.into(), primary_disk_wiped: false };
    let answer = boot.abort_reinstall(abort).await.unwrap().into_inner();
    assert_eq!(answer.boot_info.unwrap().kernel, "/boot/vmlinuz");
    assert_eq!(authority.boot(MAC).await.unwrap(), BootDecision::LocalDisk);
    server.stop().await;
}

#[tokio::test]
async fn grpc_errors_are_unknown_with_their_text() {
    let server = Server::start().await;
    let mut boot = server.boot_service().await;
    let registers = [
        (grpc::BootServiceRegisterRequest { uuid: String::new(), ..register_request(MACHINE) }, "uuid is empty"),
        (grpc::BootServiceRegisterRequest { hardware: None, ..register_request(MACHINE) }, "hardware is missing"),
        (grpc::BootServiceRegisterRequest { bios: None, ..register_request(MACHINE) }, "bios is missing"),
        (
            grpc::BootServiceRegisterRequest { partition_id: String::new(), ..register_request(MACHINE) },
            "partition id is empty",
        ),
    ];
    for (request, expected) in registers {
        let status = boot.register(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, expected));
    }
    let known: Machine = server.rest(Role::View).get(&format!("/v1/machine/{MACHINE}")).await.unwrap();
    assert_eq!(known.size.unwrap().id, "unknown", "stored all the same");

    let status = boot.wait(grpc::BootServiceWaitRequest { machine_id: "x".into() }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "no machine with id \"x\" found"));
    let status = boot.report(report_request(MACHINE)).await.unwrap_err();
    assert!(status.message().contains("is not allocated"), "{status}");
    let request = grpc::BootServiceBootRequest { mac: MAC.into(), partition_id: "x".into() };
    assert_eq!(boot.boot(request).await.unwrap_err().code(), Code::Unknown);
    let request = grpc::BootServiceBootRequest { mac: MAC.into(), partition_id: "lab".into() };
    let answer = boot.boot(request).await.unwrap().into_inner();
    assert_eq!(answer.cmdline.as_deref(), Some("console=ttyS0,115200n8"));
    let password = boot.super_user_password(grpc::BootServiceSuperUserPasswordRequest {}).await.unwrap().into_inner();
    assert_eq!(password.super_user_password, "");
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_event_fails_only_its_machine() {
    let server = Server::start().await;
    let mut events = server.event_service().await;
    let mut request = send("a", "Reset Fail Count", "");
    request.events.extend(send("b", "Preparing", "hello").events);
    let answer = events.send(request).await.unwrap().into_inner();
    assert_eq!((answer.events, answer.failed), (1, vec!["a".to_owned()]));
    let machine: Machine = server.rest(Role::View).get("/v1/machine/b").await.unwrap();
    assert_eq!(machine.events.log[0].message, "hello");
    server.stop().await;
}

#[tokio::test]
async fn a_newer_wait_replaces_an_older_one_and_a_broken_one_waits_no_more() {
    let server = Server::start().await;
    add_offer(&server).await;
    let mut boot = server.boot_service().await;
    boot.register(register_request(MACHINE)).await.unwrap();
    let request = || grpc::BootServiceWaitRequest { machine_id: MACHINE.into() };
    let mut older = boot.wait(request()).await.unwrap().into_inner();
    let mut newer = boot.wait(request()).await.unwrap().into_inner();
    let status = older.message().await.unwrap_err();
    assert!(status.message().contains("replaced by a newer call"), "{status}");
    assert!(newer.message().await.unwrap().is_some(), "a sign of life");

    drop(newer);
    let id = MACHINE.to_owned();
    for _ in 0..100 {
        let id = id.clone();
        if !server.anvil.store.run(move |tx| Ok(tx.expect_machine(&id)?.waiting)).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refusal = server.rest(Role::Edit).post::<Machine>("/v1/machine/allocate", &allocate_request()).await;
    assert_eq!(refusal.unwrap_err().to_string(), "no machine available");
    server.stop().await;
}

#[tokio::test]
async fn only_clients_with_a_certificate_get_in() {
    let server = Server::start().await;
    let config = server.anvil.metal_config();
    let without = agent_tls(&config.ca_cert.unwrap());
    let outcome = match connect(&config.address.unwrap(), without).await {
        Err(_) => Err(Code::Unavailable),
        Ok(channel) => {
            let mut boot = grpc::boot_service_client::BootServiceClient::new(channel);
            let call = boot.super_user_password(grpc::BootServiceSuperUserPasswordRequest {}).await;
            call.map(drop).map_err(|status| status.code())
        }
    };
    assert!(outcome.is_err(), "the call went through without a client certificate");
    server.stop().await;
}

/// Status and body of a call with these headers.
async fn call(server: &Server, method: &str, path: &str, headers: &[(&str, String)], body: &str) -> (u16, ErrorBody) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{}{path}", server.url())).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("date"), "agents correct their clock by it");
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

fn signed(server: &Server, role: Role, method: &str, age: time::Duration) -> Vec<(&'static str, String)> {
    use drophammer::api::hmac;
    let at = time::OffsetDateTime::now_utc() - age;
    let key = server.key(role);
    let signature = hmac::sign(key.secret.as_bytes(), role, method, at, &hmac::random_salt());
    vec![("x-date", signature.date), ("x-data-salt", signature.salt), ("authorization", signature.authorization)]
}

#[tokio::test]
async fn unsigned_old_forged_and_too_weak_calls_are_403() {
    let server = Server::start().await;
    // The client installs the TLS provider that every reqwest client needs.
    drop(server.rest(Role::View));
    let now = time::Duration::ZERO;
    let mut forged = signed(&server, Role::View, "GET", now);
    forged[1].1 = "abcdefghijklmnopqrstuvWX".into();
    let cases = [
        ("GET", "/v1/machine", vec![], "you are not member in one of [view edit admin]"),
        ("GET", "/v1/machine", signed(&server, Role::View, "GET", time::Duration::seconds(40)), "too old"),
        ("GET", "/v1/machine", forged, "Wrong HMAC found"),
        ("GET", "/v1/machine", signed(&server, Role::View, "POST", now), "Wrong HMAC found"),
        ("POST", "/v1/machine/allocate", signed(&server, Role::View, "POST", now), "not member in one of [edit admin]"),
        ("PUT", "/v1/image", signed(&server, Role::Edit, "PUT", now), "not member in one of [admin]"),
        ("DELETE", "/v1/image/x", signed(&server, Role::Edit, "DELETE", now), "not member in one of [admin]"),
    ];
    for (method, path, headers, expected) in cases {
        let (status, body) = call(&server, method, path, &headers, "{}").await;
        assert_eq!((status, body.statuscode), (403, 403), "{method} {path} {expected}");
        assert!(body.message.contains(expected), "{expected}: {}", body.message);
    }
    let headers = signed(&server, Role::Admin, "GET", now);
    assert_eq!(call(&server, "GET", "/v1/machine", &headers, "").await.0, 200);
    assert_eq!(call(&server, "GET", "/v1/health", &[], "").await.0, 200);
    assert_eq!(call(&server, "GET", "/v1/version", &[], "").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn refusals_have_the_usual_body_and_name_the_field() {
    let server = Server::start().await;
    drop(server.rest(Role::View));
    let cases = [
        ("GET", "/v1/machine/x", "", 404, "no machine with id \"x\" found"),
        ("GET", "/v1/nothing", "", 404, "no such path: /v1/nothing"),
        ("PATCH", "/v1/machine", "", 405, "PATCH is not possible"),
        ("POST", "/v1/machine/allocate", "{", 400, "JSON"),
        ("POST", "/v1/machine/allocate", r#"{"imageid": 5}"#, 400, "imageid"),
        ("POST", "/v1/machine/allocate", r#"{"ssh_pub_keys": [1]}"#, 400, "ssh_pub_keys"),
        ("POST", "/v1/machine/allocate", "{}", 400, "imageid: missing"),
        ("PUT", "/v1/image", r#"{"id": "debian-12.0.1", "url": "x"}"#, 400, "url: expected"),
        ("PUT", "/v1/image", r#"{"id": "debian"}"#, 400, "image id: expected"),
        ("PUT", "/v1/size", r#"{"id": "unknown"}"#, 400, "id: expected a name other than"),
        ("PUT", "/v1/size", r#"{"id": "a", "constraints": [{"type": "gpu"}]}"#, 422, "identifier is missing"),
        ("PUT", "/v1/filesystemlayout", "{}", 400, "id: the id is empty"),
        (
            "PUT",
            "/v1/filesystemlayout",
            r#"{"id": "x", "filesystems": [{"device": "/dev/vda", "format": "zfs"}]}"#,
            422,
            "filesystems[0].format: unsupported format \"zfs\"",
        ),
        ("DELETE", "/v1/size/x", "", 404, "no size with id \"x\" found"),
    ];
    for (method, path, body, expected_status, expected) in cases {
        let headers = signed(&server, Role::Admin, method, time::Duration::ZERO);
        let (status, answer) = call(&server, method, path, &headers, body).await;
        assert_eq!((status, answer.statuscode), (expected_status, expected_status), "{method} {path} {body}");
        assert!(answer.message.contains(expected), "{method} {path}: {}", answer.message);
    }
    server.stop().await;
}

/// Section 5 of the contract: what is refused, and how.
#[tokio::test]
async fn sizes_are_checked_before_they_are_stored() {
    let server = Server::start().await;
    drop(server.rest(Role::View));
    let memory = r#"{"type": "memory", "min": 1, "max": 9}"#;
    let with = |more: &str| format!(r#"{{"id": "b", "constraints": [{memory}, {more}]}}"#);
    let cases = [
        (r#"{"id": ""}"#.to_owned(), 400, "id: expected"),
        (r#"{"id": "unknown"}"#.to_owned(), 400, "id: expected"),
        (with(r#"{"type": "cores", "min": 2, "max": 1}"#), 422, "max 1 is less than min 2"),
        (with(r#"{"type": "storage", "max": 1, "identifier": "a["}"#), 422, "no valid pattern"),
        (with(r#"{"type": "gpu", "max": 1}"#), 422, "identifier is missing"),
        (with(memory), 422, "at most one of type memory, found 2"),
        (with(r#"{"type": "cores", "max": 1}, {"type": "cores", "max": 2}"#), 422, "at most one of type cores"),
        (
            r#"{"id": "b", "constraints": [{"type": "memory", "max": 1, "identifier": "x"}]}"#.to_owned(),
            422,
            "memory takes",
        ),
        (with(r#"{"type": "nvram", "max": 1}"#), 422, "type: expected cores, memory, storage or gpu"),
        (r#"{"id": "b", "constraints": [{"type": "memory", "max": "1TiB"}]}"#.to_owned(), 400, "constraints[0].max"),
        (format!(r#"{{"id": "b", "constraints": [{memory}]}}"#), 400, "size \"b\" overlaps with \"a\""),
    ];
    let first = format!(r#"{{"id": "a", "constraints": [{memory}]}}"#);
    for (method, expected) in [("PUT", 201), ("PUT", 409), ("POST", 200)] {
        let headers = signed(&server, Role::Admin, method, time::Duration::ZERO);
        assert_eq!(call(&server, method, "/v1/size", &headers, &first).await.0, expected, "{method}");
    }
    for (body, expected_status, expected) in cases {
        let headers = signed(&server, Role::Admin, "PUT", time::Duration::ZERO);
        let (status, answer) = call(&server, "PUT", "/v1/size", &headers, &body).await;
        assert_eq!(status, expected_status, "{body}: {}", answer.message);
        assert!(answer.message.contains(expected), "{expected}: {}", answer.message);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_change_of_sizes_reaches_the_machines_that_nobody_has() {
    const TAKEN: &str = "00000000-0000-4000-8000-000000000002";
    let server = Server::start().await;
    add_offer(&server).await;
    let (view, admin) = (server.rest(Role::View), server.rest(Role::Admin));
    let mut boot = server.boot_service().await;
    for id in [MACHINE, TAKEN] {
        boot.register(register_request(id)).await.unwrap();
    }
    let request = drophammer::api::rest::AllocateRequest { uuid: Some(TAKEN.into()), ..allocate_request() };
    let _: Machine = server.rest(Role::Edit).post("/v1/machine/allocate", &request).await.unwrap();
    let size_of = async |id: &str| {
        let machine: Machine = view.get(&format!("/v1/machine/{id}")).await.unwrap();
        (machine.size.unwrap().id, machine.description)
    };
    let verdict =
        async || -> serde_json::Value { view.get(&format!("/v1/machine/{MACHINE}/size-match")).await.unwrap() };
    assert_eq!(size_of(MACHINE).await, ("small".into(), String::new()));
    assert_eq!(verdict().await, serde_json::json!({ "id": "small", "matching": ["small"], "misses": [] }));

    // The machine has 8 GiB on /dev/vda.
    let narrow = serde_json::json!({ "id": "small", "constraints": [
        { "type": "cores", "min": 1, "max": 4 }, { "type": "memory", "max": 4_u64 << 30 },
        { "type": "storage", "min": 1, "max": 1_u64 << 30, "identifier": "/dev/vd*" }] });
    let _: serde_json::Value = admin.post("/v1/size", &narrow).await.unwrap();
    let (size, description) = size_of(MACHINE).await;
    assert_eq!(size, "unknown");
    assert!(
        description.starts_with("size unknown: no size matches; small: storage /dev/vd*: expected 1 to"),
        "{description}"
    );
    assert_eq!(size_of(TAKEN).await.0, "small", "allocated machines keep theirs");
    let judged = verdict().await;
    assert_eq!((&judged["id"], &judged["misses"][0]["constraint"]), (&serde_json::Value::Null, &2.into()), "{judged}");

    let wide = serde_json::json!({ "id": "wide", "constraints": [
        { "type": "cores", "max": 64 }, { "type": "memory", "max": 4_u64 << 30 }, { "type": "storage", "max": 1_u64 << 40 }] });
    let _: serde_json::Value = admin.put("/v1/size", &wide).await.unwrap();
    assert_eq!(size_of(MACHINE).await, ("wide".into(), String::new()));
    let _: serde_json::Value = admin.delete("/v1/size/wide").await.unwrap();
    assert_eq!(size_of(MACHINE).await.0, "unknown");
    assert_eq!(size_of(TAKEN).await.0, "small");

    let freed: Machine = server.rest(Role::Edit).delete(&format!("/v1/machine/{TAKEN}/free")).await.unwrap();
    assert_eq!(freed.size.unwrap().id, "unknown", "and a freed one follows");
    let missing = view.get::<serde_json::Value>("/v1/machine/x/size-match").await.unwrap_err().to_string();
    assert!(missing.contains("no machine with id"), "{missing}");
    server.stop().await;
}

/// A registration of eight H100.
fn gpu_server(id: &str) -> grpc::BootServiceRegisterRequest {
    let mut request = register_request(id);
    let gpu = grpc::MachineGpu { vendor: "NVIDIA Corporation".into(), model: "GH100 [H100 SXM5 80GB]".into() };
    request.hardware.as_mut().unwrap().gpus = vec![gpu; 8];
    request
}

#[tokio::test]
async fn gpus_register_by_their_marketing_names_unless_sizes_are_strict() {
    for (strict, expected) in [(false, "g1"), (true, "unknown")] {
        let server = Server::start_with(&format!("sizes: {{strict: {strict}}}")).await;
        let size = serde_json::json!({ "id": "g1", "constraints": [
            { "type": "cores", "max": 64 }, { "type": "memory", "max": 4_u64 << 30 }, { "type": "storage", "max": 1_u64 << 40 },
            { "type": "gpu", "min": 8, "max": 8, "identifier": "H100*" }] });
        let _: serde_json::Value = server.rest(Role::Admin).put("/v1/size", &size).await.unwrap();
        let registered = server.boot_service().await.register(gpu_server(MACHINE)).await.unwrap().into_inner();
        assert_eq!(registered.size, expected);
        server.stop().await;
    }
}

#[tokio::test]
async fn other_rules_for_sizes_hold_for_known_machines_from_the_next_start_on() {
    let server = Server::start().await;
    let size = serde_json::json!({ "id": "g1", "constraints": [
        { "type": "cores", "max": 64 }, { "type": "memory", "max": 4_u64 << 30 }, { "type": "storage", "max": 1_u64 << 40 },
        { "type": "gpu", "min": 8, "max": 8, "identifier": "H100*" }] });
    let _: serde_json::Value = server.rest(Role::Admin).put("/v1/size", &size).await.unwrap();
    let registered = server.boot_service().await.register(gpu_server(MACHINE)).await.unwrap().into_inner();
    assert_eq!(registered.size, "g1");
    let (mut config, endpoints) = (server.anvil.config.clone(), server.anvil.endpoints);
    let _dir = server.stop().await;
    config.sizes.strict = true;
    let anvil = drophammer::anvil::state::Anvil::open(config, endpoints).unwrap();
    let machine = anvil.store.run(|tx| tx.expect_machine(MACHINE)).await.unwrap();
    assert_eq!(machine.size, "unknown");
}

/// The agent does so while it waits, when neighbours come late.
#[tokio::test]
async fn a_waiting_machine_that_registers_again_goes_on_waiting() {
    let server = Server::start().await;
    add_offer(&server).await;
    let mut boot = server.boot_service().await;
    let mut events = server.event_service().await;
    for event in ["PXE Booting", "Preparing", "Registering"] {
        events.send(send(MACHINE, event, "")).await.unwrap();
    }
    boot.register(register_request(MACHINE)).await.unwrap();
    events.send(send(MACHINE, "Waiting", "")).await.unwrap();
    let mut stream = boot.wait(grpc::BootServiceWaitRequest { machine_id: MACHINE.into() }).await.unwrap().into_inner();

    let mut again = register_request(MACHINE);
    let neighbor = grpc::MachineNic { mac: "Eth1/3".into(), identifier: "Eth1/3".into(), ..Default::default() };
    again.hardware.as_mut().unwrap().nics[0].neighbors = vec![neighbor];
    boot.register(again).await.unwrap();
    let machine: Machine = server.rest(Role::View).get(&format!("/v1/machine/{MACHINE}")).await.unwrap();
    assert_eq!(machine.hardware.nics[0].neighbors[0].identifier, "Eth1/3");
    assert_eq!(machine.events.log[0].event, "Waiting");
    assert_eq!((machine.events.last_error_event, machine.events.crash_loop), (None, false));

    let allocated: Machine = server.rest(Role::Edit).post("/v1/machine/allocate", &allocate_request()).await.unwrap();
    assert_eq!(allocated.id, MACHINE, "it is still among those that wait");
    assert!(stream.message().await.unwrap().is_none(), "and is told");
    server.stop().await;
}

#[tokio::test]
async fn an_uploaded_image_is_stored_whole_with_its_digest() {
    let server = Server::start().await;
    let admin = server.rest(Role::Admin);
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let file = server.dir.path().join("img.tar.zst");
    std::fs::write(&file, &content).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &content);
    let expected = format!("sha256:{}", hex::encode(digest.as_ref()));

    let wrong = format!("/v1/image/{IMAGE}/file?filename=img.tar.zst&digest=sha256:{}", "0".repeat(64));
    let refusal = admin.upload::<Image>(&wrong, &file).await.unwrap_err().to_string();
    assert!(refusal.contains(&expected), "{refusal}");
    assert!(admin.upload::<Image>(&format!("/v1/image/{IMAGE}/file?filename=.hidden"), &file).await.is_err());
    let images_dir = server.anvil.images_dir();
    assert_eq!(std::fs::read_dir(&images_dir).unwrap().count(), 0, "nothing is left of a refused upload");

    let path = format!("/v1/image/{IMAGE}/file?filename=img.tar.zst");
    let image: Image = admin.upload(&path, &file).await.unwrap();
    assert_eq!(image.digest.as_deref(), Some(expected.as_str()));
    assert_eq!(image.url, format!("{}/images/{IMAGE}/img.tar.zst", server.url()));
    assert!(std::fs::read(images_dir.join(IMAGE).join("img.tar.zst")).unwrap() == content);
    let again = admin.upload::<Image>(&path, &file).await.unwrap_err().to_string();
    assert!(again.contains("exists already"), "{again}");

    let _: Image = admin.delete(&format!("/v1/image/{IMAGE}")).await.unwrap();
    assert_eq!(std::fs::read_dir(&images_dir).unwrap().count(), 0);
    server.stop().await;
}

#[tokio::test]
async fn an_uploaded_signature_lies_beside_its_image_and_goes_with_it() {
    let server = Server::start().await;
    let admin = server.rest(Role::Admin);
    let file = server.dir.path().join("img.tar.zst");
    std::fs::write(&file, "image").unwrap();
    let signature = "untrusted comment: a\nRUQ=\ntrusted comment: b\nAA==\n";
    let path = |signature: &str| {
        let escaped: String = signature.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("/v1/image/{IMAGE}/file?filename=img.tar.zst&signature={escaped}")
    };
    for wrong in ["", "<html>", &signature[..30], &signature.replace("a\n", &format!("{}\n", "a".repeat(10_000)))] {
        let refusal = admin.upload::<Image>(&path(wrong), &file).await.unwrap_err().to_string();
        assert!(refusal.contains("signature: expected the four lines"), "{refusal}");
    }
    let _: Image = admin.upload(&path(signature), &file).await.unwrap();
    let images_dir = server.anvil.images_dir();
    assert_eq!(std::fs::read_to_string(images_dir.join(IMAGE).join("img.tar.zst.minisig")).unwrap(), signature);
    let _: Image = admin.delete(&format!("/v1/image/{IMAGE}")).await.unwrap();
    assert_eq!(std::fs::read_dir(&images_dir).unwrap().count(), 0);
    server.stop().await;
}

#[tokio::test]
async fn an_image_in_use_is_not_removed() {
    let server = Server::start().await;
    add_offer(&server).await;
    let mut boot = server.boot_service().await;
    boot.register(register_request(MACHINE)).await.unwrap();
    let request = drophammer::api::rest::AllocateRequest { uuid: Some(MACHINE.into()), ..allocate_request() };
    let _: Machine = server.rest(Role::Edit).post("/v1/machine/allocate", &request).await.unwrap();
    let admin = server.rest(Role::Admin);
    let refusal = admin.delete::<Image>(&format!("/v1/image/{IMAGE}")).await.unwrap_err().to_string();
    assert!(refusal.contains(&format!("in use by {MACHINE}")), "{refusal}");
    let image: Image = admin.get(&format!("/v1/image/{IMAGE}")).await.unwrap();
    assert_eq!(image.usedby, [MACHINE]);
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_open_waits_and_a_second_anvil_is_kept_out() {
    let server = Server::start().await;
    let mut boot = server.boot_service().await;
    boot.register(register_request(MACHINE)).await.unwrap();
    let request = grpc::BootServiceWaitRequest { machine_id: MACHINE.into() };
    let mut stream = boot.wait(request).await.unwrap().into_inner();
    let config = server.anvil.config.clone();
    let endpoints = server.anvil.endpoints;
    let error = format!("{:#}", drophammer::anvil::state::Anvil::open(config, endpoints).err().unwrap());
    assert!(error.contains("is another anvil running"), "{error}");
    let _dir = server.stop().await;
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}
