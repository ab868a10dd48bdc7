//! Erase records and plans on their way: signed by the agent's client, kept and judged by a real anvil, checked with
//! openssl.

mod anvil_support;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anvil_support::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drophammer::anvil::authority::Authority;
use drophammer::anvil::config::parse_config;
use drophammer::anvil::netboot::{BootAuthority, BootDecision};
use drophammer::anvil::state::{Anvil, Endpoints};
use drophammer::api::erasure::{Erasure, Outcome, SentPlan};
use drophammer::api::grpc;
use drophammer::api::hmac::Role;
use drophammer::api::jws::{Algorithm, Jws, Kind};
use drophammer::api::metal_config::MetalConfig;
use drophammer::api::progress::{Note, Record};
use drophammer::api::rest::Machine;
use drophammer::client::boot::channel;
use drophammer::client::events::Events;
use drophammer::client::signature::Signer;
use drophammer::disk::device::{DiskFacts, DiskKind};
use drophammer::disk::erase::{EraseRecord, EraseResult, Erased, Level, Method};
use drophammer::net::Resolver;
use drophammer::sys::units::Bytes;

const OTHER: &str = "00000000-0000-4000-8000-000000000002";

fn disk(name: &str, serial: &str) -> DiskFacts {
    DiskFacts {
        device: format!("/dev/{name}"),
        name: name.to_owned(),
        size: Bytes(8_589_934_592),
        sector_bytes: 512,
        serial: Some(serial.to_owned()),
        wwn: None,
        model: None,
        links: Vec::new(),
        kind: DiskKind::Fixed,
        read_only: false,
        rotational: None,
        uses: Vec::new(),
        partitions: Vec::new(),
        content: None,
    }
}

fn erased(name: &str, serial: &str) -> EraseRecord {
    EraseRecord::begin(&disk(name, serial), Level::Clear).end(EraseResult::Erased(Erased {
        method: Method::ZeroOut,
        bytes: 8_589_934_592,
        verified_bytes: 85_899_346,
        verified: drophammer::disk::verify::Verified::default(),
        seconds: 1.5,
        refused: Vec::new(),
    }))
}

fn failed(name: &str, serial: &str) -> EraseRecord {
    EraseRecord::begin(&disk(name, serial), Level::Purge)
        .end(EraseResult::Failed { reason: "write-protected".to_owned() })
}

fn signed(config: &MetalConfig, machine: &str, record: &EraseRecord) -> Record {
    let json = serde_json::to_string(record).unwrap();
    Record { kind: Kind::EraseRecord, jws: Signer::new(config, machine).sign(Kind::EraseRecord, &json).unwrap() }
}

/// As the agent sends it.
async fn send(server: &Server, machine: &str, record: Record) {
    let event = grpc::MachineProvisioningEvent {
        time: None,
        event: "Alive".to_owned(),
        message: Note::Record(record).to_string(),
    };
    let request = grpc::EventServiceSendRequest { events: [(machine.to_owned(), event)].into_iter().collect() };
    assert_eq!(server.event_service().await.send(request).await.unwrap().into_inner().events, 1);
}

async fn erasures(server: &Server, machine: &str) -> Vec<Erasure> {
    server.rest(Role::View).get(&format!("/v1/machine/{machine}/erasure")).await.unwrap()
}

/// What is wrong with the newest record's signature.
async fn newest_fault(server: &Server) -> Option<String> {
    let newest = erasures(server, MACHINE).await.remove(0).signature;
    assert_eq!(newest.valid, newest.fault.is_none());
    newest.fault
}

