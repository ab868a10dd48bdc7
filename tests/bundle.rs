//! Bundles: from the program that packs one to a site that runs with nothing else.

mod namespace;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

const ANVIL: &str = env!("CARGO_BIN_EXE_anvil");
const IMAGE: &str = "debian-12.0.20261101";
const EARLY: &str = "2026-11-01T00:00:00Z";
const LATE: &str = "2026-11-02T00:00:00Z";

const LAYOUT: &str = "id: vm
constraints: {sizes: [], images: {}}
disks: [{device: /dev/vda, wipeonreinstall: true, partitions: [{number: 1, label: root, size: 0, gpttype: '8300'}]}]
filesystems: [{path: /, device: /dev/vda1, format: ext4, label: root}]
";

/// The connected side: what would be built, small, and a key.
struct Workshop {
    dir: TempDir,
}

impl Workshop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        for program in ["anvil", "drophammer"] {
            write(&format!("dist/{program}"), format!("#!/bin/sh\necho {program} 9.9.9-test\n").as_bytes());
            let status = Command::new("chmod").arg("+x").arg(dir.path().join("dist").join(program)).status().unwrap();
            assert!(status.success());
        }
        write("dist/vmlinuz", b"a kernel");
        write("dist/initramfs.img", &noise(100_000));
        write("ipxe/undionly.kpxe", b"loader for BIOS");
        write("ipxe/snponly.efi", b"loader for UEFI");
        write("pci.ids", b"#\tVersion: 2026.10.01\n");
        write("img.tar.zst", &noise(3_000_000));
        write("layout.yaml", LAYOUT.as_bytes());
        let workshop = Self { dir };
        workshop.make_key("site");
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn make_key(&self, name: &str) {
        let (public, secret) = (self.text(&format!("{name}.pub")), self.text(&format!("{name}.key")));
        let output = Command::new("minisign").args(["-G", "-W", "-f", "-p", &public, "-s", &secret]).output();
        let output = output.expect("minisign (Debian's package minisign)");
        assert!(output.status.success(), "{}", said(&output));
    }

    /// `anvil bundle create` of all of it.
    fn create(&self, output: &str, date: &str, more: &[&str]) -> Output {
        let (output, dist, ipxe) = (self.text(output), self.text("dist"), self.text("ipxe"));
        let (pci_ids, image) = (self.text("pci.ids"), format!("{IMAGE}={}", self.text("img.tar.zst")));
        let layout = self.text("layout.yaml");
        let mut words = vec!["bundle", "create", "--output", &output, "--dist", &dist, "--ipxe", &ipxe];
        words.extend(["--pci-ids", &pci_ids, "--image", &image, "--layout", &layout, "--date", date]);
        words.extend(more);
        anvil(&words)
    }

    /// Signed by the site's key.
    fn bundle(&self, output: &str, date: &str) -> PathBuf {
        let key = self.text("site.key");
        let output_of = self.create(output, date, &["--key", &key]);
        assert!(output_of.status.success(), "{}", said(&output_of));
        self.path(output)
    }

    fn import(&self, bundle: &str, data: &str, more: &[&str]) -> Output {
        let (bundle, key, data) = (self.text(bundle), self.text("site.pub"), self.text(data));
        let words = [&["bundle", "import", &bundle, "--public-key", &key, "--data", &data], more].concat();
        anvil(&words)
    }

    fn import_ok(&self, bundle: &str, data: &str) -> serde_json::Value {
        let output = self.import(bundle, data, &["--format", "json"]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The import fails, says where, and leaves no trace.
    fn refused(&self, bundle: &str, more: &[&str]) -> String {
        let output = self.import(bundle, "untouched", more);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let text = said(&output);
        assert!(text.contains(&self.text(bundle)), "it does not name the file: {text}");
        assert!(!self.path("untouched").exists(), "something was changed: {text}");
        text
    }
}

fn anvil(words: &[&str]) -> Output {
    Command::new(ANVIL).args(words).env_remove("SOURCE_DATE_EPOCH").env_remove("ANVIL_DATA").output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// Bytes that can't be compressed, always the same.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// All files below, with their contents and link targets.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_symlink() => {
                    found.push((entry.path(), fs::read_link(entry.path()).unwrap().display().to_string().into()));
                }
                _ => found.push((entry.path(), fs::read(entry.path()).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_same_contents_make_the_same_bundle() {
    let workshop = Workshop::new();
    let first = fs::read(workshop.bundle("one.tar.zst", EARLY)).unwrap();
    // Times of files are none of its contents.
    fs::write(workshop.path("dist/vmlinuz"), b"a kernel").unwrap();
    let second = fs::read(workshop.bundle("two.tar.zst", EARLY)).unwrap();
    assert!(first == second, "{} and {} bytes", first.len(), second.len());
    let third = fs::read(workshop.bundle("three.tar.zst", LATE)).unwrap();
    assert!(first != third);
    let names: Vec<_> = fs::read_dir(workshop.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains(".part")), "{names:?}");
}

#[test]
fn ordinary_tools_read_and_check_a_bundle() {
    let workshop = Workshop::new();
    let bundle = workshop.bundle("site.tar.zst", EARLY);
    let take = |name: &str| {
        let output = Command::new("tar").arg("-xOf").arg(&bundle).arg(name).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        output.stdout
    };
    assert_eq!(take("anvil"), fs::read(workshop.path("dist/anvil")).unwrap());
    fs::write(workshop.path("manifest.json"), take("manifest.json")).unwrap();
    fs::write(workshop.path("manifest.json.minisig"), take("manifest.json.minisig")).unwrap();
    let mut minisign = Command::new("minisign");
    minisign.arg("-V").arg("-p").arg(workshop.path("site.pub")).arg("-m").arg(workshop.path("manifest.json"));
    let output = minisign.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("bundle of 2026-11-01T00:00:00Z"), "{}", said(&output));
}

#[test]
fn a_bundle_shows_what_is_in_it_and_whose_it_is() {
    let workshop = Workshop::new();
    let bundle = workshop.bundle("site.tar.zst", EARLY).display().to_string();
    let key = workshop.text("site.pub");
    let output = anvil(&["bundle", "show", &bundle, "--public-key", &key, "--format", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["versions"]["anvil"], "9.9.9-test");
    assert_eq!(shown["versions"]["pci_ids"], "2026.10.01");
    assert_eq!(shown["images"][0]["id"], IMAGE);
    assert_eq!(shown["layouts"][0]["id"], "vm");
    let comment = fs::read_to_string(&key).unwrap();
    assert!(comment.contains(shown["signed_by"].as_str().unwrap()), "{comment}");

    let text = said(&anvil(&["bundle", "show", &bundle]));
    assert!(text.contains("there, not checked") && text.contains("boot/vmlinuz"), "{text}");
    workshop.make_key("other");
    let other = workshop.text("other.pub");
    let output = anvil(&["bundle", "show", &bundle, "--public-key", &other]);
    assert!(said(&output).contains("which is not among the configured ones"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_site_has_all_of_a_bundle_and_twice_is_harmless() {
    let workshop = Workshop::new();
    workshop.bundle("site.tar.zst", EARLY);
    let first = workshop.import_ok("site.tar.zst", "data");
    assert_eq!((&first["changed"], &first["images"][0]), (&true.into(), &IMAGE.into()));
    let data = workshop.path("data");
    assert_eq!(fs::read(data.join("bundle/current/boot/vmlinuz")).unwrap(), b"a kernel");
    assert_eq!(fs::read(data.join("images").join(IMAGE).join("img.tar.zst")).unwrap(), noise(3_000_000));
    let program = Command::new(data.join("bundle/current/anvil")).output().unwrap();
    assert!(program.status.success(), "the program can't be started");

    let before = tree(&data.join("bundle"));
    let second = workshop.import_ok("site.tar.zst", "data");
    assert_eq!((&second["changed"], &second["images"]), (&false.into(), &serde_json::json!([])));
    assert!(tree(&data.join("bundle")) == before);

    // What was lost meanwhile is brought back.
    fs::remove_file(data.join("bundle/current/boot/vmlinuz")).unwrap();
    fs::remove_dir_all(data.join("images").join(IMAGE)).unwrap();
    assert_eq!(workshop.import_ok("site.tar.zst", "data")["images"][0], IMAGE);
    assert!(tree(&data.join("bundle")) == before);
    assert!(data.join("images").join(IMAGE).join("img.tar.zst").exists());
}

#[test]
fn a_newer_bundle_takes_the_place_of_the_older_and_not_the_other_way_round() {
    let workshop = Workshop::new();
    workshop.bundle("early.tar.zst", EARLY);
    fs::write(workshop.path("dist/vmlinuz"), b"a newer kernel").unwrap();
    workshop.bundle("late.tar.zst", LATE);
    let data = workshop.path("data");
    let kernel = || fs::read(data.join("bundle/current/boot/vmlinuz")).unwrap();
    workshop.import_ok("early.tar.zst", "data");
    let newer = workshop.import_ok("late.tar.zst", "data");
    assert_eq!(
        (&newer["files"], &newer["images"]),
        (&true.into(), &serde_json::json!([])),
        "the image is there already"
    );
    assert_eq!(kernel(), b"a newer kernel");
    let dirs = || fs::read_dir(data.join("bundle")).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(dirs(), 2, "the link, and one bundle");

    let older = workshop.import("early.tar.zst", "data", &[]);
    assert_eq!(older.status.code(), Some(1));
    let text = said(&older);
    assert!(text.contains("is older than what is here") && text.contains("2026-11-01T00:00:00Z"), "{text}");
    assert_eq!(kernel(), b"a newer kernel");
    assert!(workshop.import("early.tar.zst", "data", &["--older"]).status.success());
    assert_eq!(kernel(), b"a kernel");
}

#[test]
fn another_image_of_the_same_id_is_refused() {
    let workshop = Workshop::new();
    workshop.bundle("one.tar.zst", EARLY);
    workshop.import_ok("one.tar.zst", "data");
    fs::write(workshop.path("img.tar.zst"), b"another image").unwrap();
    workshop.bundle("two.tar.zst", LATE);
    let before = tree(&workshop.path("data/images"));
    let output = workshop.import("two.tar.zst", "data", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&format!("image {IMAGE:?} is here with another content")), "{}", said(&output));
    assert!(tree(&workshop.path("data/images")) == before);
    assert_eq!(fs::read_dir(workshop.path("data/bundle")).unwrap().count(), 3, "link, lock and one bundle");
}

#[test]
fn a_layout_that_the_site_changed_stays_as_it_is() {
    let workshop = Workshop::new();
    workshop.bundle("one.tar.zst", EARLY);
    workshop.import_ok("one.tar.zst", "data");
    fs::write(workshop.path("layout.yaml"), LAYOUT.replace("vda", "vdb")).unwrap();
    workshop.bundle("two.tar.zst", LATE);
    let second = workshop.import_ok("two.tar.zst", "data");
    assert_eq!((&second["layouts"], &second["kept"][0]), (&serde_json::json!([]), &"filesystemlayout \"vm\"".into()));
}

#[test]
fn unsigned_and_foreign_bundles_are_refused() {
    let workshop = Workshop::new();
    let output = workshop.create("unsigned.tar.zst", EARLY, &[]);
    assert!(output.status.success() && said(&output).contains("is not signed"), "{}", said(&output));
    assert!(workshop.refused("unsigned.tar.zst", &[]).contains("it is not signed"));

    workshop.make_key("other");
    let key = workshop.text("other.key");
    assert!(workshop.create("foreign.tar.zst", EARLY, &["--key", &key]).status.success());
    assert!(workshop.refused("foreign.tar.zst", &[]).contains("which is not among the configured ones"));

    for (name, content) in [("text", b"hello, hello, hello".to_vec()), ("empty", Vec::new()), ("noise", noise(5000))] {
        fs::write(workshop.path(name), content).unwrap();
        assert!(workshop.refused(name, &[]).contains("is refused, at byte"), "{name}");
    }
    let tar = workshop.path("other.tar");
    let status = Command::new("tar").arg("-C").arg(workshop.dir.path()).arg("-cf").arg(&tar).arg("pci.ids").status();
    assert!(status.unwrap().success());
    compress(&fs::read(&tar).unwrap(), &workshop.path("other.tar.zst"));
    let text = workshop.refused("other.tar.zst", &[]);
    assert!(text.contains("it is no bundle: expected \"manifest.json\", found \"pci.ids\""), "{text}");
}

#[test]
fn whatever_byte_is_damaged_the_bundle_is_refused() {
    let workshop = Workshop::new();
    let good = fs::read(workshop.bundle("site.tar.zst", EARLY)).unwrap();
    let mut places: Vec<usize> = (0..40).map(|n| n * (good.len() - 1) / 39).collect();
    // The frame's header has bits that mean nothing to who reads; all others change the contents, or their checksum.
    places.extend([100, 2000, good.len() - 4]);
    for place in places {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        fs::write(workshop.path("damaged.tar.zst"), bad).unwrap();
        let text = workshop.refused("damaged.tar.zst", &[]);
        assert!(text.contains("is refused, at byte"), "byte {place}: {text}");
    }
    for length in [0, 1, 100, good.len() / 2, good.len() - 5, good.len() - 1] {
        fs::write(workshop.path("short.tar.zst"), &good[..length]).unwrap();
        let text = workshop.refused("short.tar.zst", &[]);
        assert!(text.contains("is refused, at byte"), "{length} bytes: {text}");
    }
    let longer = [good.as_slice(), b"something"].concat();
    fs::write(workshop.path("longer.tar.zst"), longer).unwrap();
    assert!(workshop.refused("longer.tar.zst", &[]).contains("behind the last file"));
}

#[test]
fn a_changed_file_is_named_with_both_digests() {
    let workshop = Workshop::new();
    let members = unpack(&workshop.bundle("site.tar.zst", EARLY));
    let changed = members.iter().map(|(name, content)| match name.as_str() {
        "boot/vmlinuz" => (name.clone(), b"a carnel".to_vec()),
        _ => (name.clone(), content.clone()),
    });
    repack(&changed.collect::<Vec<_>>(), &workshop.path("changed.tar.zst"));
    let text = workshop.refused("changed.tar.zst", &[]);
    assert!(text.contains("file \"boot/vmlinuz\": expected SHA-256"), "{text}");
}

#[test]
fn what_the_manifest_does_not_name_is_refused() {
    let workshop = Workshop::new();
    let members = unpack(&workshop.bundle("site.tar.zst", EARLY));
    let extra = |name: &str, at: usize| {
        let mut all = members.clone();
        all.insert(at, (name.to_owned(), b"x".to_vec()));
        repack(&all, &workshop.path("extra.tar.zst"));
        workshop.refused("extra.tar.zst", &[])
    };
    let text = extra("etc/cron.d/x", members.len());
    assert!(text.contains("\"etc/cron.d/x\" is in it and not in its manifest"), "{text}");
    let text = extra("boot/x", 4);
    assert!(text.contains("expected \"boot/vmlinuz\", found \"boot/x\""), "{text}");

    let mut fewer = members.clone();
    fewer.pop();
    repack(&fewer, &workshop.path("fewer.tar.zst"));
    assert!(workshop.refused("fewer.tar.zst", &[]).contains("it ends before"));
    let mut swapped = members.clone();
    swapped.swap(2, 3);
    repack(&swapped, &workshop.path("swapped.tar.zst"));
    assert!(workshop.refused("swapped.tar.zst", &[]).contains("expected \"anvil\", found \"drophammer\""));
}

/// Signed by the right key, so that only the names are wrong.
#[test]
fn names_that_lead_out_of_the_site_are_refused_even_when_signed() {
    let workshop = Workshop::new();
    let members = unpack(&workshop.bundle("site.tar.zst", EARLY));
    for bad in ["../../etc/passwd", "/etc/passwd", "images/../../x/y"] {
        let mut manifest: serde_json::Value = serde_json::from_slice(&members[0].1).unwrap();
        let last = manifest["files"].as_array().unwrap().len() - 1;
        manifest["files"][last]["path"] = bad.into();
        let manifest = serde_json::to_vec(&manifest).unwrap();
        fs::write(workshop.path("m.json"), &manifest).unwrap();
        let mut minisign = Command::new("minisign");
        minisign.arg("-S").arg("-s").arg(workshop.path("site.key")).arg("-m").arg(workshop.path("m.json"));
        minisign.arg("-x").arg(workshop.path("m.minisig"));
        assert!(minisign.output().unwrap().status.success());
        let mut all = members.clone();
        all[0].1 = manifest;
        all[1].1 = fs::read(workshop.path("m.minisig")).unwrap();
        all[last + 2].0 = bad.to_owned();
        repack(&all, &workshop.path("bad.tar.zst"));
        let text = workshop.refused("bad.tar.zst", &[]);
        assert!(text.contains(&format!("{bad:?}")), "{text}");
    }
}

#[test]
fn a_site_without_room_is_left_alone() {
    let workshop = Workshop::new();
    workshop.bundle("site.tar.zst", EARLY);
    // A file system of 4 MiB, in a mount namespace of its own: the bundle wants more than 16.
    let small = workshop.text("small");
    fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=4m none \"$1\" && { \"$2\" bundle import \"$3\" --public-key \"$4\" \
                  --data \"$1/data\"; status=$?; ls -A \"$1\"; exit $status; }";
    let (bundle, key) = (workshop.text("site.tar.zst"), workshop.text("site.pub"));
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", &small, ANVIL, &bundle, &key])
        .output()
        .unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("there is not enough room in") && text.contains("are needed"), "{text}");
    assert!(output.stdout.is_empty(), "something was left there: {text}");
}

#[test]
fn what_can_not_be_packed_says_why_and_leaves_no_file() {
    let workshop = Workshop::new();
    let cases: [(&[&str], &str); 4] = [
        (&["--image", "debian-12.0.1=/nonexistent"], "/nonexistent"),
        (&["--image", "debian"], "no anvil has run"),
        (&["--kernel", "/nonexistent"], "/nonexistent"),
        (&["--key", "/nonexistent"], "/nonexistent"),
    ];
    for (more, expected) in cases {
        let nowhere = workshop.text("nowhere");
        let words = [more, &["--data", &nowhere]].concat();
        let output = workshop.create("bad.tar.zst", EARLY, &words);
        assert_ne!(output.status.code(), Some(0), "{more:?}");
        assert!(said(&output).contains(expected), "{more:?}: {}", said(&output));
        assert!(!workshop.path("bad.tar.zst").exists() && !workshop.path(".bad.tar.zst.part").exists());
    }
    fs::remove_dir_all(workshop.path("ipxe")).unwrap();
    assert!(said(&workshop.create("bad.tar.zst", EARLY, &[])).contains("there is no loader of iPXE in"));
}

#[test]
fn an_import_that_is_killed_is_completed_by_the_next() {
    let workshop = Workshop::new();
    let bundle = workshop.bundle("site.tar.zst", EARLY);
    for milliseconds in [0, 10, 30, 60, 100, 150, 200, 300] {
        let data = workshop.path(&format!("killed-after-{milliseconds}"));
        let mut command = Command::new(ANVIL);
        command.args(["bundle", "import"]).arg(&bundle).arg("--data").arg(&data);
        command.arg("--public-key").arg(workshop.path("site.pub")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let kernel = || fs::read(data.join("bundle/current/boot/vmlinuz"));
        if data.join("bundle/current").exists() {
            assert_eq!(kernel().unwrap(), b"a kernel", "the link leads to a bundle that is not whole");
        }
        workshop.import_ok("site.tar.zst", &format!("killed-after-{milliseconds}"));
        assert_eq!(kernel().unwrap(), b"a kernel");
        assert_eq!(fs::read(data.join("images").join(IMAGE).join("img.tar.zst")).unwrap(), noise(3_000_000));
        assert!(!data.join("bundle/.import").exists(), "something half is left after {milliseconds} ms");
    }
}

#[test]
fn a_site_packs_what_it_has_for_the_next_one() {
    let workshop = Workshop::new();
    workshop.bundle("one.tar.zst", EARLY);
    workshop.import_ok("one.tar.zst", "first");
    let (dist, ipxe, key, data) =
        (workshop.text("dist"), workshop.text("ipxe"), workshop.text("site.key"), workshop.text("first"));
    for (name, more) in [("all.tar.zst", [].as_slice()), ("some.tar.zst", &["--image", "debian-12.0"])] {
        let output = workshop.text(name);
        let words = ["bundle", "create", "--output", &output, "--dist", &dist, "--ipxe", &ipxe, "--key", &key];
        let packed = anvil(&[&words, ["--data", &data].as_slice(), more].concat());
        assert!(packed.status.success(), "{}", said(&packed));
        let second = workshop.import_ok(name, &format!("second-{name}"));
        assert_eq!((&second["images"][0], &second["layouts"][0]), (&IMAGE.into(), &"vm".into()));
    }
}

/// `anvil serve`, killed when dropped.
struct Server(Child);

impl Server {
    /// Starts it in a namespace, and waits until it serves.
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("partition:")), "anvil ended before it served");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_server_gets_a_bundles_images_at_once() {
    let workshop = Workshop::new();
    workshop.bundle("site.tar.zst", EARLY);
    let (config, data) = (workshop.path("anvil.yaml"), workshop.text("data"));
    fs::write(&config, "{listen: 127.0.0.1, http_port: 0, https_port: 0, grpc_port: 0}").unwrap();
    let mut command = Command::new(ANVIL);
    command.args(["serve", "--data", &data, "--config"]).arg(&config);
    let _server = Server::start(command);
    workshop.import_ok("site.tar.zst", "data");
    let listed = anvil(&["image", "list", "--data", &data, "--format", "json"]);
    let images: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let client: serde_json::Value =
        serde_json::from_slice(&fs::read(workshop.path("data/client.json")).unwrap()).unwrap();
    let expected = format!("{}/images/{IMAGE}/img.tar.zst", client["url"].as_str().unwrap());
    assert_eq!((&images[0]["id"], &images[0]["url"]), (&IMAGE.into(), &expected.into()));
}

/// The README's chapter, word for word: its commands run one after the other, on a host with an interface `eth1`.
#[test]
fn the_readmes_walk_over_the_air_gap_works_word_for_word() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let chapter = readme.split("\n## A site behind an air gap\n").nth(1).expect("the chapter");
    let chapter = chapter.split("\n## ").next().unwrap();
    let blocks: Vec<&str> = chapter.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 4, "connected side, far side, start, update");

    let workshop = Workshop::new();
    // What scripts/build and scripts/image make; the programs are the real ones.
    for (name, program) in [("anvil", ANVIL), ("drophammer", env!("CARGO_BIN_EXE_drophammer"))] {
        // Without their symbols, as these are ten times as large.
        let status = Command::new("strip").arg("-o").arg(workshop.path("dist").join(name)).arg(program).status();
        assert!(status.expect("strip (Debian's package binutils)").success());
    }
    fs::create_dir_all(workshop.path(".cache/images")).unwrap();
    fs::rename(workshop.path("img.tar.zst"), workshop.path(".cache/images/debian-12.tar.zst")).unwrap();
    fs::create_dir_all(workshop.path("scripts")).unwrap();
    for script in ["build", "image"] {
        fs::write(workshop.path("scripts").join(script), "#!/bin/sh\n").unwrap();
        Command::new("chmod").arg("+x").arg(workshop.path("scripts").join(script)).status().unwrap();
    }
    for name in ["site.pub", "site.key"] {
        fs::remove_file(workshop.path(name)).unwrap();
    }
    fs::create_dir_all(workshop.path("media")).unwrap();
    fs::create_dir_all(workshop.path("bin")).unwrap();
    let here = |text: &str| {
        text.replace("/media/stick", &workshop.text("media"))
            .replace("/var/lib/anvil", &workshop.text("anvil-data"))
            .replace("/etc/systemd/system", &workshop.text("."))
            .replace("/usr/local/bin", &workshop.text("bin"))
            .replace("systemctl", "true")
    };

    let rack = namespace::Namespace::new("bundle");
    rack.ip("link add eth1 type veth peer name machines");
    rack.ip("link set machines up");
    rack.ip("addr add 10.77.0.1/24 dev eth1");
    rack.ip("link set eth1 up");
    let run = |block: &str| {
        let mut bash = rack.command("bash");
        bash.args(["-euo", "pipefail", "-c", &here(block)]).current_dir(workshop.dir.path());
        // In place of what is the default elsewhere.
        let path = format!("{}:{}", workshop.text("bin"), std::env::var("PATH").unwrap());
        let output = bash.env("PATH", path).env("ANVIL_DATA", workshop.path("anvil-data")).output().unwrap();
        assert!(output.status.success(), "{block}: {}", said(&output));
        said(&output)
    };
    run(blocks[0]);
    let imported = run(blocks[1]);
    assert!(imported.contains("start or restart:"), "{imported}");
    run(blocks[2]);

    // systemd's part: the unit's own line.
    let unit = fs::read_to_string(workshop.path("anvil.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command").to_owned();
    let mut words = start.split_whitespace();
    let mut command = rack.command(words.next().unwrap());
    command.args(words);
    let server = Server::start(command);
    let listed = run("anvil image list");
    assert!(listed.contains("http://10.77.0.1:4242/images/debian-12.0.20261123/debian-12.tar.zst"), "{listed}");
    let layouts = run("anvil layout list");
    assert!(layouts.contains("/dev/sda"), "{layouts}");
    let loader = workshop.path("anvil-data/bundle/current/ipxe/snponly.efi");
    assert!(loader.exists(), "iPXE is not there");
    let again = run(blocks[3]);
    assert!(again.contains("nothing is new"), "{again}");
    drop(server);
}

type Members = Vec<(String, Vec<u8>)>;

fn unpack(bundle: &Path) -> Members {
    let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(bundle).unwrap()).unwrap());
    let members = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    });
    members.collect()
}

/// Names are written as they are, which the ordinary way of the tar library refuses to do.
fn repack(members: &[(String, Vec<u8>)], bundle: &Path) {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, content.as_slice()).unwrap();
    }
    compress(&archive.into_inner().unwrap(), bundle);
}

fn compress(content: &[u8], file: &Path) {
    let mut encoder = zstd::Encoder::new(fs::File::create(file).unwrap(), 1).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap();
}
