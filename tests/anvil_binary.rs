//! The built `anvil` program: its command line against a real server, and a kill at any moment.

mod anvil_support;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anvil_support::*;
use drophammer::api::grpc::boot_service_client::BootServiceClient;
use tempfile::TempDir;
use tonic::transport::Identity;

const ANVIL: &str = env!("CARGO_BIN_EXE_anvil");

/// `anvil serve` as a process of its own, killed without a warning when dropped.
struct Process {
    child: Child,
    grpc: String,
}

impl Process {
    fn start(data: &Path) -> Self {
        let config = data.with_extension("yaml");
        std::fs::write(&config, "{listen: 127.0.0.1, http_port: 0, https_port: 0, grpc_port: 0}").unwrap();
        // Written anew when the server listens.
        let _ = std::fs::remove_file(data.join("client.json"));
        let child = Command::new(ANVIL)
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Self { child, grpc: String::new() };
        process.grpc = process.read_grpc_address();
        process
    }

    /// From what it prints at its start.
    fn read_grpc_address(&mut self) -> String {
        use std::io::{BufRead, BufReader};
        let lines = BufReader::new(self.child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("gRPC (mTLS):") {
                return address.trim().to_owned();
            }
        }
        panic!("anvil ended before it served");
    }

    async fn boot_service(&self, data: &Path) -> BootServiceClient<tonic::transport::Channel> {
        let read = |file: &str| std::fs::read_to_string(data.join("ca").join(file)).unwrap();
        let tls = agent_tls(&read("ca.pem")).identity(Identity::from_pem(read("client.pem"), read("client.key")));
        for _ in 0..50 {
            if let Ok(channel) = connect(&self.grpc, tls.clone()).await {
                return BootServiceClient::new(channel);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no connection to {}", self.grpc);
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn anvil(data: &Path, args: &[&str]) -> Output {
    Command::new(ANVIL).arg("--data").arg(data).args(args).output().unwrap()
}

/// Standard output of a call that must succeed.
fn ok(data: &Path, args: &[&str]) -> String {
    let output = anvil(data, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(data: &Path, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(data, &[args, &["--format", "json"]].concat())).unwrap()
}

/// Status and standard error of a call that must fail.
fn refused(data: &Path, args: &[&str]) -> (i32, String) {
    let output = anvil(data, args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const LAYOUT: &str = "id: vm
disks: [{device: /dev/vda, wipeonreinstall: true, partitions: [{number: 1, label: root, size: 0, gpttype: '8300'}]}]
filesystems: [{path: /, device: /dev/vda1, format: ext4, label: root}]
";

#[tokio::test]
async fn a_killed_server_has_kept_all_that_it_answered() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let layout = write(&dir, "layout.yaml", LAYOUT);
    let image = write(&dir, "img.tar.zst", "not really an image");

    let first = Process::start(&data);
    ok(&data, &["layout", "add", &layout]);
    let added = json(&data, &["image", "add", "--id", IMAGE, "--file", &image]);
    let mut boot = first.boot_service(&data).await;
    boot.register(register_request(MACHINE)).await.unwrap();
    first.kill();

    let second = Process::start(&data);
    let kept = json(&data, &["image", "list"]);
    assert_eq!(kept[0]["digest"], added["digest"]);
    let client: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(data.join("client.json")).unwrap()).unwrap();
    let url = format!("{}/images/{IMAGE}/img.tar.zst", client["url"].as_str().unwrap());
    assert_eq!(kept[0]["url"], url, "the port has changed, so has the URL");
    assert_eq!(json(&data, &["machine", "list"])[0]["id"], MACHINE);
    let allocated =
        json(&data, &["machine", "allocate", MACHINE, "--image", IMAGE, "--layout", "vm", "--hostname", "web-1"]);
    second.kill();

    let third = Process::start(&data);
    let machine = json(&data, &["machine", "show", MACHINE]);
    for key in ["allocationuuid", "hostname", "filesystemlayout", "created"] {
        assert_eq!(machine["allocation"][key], allocated["allocation"][key], "{key}");
    }
    assert_eq!(machine["allocation"]["image"]["digest"], added["digest"]);
    let mut boot = third.boot_service(&data).await;
    boot.report(report_request(MACHINE)).await.unwrap();
    third.kill();

    let _fourth = Process::start(&data);
    let machine = json(&data, &["machine", "show", MACHINE]);
    assert_eq!(machine["allocation"]["boot_info"]["kernel"], "/boot/vmlinuz");
    let freed = json(&data, &["machine", "free", MACHINE]);
    assert_eq!(freed["events"]["log"][0]["event"], "Machine Reclaim");
    let events = ok(&data, &["machine", "events", MACHINE]);
    assert!(events.contains("Machine Reclaim"), "{events}");
}

#[tokio::test]
async fn a_terminated_server_ends_well_though_a_machine_waits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Process::start(&data);
    let mut boot = server.boot_service(&data).await;
    boot.register(register_request(MACHINE)).await.unwrap();
    let request = drophammer::api::grpc::BootServiceWaitRequest { machine_id: MACHINE.into() };
    let mut stream = boot.wait(request).await.unwrap().into_inner();
    let pid = nix::unistd::Pid::from_raw(server.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(stream.message().await.unwrap_err().code(), tonic::Code::Unavailable);
    drop((stream, boot));
    assert!(server.child.wait().unwrap().success());
}

#[tokio::test]
async fn refusals_are_status_1_and_one_sentence_wrong_calls_status_2() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (status, text) = refused(&data, &["machine", "list"]);
    assert!(status == 1 && text.contains("client.json") && text.lines().count() == 1, "{text}");
    assert_eq!(refused(&data, &["machine", "frobnicate"]).0, 2);
    assert_eq!(refused(&data, &[]).0, 2);

    let _server = Process::start(&data);
    assert_eq!(json(&data, &["machine", "list"]), serde_json::json!([]));
    let (status, text) = refused(&data, &["machine", "show", "x/y"]);
    assert!(status == 1 && text == "anvil: no machine with id \"x/y\" found\n", "{text}");
    let (status, text) = refused(&data, &["machine", "allocate", "--image", "debian-12.0", "--hostname", "a"]);
    assert!(status == 1 && text.contains("imageid: no image with id \"debian-12.0\" found"), "{text}");
    let (status, text) = refused(&data, &["image", "add", "--id", IMAGE, "--file", "/nonexistent"]);
    assert!(status == 1 && text.contains("opening /nonexistent"), "{text}");
}

/// What the agent prints of a described machine is what sizes are matched on, as it is.
#[test]
fn an_inventory_is_hardware_for_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("nowhere");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/server-8-h100/inventory.json");
    let inventory: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&golden).unwrap()).unwrap();
    let sum = |list: &str, key: &str| -> u64 {
        inventory[list].as_array().unwrap().iter().map(|item| item[key].as_u64().unwrap()).sum()
    };
    let text = format!(
        "- id: h100
  constraints:
    - {{type: cores, min: {cores}, max: {cores}}}
    - {{type: memory, min: \"1TiB\", max: 3TiB}}
    - {{type: storage, min: {disks}, max: \"1PB\", identifier: /dev/*}}
    - {{type: gpu, min: 8, max: 8, identifier: H100*}}
- id: h200
  constraints:
    - {{type: cores, min: {cores}, max: {cores}}}
    - {{type: memory, min: 1TiB, max: 3 TiB}}
    - {{type: storage, max: 1PB}}
    - {{type: gpu, min: 8, max: 8, identifier: H200*}}
",
        cores = sum("cpus", "cores"),
        disks = sum("disks", "size"),
    );
    let sizes = write(&dir, "sizes.yaml", &text);
    let hardware = golden.display().to_string();
    let matched =
        |more: &[&str]| anvil(&data, &[&["size", "match", "--sizes", &sizes, "--hardware", &hardware], more].concat());
    let found = matched(&[]);
    assert_eq!(String::from_utf8_lossy(&found.stdout), "h100\n", "{}", String::from_utf8_lossy(&found.stderr));
    let strict = matched(&["--strict"]);
    let reason = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert_eq!((strict.status.code(), strict.stdout.is_empty()), (Some(1), true));
    assert!(reason.contains("h100: gpu H100*: expected 8, found 0 (it matches none of 8 \"GH100 [H100"), "{reason}");

    let bad = write(&dir, "bad.yaml", &text.replace("1PB", "1XB"));
    let (status, reason) = refused(&data, &["size", "validate", &bad]);
    let expected = "size \"h100\": constraints[2] (storage): max: expected a number of bytes or an amount such as 800GB or \
                    1TiB, found \"1XB\"";
    assert!(status == 1 && reason.contains(expected), "{reason}");
}

#[tokio::test]
async fn a_machine_without_a_size_is_shown_with_the_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Process::start(&data);
    server.boot_service(&data).await.register(register_request(MACHINE)).await.unwrap();
    let shown = ok(&data, &["machine", "show", MACHINE]);
    assert!(shown.contains("no size matches, since there are none"), "{shown}");

    let sizes = write(
        &dir,
        "sizes.yaml",
        "- {id: big, constraints: [{type: cores, min: 8, max: 16}, {type: memory, min: 16GiB, max: 32GiB}]}
- {id: diskless, constraints: [{type: cores, min: 1, max: 4}, {type: memory, max: 4GiB}]}
",
    );
    ok(&data, &["size", "add", &sizes]);
    let shown = ok(&data, &["machine", "show", MACHINE]);
    let expected =
        "no size matches\n  big: cores: expected 8 to 16, found 2\n  diskless: no constraint covers storage /dev/vda\n";
    assert!(shown.ends_with(expected), "{shown}");
    let machine = json(&data, &["machine", "show", MACHINE]);
    assert_eq!(
        (&machine["size"]["id"], &machine["size_match"]["misses"][1]["device"]),
        (&"unknown".into(), &"/dev/vda".into())
    );

    let fits = write(
        &dir,
        "small.json",
        r#"{"id": "small", "constraints": [{"type": "cores", "max": 4},
        {"type": "memory", "max": "4GiB"}, {"type": "storage", "max": "1TB", "identifier": "/dev/vd*"}]}"#,
    );
    assert_eq!(json(&data, &["size", "add", &fits])[0]["constraints"][1]["max"], 4_294_967_296_u64);
    let machine = json(&data, &["machine", "show", MACHINE]);
    assert_eq!((&machine["size"]["id"], machine.get("size_match")), (&"small".into(), None));
    let hardware = write(&dir, "machine.json", &machine.to_string());
    let all = write(&dir, "all.json", &ok(&data, &["size", "list", "--format", "json"]));
    assert_eq!(ok(&data, &["size", "match", "--sizes", &all, "--hardware", &hardware]), "small\n");
}

#[test]
fn sizes_and_layouts_are_matched_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("nowhere");
    let sizes = write(
        &dir,
        "sizes.yaml",
        "- {id: small, constraints: [{type: cores, min: 1, max: 4}, {type: memory, min: 0, max: 8589934592}]}
- {id: big, constraints: [{type: cores, min: 5, max: 64}, {type: memory, min: 0, max: 8589934592}]}
",
    );
    // More keys than a size needs, as the agent prints them.
    let hardware = |cores: u32| {
        write(
            &dir,
            "hardware.json",
            &format!(
                r#"{{"memory":4294967296,"cpus":[{{"model":"x","cores":{cores},"flags":["a"]}}],"disks":[],"bmc":null}}"#
            ),
        )
    };
    let matched = |cores| anvil(&data, &["size", "match", "--sizes", &sizes, "--hardware", &hardware(cores)]);
    assert_eq!(matched(2).stdout, b"small\n");
    assert_eq!(matched(8).stdout, b"big\n");
    let none = matched(100);
    let reason = String::from_utf8(none.stderr).unwrap();
    assert_eq!((none.status.code(), none.stdout.is_empty()), (Some(1), true));
    assert!(reason.contains("small: cores: expected 1 to 4, found 100"), "{reason}");

    assert!(reason.contains("\n  big: cores: expected 5 to 64, found 100"), "one line a size: {reason}");
    let args = ["size", "match", "--sizes", &sizes, "--hardware", &hardware(100), "--format", "json"];
    let json = anvil(&data, &args);
    assert_eq!(json.status.code(), Some(1));
    let verdict: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&verdict["id"], &verdict["misses"][1]["size"]), (&serde_json::Value::Null, &"big".into()), "{verdict}");

    assert_eq!(ok(&data, &["size", "validate", &sizes]), "2 valid\n");
    let bad =
        write(&dir, "bad.json", r#"{"id":"a","constraints":[{"type":"memory","min":2,"max":1,"identifier":"x"}]}"#);
    let (status, text) = refused(&data, &["size", "validate", &bad]);
    assert!(status == 1 && text.contains("max 1 is less than min 2") && text.contains("no identifier"), "{text}");

    let layouts = write(
        &dir,
        "layouts.yaml",
        "- {id: a, constraints: {sizes: [small], images: {debian: '>= 12.0'}}}
- {id: b, constraints: {sizes: [big], images: {debian: '*'}}}
",
    );
    let find =
        |size, image| anvil(&data, &["layout", "match", "--layouts", &layouts, "--size", size, "--image", image]);
    assert_eq!(find("small", "debian-12.0.20260701").stdout, b"a\n");
    assert_eq!(find("big", "debian-11.0.20260701").stdout, b"b\n");
    assert_eq!(find("small", "debian-11.0.20260701").status.code(), Some(1));
    assert_eq!(find("small", "debian").status.code(), Some(1));
    assert_eq!(ok(&data, &["layout", "validate", &layouts]), "2 valid\n");
}