#[tokio::test]
async fn records_wait_for_a_server_arrive_signed_and_stay() {
    let server = Server::start().await;
    add_offer(&server).await;
    let config = server.anvil.metal_config();
    let events = Events::default();
    tokio::spawn(events.clone().run());
    let records = [signed(&config, MACHINE, &erased("vda", "S1")), signed(&config, MACHINE, &failed("vdb", "S2"))];
    for record in records {
        events.record(record);
    }
    assert!(!events.flush(Duration::from_millis(50)).await, "there is no server yet");
    // One that nobody listens at. It is tried a second time after a second; by then there is a better one.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = MetalConfig { address: Some(nowhere.to_string()), ..config.clone() };
    events.connect(channel(&away, &Resolver::new(&[], &[])).unwrap(), MACHINE);
    assert!(!events.flush(Duration::from_millis(500)).await, "the server is away");
    events.connect(channel(&config, &Resolver::new(&[], &[])).unwrap(), MACHINE);
    assert!(events.flush(Duration::from_secs(30)).await);

    let kept = erasures(&server, MACHINE).await;
    let facts: Vec<_> = kept.iter().map(|erasure| erasure.facts().unwrap()).collect();
    assert_eq!(facts.iter().map(|facts| facts.device.as_str()).collect::<Vec<_>>(), ["/dev/vdb", "/dev/vda"]);
    assert_eq!(facts[0].result, Some(Outcome::Failed { reason: "write-protected".into() }));
    let outcome = Outcome::Erased { method: "zero_out".into(), verified_bytes: 85_899_346 };
    assert_eq!((facts[1].result.clone(), facts[1].serial.as_deref()), (Some(outcome), Some("S1")));
    for erasure in &kept {
        assert!(erasure.signature.valid, "{:?}", erasure.signature);
        assert_eq!(erasure.record["machine"], MACHINE);
        assert_eq!(Jws::parse(&erasure.jws).unwrap().header.alg, Algorithm::ES256);
    }

    // What upstream's server would see moved no state and is in no list of events.
    let machine: Machine = server.rest(Role::View).get(&format!("/v1/machine/{MACHINE}")).await.unwrap();
    assert_eq!((machine.events.log.len(), machine.events.last_error_event), (0, None));

    // They are the machine's, not its allocation's.
    let mut boot = server.boot_service().await;
    boot.register(register_request(MACHINE)).await.unwrap();
    let request = drophammer::api::rest::AllocateRequest { uuid: Some(MACHINE.into()), ..allocate_request() };
    let edit = server.rest(Role::Edit);
    let _: Machine = edit.post("/v1/machine/allocate", &request).await.unwrap();
    let _: Machine = edit.delete(&format!("/v1/machine/{MACHINE}/free")).await.unwrap();
    assert_eq!(erasures(&server, MACHINE).await, kept);
    server.stop().await;
}

#[tokio::test]
async fn a_record_that_comes_twice_is_kept_once() {
    let server = Server::start().await;
    let record = signed(&server.anvil.metal_config(), MACHINE, &erased("vda", "S1"));
    send(&server, MACHINE, record.clone()).await;
    send(&server, MACHINE, record).await;
    assert_eq!(erasures(&server, MACHINE).await.len(), 1);
    send(&server, MACHINE, signed(&server.anvil.metal_config(), MACHINE, &erased("vda", "S1"))).await;
    assert_eq!(erasures(&server, MACHINE).await.len(), 2, "another erasure of the same disk is another record");
    server.stop().await;
}

#[tokio::test]
async fn what_is_forged_is_kept_and_called_so() {
    let (server, other) = (Server::start().await, Server::start().await);
    let config = server.anvil.metal_config();
    let good = signed(&config, MACHINE, &erased("vda", "S1"));
    let part = |jws: &str, index: usize| jws.split('.').nth(index).unwrap().to_owned();
    let (header, payload, signature) = (part(&good.jws, 0), part(&good.jws, 1), part(&good.jws, 2));

    let said = String::from_utf8(URL_SAFE_NO_PAD.decode(&payload).unwrap()).unwrap();
    let changed = URL_SAFE_NO_PAD.encode(said.replace("S1", "S9"));
    send(&server, MACHINE, Record { jws: format!("{header}.{changed}.{signature}"), ..good.clone() }).await;
    assert!(newest_fault(&server).await.unwrap().contains("was changed or made with another key"));
    assert_eq!(erasures(&server, MACHINE).await[0].record["serial"], "S9", "what it said is there to be seen");

    // A key that another authority certified; our certificate over that key's signature; and none at all.
    let foreign = signed(&other.anvil.metal_config(), MACHINE, &erased("vda", "S1"));
    send(&server, MACHINE, foreign).await;
    assert!(newest_fault(&server).await.unwrap().contains("is none of ours"));
    let stolen = MetalConfig { key: other.anvil.metal_config().key, ..config.clone() };
    send(&server, MACHINE, signed(&stolen, MACHINE, &erased("vda", "S1"))).await;
    assert!(newest_fault(&server).await.unwrap().contains("made with another key"));
    let unsigned = MetalConfig { key: None, ..config.clone() };
    send(&server, MACHINE, signed(&unsigned, MACHINE, &erased("vda", "S1"))).await;
    assert_eq!(newest_fault(&server).await.unwrap(), "it is not signed");

    send(&server, MACHINE, signed(&config, OTHER, &erased("vda", "S1"))).await;
    assert!(newest_fault(&server).await.unwrap().contains(OTHER));
    let plan = Signer::new(&config, MACHINE).sign(Kind::Plan, "{}").unwrap();
    send(&server, MACHINE, Record { kind: Kind::EraseRecord, jws: plan }).await;
    assert_eq!(newest_fault(&server).await.unwrap(), "it was sent as one thing and signed as another");
    send(&server, MACHINE, Record { kind: Kind::EraseRecord, jws: "not.a-jws".into() }).await;
    assert!(newest_fault(&server).await.unwrap().contains("it has 2 parts"));
    assert_eq!(erasures(&server, MACHINE).await[0].record, serde_json::Value::Null);

    send(&server, MACHINE, good).await;
    assert_eq!(newest_fault(&server).await, None);
    assert_eq!(erasures(&server, MACHINE).await.len(), 8);
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn the_newest_plan_can_be_asked_for() {
    let server = Server::start().await;
    let signer = Signer::new(&server.anvil.metal_config(), MACHINE);
    let view = server.rest(Role::View);
    let path = format!("/v1/machine/{MACHINE}/plan");
    server.boot_service().await.register(register_request(MACHINE)).await.unwrap();
    let none = view.get::<SentPlan>(&path).await.unwrap_err().to_string();
    assert!(none.contains("has sent no plan"), "{none}");
    for layout in ["old", "new"] {
        let jws = signer.sign(Kind::Plan, &format!(r#"{{"layout":"{layout}"}}"#)).unwrap();
        send(&server, MACHINE, Record { kind: Kind::Plan, jws }).await;
    }
    let sent: SentPlan = view.get(&path).await.unwrap();
    assert_eq!((sent.plan["layout"].as_str(), sent.signature.valid), (Some("new"), true));
    server.stop().await;
}

#[tokio::test]
async fn erase_records_need_a_key_and_a_known_machine() {
    let server = Server::start().await;
    let path = format!("/v1/machine/{MACHINE}/erasure");
    let error = server.rest(Role::View).get::<Vec<Erasure>>(&path).await.unwrap_err();
    assert!(error.to_string().contains("no machine with id"), "{error}");
    let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}{path}", server.url()));
    assert_eq!(answer.send().await.unwrap().status(), 403);
    server.stop().await;
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    Command::new(program).current_dir(dir).args(args).output().unwrap()
}

fn ok(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = run(dir, program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// metal-stack's installations bring keys of their own: RSA, or EC in its older form.
#[tokio::test]
async fn keys_of_other_kinds_sign_too() {
    let server = Server::start().await;
    let dir = server.dir.path();
    std::fs::write(dir.join("extensions"), "extendedKeyUsage=clientAuth\n").unwrap();
    let kinds: [(&[&str], &str, Algorithm); 4] = [
        (&["genrsa", "-traditional", "-out", "key", "2048"], "BEGIN RSA PRIVATE KEY", Algorithm::RS256),
        (&["genrsa", "-out", "key", "2048"], "BEGIN PRIVATE KEY", Algorithm::RS256),
        (&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"], "BEGIN EC", Algorithm::ES256),
        (&["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "key"], "BEGIN EC", Algorithm::ES384),
    ];
    for (generate, form, algorithm) in kinds {
        ok(dir, "openssl", generate);
        let key = std::fs::read_to_string(dir.join("key")).unwrap();
        assert!(key.contains(form), "{generate:?}");
        ok(dir, "openssl", &["req", "-new", "-key", "key", "-subj", "/CN=machine", "-out", "request"]);
        let sign = ["x509", "-req", "-in", "request", "-CA", "data/ca/ca.pem", "-CAkey", "data/ca/ca.key"];
        ok(dir, "openssl", &[&sign[..], &["-days", "1", "-extfile", "extensions", "-out", "certificate"]].concat());
        let config = MetalConfig {
            key: Some(key),
            cert: Some(std::fs::read_to_string(dir.join("certificate")).unwrap()),
            ..server.anvil.metal_config()
        };
        let record = signed(&config, MACHINE, &erased("vda", "S1"));
        assert_eq!(Jws::parse(&record.jws).unwrap().header.alg, algorithm);
        send(&server, MACHINE, record).await;
        assert_eq!(newest_fault(&server).await, None, "{algorithm:?}");
    }
    server.stop().await;
}

/// The commands of the README, word for word.
fn check_script() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = readme.split("```bash\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).find(|block| block.starts_with("# check-erase-record")).expect("the README's commands")
}

#[tokio::test]
async fn openssl_finds_a_downloaded_record_right_and_a_changed_one_wrong() {
    let server = Server::start().await;
    let dir = server.dir.path().to_owned();
    // The numbers of a signature are shorter than usual once in some hundred times: several are tried.
    for serial in ["S1", "S2", "S3"] {
        let config = server.anvil.metal_config();
        send(&server, MACHINE, signed(&config, MACHINE, &erased("vda", serial))).await;
    }
    let args = ["--data", "data", "machine", "erasures", MACHINE, "--download", "records"];
    let anvil = env!("CARGO_BIN_EXE_anvil").to_owned();
    let at = dir.clone();
    let printed = tokio::task::spawn_blocking(move || {
        let first = ok(&at, &anvil, &args);
        assert_eq!(ok(&at, &anvil, &args), first, "a second download changes nothing");
        first
    })
    .await
    .unwrap();
    let files: Vec<&str> = printed.lines().collect();
    assert_eq!(files.len(), 3);
    std::fs::write(dir.join("check"), check_script()).unwrap();
    for file in &files {
        assert!(file.starts_with("records/S") && file.contains("-vda-20") && file.ends_with("Z.jws"), "{file}");
        let said = ok(&dir, "bash", &["check", file, "data/ca/ca.pem"]);
        assert!(said.contains("certificate.pem: OK\nVerified OK\n{\"machine\":\""), "{said}");
    }
    let good = std::fs::read_to_string(dir.join(files[0])).unwrap();
    let payload = good.split('.').nth(1).unwrap();
    let said = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let changed = good.replace(payload, &URL_SAFE_NO_PAD.encode(said.replace("\"erased\"", "\"failed\"")));
    std::fs::write(dir.join("changed.jws"), changed).unwrap();
    let output = run(&dir, "bash", &["check", "changed.jws", "data/ca/ca.pem"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Verification failure") && !said.contains("Verified OK"), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn the_commands_show_records_and_plans() {
    let server = Server::start().await;
    let config = server.anvil.metal_config();
    send(&server, MACHINE, signed(&config, MACHINE, &erased("vda", "S 1"))).await;
    send(&server, MACHINE, signed(&MetalConfig { key: None, ..config.clone() }, MACHINE, &failed("vdb", "S2"))).await;
    let plan = serde_json::json!({ "layout": "vm", "mode": "install", "boot_disk": "/dev/vda", "disks": [
        { "disk": disk("vda", "S 1"), "action": "partition", "loses": ["ext4 \"data\""], "partitions": [1, 2] }] });
    let jws = Signer::new(&config, MACHINE).sign(Kind::Plan, &plan.to_string()).unwrap();
    send(&server, MACHINE, Record { kind: Kind::Plan, jws }).await;

    let dir = server.dir.path().to_owned();
    let shown = tokio::task::spawn_blocking(move || {
        let anvil =
            |args: &[&str]| ok(&dir, env!("CARGO_BIN_EXE_anvil"), &[&["--data", "data", "machine"], args].concat());
        let json: Vec<Erasure> = serde_json::from_str(&anvil(&["erasures", MACHINE, "--format", "json"])).unwrap();
        (anvil(&["erasures", MACHINE]), json, anvil(&["plan", MACHINE]))
    });
    let (table, json, plan) = shown.await.unwrap();
    let words = |line: &str| line.split("  ").map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let lines: Vec<Vec<String>> = table.lines().map(words).collect();
    let heading =
        ["DISK", "SERIAL", "SIZE", "METHOD", "LEVEL", "STARTED", "TOOK", "VERIFIED", "RESULT", "SIGNATURE VALID"];
    assert_eq!(lines[0], heading);
    let newest: Vec<&str> = lines[1].iter().map(String::as_str).collect();
    assert_eq!(newest[..4], ["/dev/vdb", "S2", "8.5 GB", "purge"]);
    assert_eq!(newest[6..], ["NOT ERASED: write-protected", "NO: it is not signed"]);
    let oldest: Vec<&str> = lines[2].iter().map(String::as_str).collect();
    assert_eq!(oldest[..5], ["/dev/vda", "S 1", "8.5 GB", "zero_out", "clear"]);
    assert_eq!(oldest[7..], ["85 MB", "erased", "yes"]);
    assert_eq!(json.iter().map(|erasure| erasure.signature.valid).collect::<Vec<_>>(), [false, true]);
    assert!(plan.contains("layout           vm\n") && plan.contains("signature valid  yes\n"), "{plan}");
    assert!(plan.lines().last().unwrap().ends_with("8.5 GB  partition  2           ext4 \"data\""), "{plan}");
    server.stop().await;
}

#[tokio::test]
async fn the_partitions_words_reach_the_boot_answer() {
    let dir = tempfile::tempdir().unwrap();
    let text = "partition: {id: lab, erase: purge, erase_exclude: ['serial:A B'], bootconfig: {commandline: a=1}}";
    let mut config = parse_config(text).unwrap();
    config.data = dir.path().join("data");
    let address = "127.0.0.1:1".parse().unwrap();
    let anvil = Anvil::open(config, Endpoints { http: address, https: address, grpc: address }).unwrap();
    let cmdline = "a=1 drophammer.erase=purge drophammer.erase_exclude=serial:A%20B";
    let decision = Authority::new(anvil.clone()).boot(MAC).await.unwrap();
    assert_eq!(decision, BootDecision::Agent { cmdline: cmdline.to_owned() });
    // And back, as the agent reads it.
    let read = drophammer::config::cmdline::Cmdline::parse(cmdline);
    assert_eq!((read.erase_words(), read.erase_exclude()), (Some("purge"), vec!["serial:A B".to_owned()]));
    let stored: drophammer::anvil::machines::Partition = anvil.store.run(|tx| tx.expect("lab")).await.unwrap();
    assert_eq!(stored.bootconfig.commandline, cmdline, "what gRPC Boot answers");
}
