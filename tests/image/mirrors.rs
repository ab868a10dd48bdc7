//! Several places of one image: which is asked when, what is gone on with, and what is begun anew.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use drophammer::image::{DigestRule, ImageError, Options, Report, Source, Unobserved, unpack, write_raw};

use crate::server::{Server, file, sha256_file, status};
use crate::support::{Rack, assert_same, block_on, facts, options, quick, rack, run, text};

const IMAGE: &str = "/img.tar.lz4";
const SIDECAR: &str = "/img.tar.lz4.sha256";

/// What a place does with requests for the image.
#[derive(Clone)]
enum Place {
    Good,
    Status(u16),
    /// Good for so many bytes; what comes after them is never sent.
    BreaksAt(usize),
    /// As [`Place::BreaksAt`], and what is sent is not the image.
    WrongUntil(usize),
    /// Sends all, with a wrong byte in the middle.
    Damaged,
    /// Another image.
    Other(Vec<u8>),
}

async fn start(rack: &Rack, place: Place, has_sidecar: bool) -> Server {
    let image = Arc::clone(&rack.bytes);
    Server::start(move |request| match request.path.as_str() {
        SIDECAR if has_sidecar => file(&sha256_file(&image), request),
        IMAGE => match &place {
            Place::Good => file(&image, request),
            Place::Status(code) => status(*code),
            Place::BreaksAt(_) | Place::WrongUntil(_) if request.from.is_some() => Vec::new(),
            Place::BreaksAt(length) => cut(file(&image, request), *length),
            Place::WrongUntil(length) => {
                let mut wrong = image.to_vec();
                wrong[..*length].iter_mut().skip(100).for_each(|byte| *byte ^= 0xff);
                cut(file(&wrong, request), *length)
            }
            Place::Damaged => {
                let mut damaged = image.to_vec();
                damaged[image.len() / 2] ^= 1;
                file(&damaged, request)
            }
            Place::Other(other) => file(other, request),
        },
        _ => status(404),
    })
    .await
}

/// The answer with so many bytes of its body.
fn cut(mut answer: Vec<u8>, length: usize) -> Vec<u8> {
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    answer.truncate(body + length);
    answer
}

struct Outcome {
    result: Result<Report, ImageError>,
    servers: Vec<Server>,
}

impl Outcome {
    /// Index of the places that the bytes came from.
    fn served(&self) -> Vec<usize> {
        let places = &self.result.as_ref().unwrap().places;
        let index = |place: &String| {
            self.servers.iter().position(|server| place.contains(&server.address.to_string())).unwrap()
        };
        places.iter().map(index).collect()
    }

    fn asked(&self, server: usize) -> usize {
        self.servers[server].heads_for(IMAGE).len()
    }
}

/// Unpacks from the places in order; the flag says whether a place has a sidecar.
async fn install_with(rack: &Rack, places: Vec<(Place, bool)>, rule: DigestRule) -> Outcome {
    let mut servers = Vec::new();
    for (place, has_sidecar) in places {
        servers.push(start(rack, place, has_sidecar).await);
    }
    let source = Source::Url(servers[0].url(IMAGE));
    let mirrors = servers[1..].iter().map(|server| server.url(IMAGE)).collect();
    let options = Options { mirrors, ..options(rule) };
    Outcome { result: unpack(&source, &rack.target, &options, &Unobserved).await, servers }
}

fn install(rack: &Rack, places: Vec<(Place, bool)>) -> Outcome {
    block_on(install_with(rack, places, DigestRule::Sidecar))
}

#[test]
fn an_image_that_a_place_has_not_is_asked_of_the_next_at_once() {
    for code in [404, 403, 410] {
        let rack = rack();
        let outcome = install(&rack, vec![(Place::Status(code), true), (Place::Good, false)]);
        assert_eq!(outcome.served(), [1]);
        assert_eq!((outcome.asked(0), outcome.asked(1)), (1, 1));
        let report = outcome.result.unwrap();
        assert_eq!((report.starts, report.bytes_in), (1, rack.bytes.len() as u64));
        assert_same(&facts(&rack.tree), &facts(&rack.target));
    }
}

#[test]
fn a_place_that_stays_broken_is_given_up_after_its_tries() {
    let rack = rack();
    let outcome = install(&rack, vec![(Place::Status(503), true), (Place::Good, true)]);
    assert_eq!((outcome.served(), outcome.asked(0)), (vec![1], quick().tries as usize));
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn with_a_digest_the_next_place_goes_on_where_the_one_before_stopped() {
    let rack = rack();
    let outcome = install(&rack, vec![(Place::BreaksAt(1_000_000), true), (Place::Good, true)]);
    assert_eq!(outcome.served(), [0, 1]);
    let heads = outcome.servers[1].heads_for(IMAGE);
    assert!(heads.len() == 1 && heads[0].contains("range: bytes=1000000-"), "{heads:?}");
    // the ETag is the other place's own
    assert!(!heads[0].contains("if-range"), "{heads:?}");
    let report = outcome.result.unwrap();
    assert_eq!((report.starts, report.bytes_in), (1, rack.bytes.len() as u64));
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn without_a_digest_the_next_place_begins_anew() {
    let rack = rack();
    let places = vec![(Place::BreaksAt(1_000_000), false), (Place::Good, false)];
    let outcome = block_on(install_with(&rack, places, DigestRule::AllowMissing));
    assert_eq!(outcome.served(), [1]);
    assert!(!outcome.servers[1].heads_for(IMAGE)[0].contains("range:"));
    assert_eq!(outcome.result.unwrap().starts, 2);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn a_place_whose_image_has_another_length_begins_anew() {
    let rack = rack();
    let mut longer = rack.bytes.to_vec();
    longer.extend([0; 1000]);
    // breaks off: more is promised than comes
    let image = Arc::clone(&rack.bytes);
    let outcome = block_on(async {
        let first = Server::start(move |request| match request.path.as_str() {
            IMAGE if request.from.is_some() => Vec::new(),
            IMAGE => cut(file(&longer, request), 1_000_000),
            SIDECAR => file(&sha256_file(&image), request),
            _ => status(404),
        })
        .await;
        let second = start(&rack, Place::Good, false).await;
        let options = Options { mirrors: vec![second.url(IMAGE)], ..options(DigestRule::Sidecar) };
        let result = unpack(&Source::Url(first.url(IMAGE)), &rack.target, &options, &Unobserved).await;
        Outcome { result, servers: vec![first, second] }
    });
    assert_eq!(outcome.served(), [1]);
    assert_eq!(outcome.asked(1), 2);
    assert_eq!(outcome.result.unwrap().starts, 2);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

fn digest_of(rack: &Rack) -> String {
    format!("sha256:{}", String::from_utf8_lossy(&sha256_file(&rack.bytes)).trim())
}

#[test]
fn an_image_that_is_damaged_at_one_place_comes_from_the_next_with_a_warning() {
    let rack = rack();
    let outcome = install(&rack, vec![(Place::Damaged, true), (Place::Good, true)]);
    assert_eq!(outcome.served(), [1]);
    let report = outcome.result.unwrap();
    assert_eq!((report.starts, report.bytes_in), (2, rack.bytes.len() as u64));
    assert!(report.warnings.iter().any(|warning| warning.contains("digest of http://")), "{:?}", report.warnings);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn wrong_bytes_of_two_places_are_fetched_anew_from_the_second_alone() {
    let rack = rack();
    let outcome = install(&rack, vec![(Place::WrongUntil(1_000_000), true), (Place::Good, true)]);
    assert_eq!(outcome.served(), [1]);
    assert_eq!(outcome.asked(1), 2);
    assert_eq!(outcome.result.unwrap().starts, 2);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn the_last_error_tells_what_became_of_each_place() {
    let rack = rack();
    let outcome = install(
        &rack,
        vec![
            (Place::Status(404), true),
            (Place::Status(503), true),
            (Place::BreaksAt(500_000), true),
            (Place::Damaged, true),
        ],
    );
    let error = outcome.result.unwrap_err();
    let ImageError::NoPlaceLeft { failures, last, .. } = &error else { panic!("{error}") };
    let address = |index: usize| outcome.servers[index].address.to_string();
    assert_eq!(failures.len(), 4, "{error}");
    assert!(failures[0].contains(&address(0)) && failures[0].contains("404"), "{error}");
    assert!(failures[1].contains(&address(1)) && failures[1].contains("503"), "{error}");
    assert!(failures[2].contains(&address(2)) && failures[2].contains("at byte 500000"), "{error}");
    assert!(failures[3].contains(&address(3)) && failures[3].contains("digest"), "{error}");
    assert!(matches!(**last, ImageError::Digest { .. }), "{last}");
    assert_eq!(error.to_string().lines().count(), 5, "{error}");
}

#[test]
fn the_digest_is_that_of_the_first_place_that_has_one() {
    let rack = rack();
    let outcome = install(&rack, vec![(Place::Good, false), (Place::Damaged, true)]);
    assert_eq!(outcome.served(), [0]);
    let digest = outcome.result.unwrap().digest.unwrap().to_string();
    assert_eq!(digest, digest_of(&rack));
}

#[test]
fn a_place_that_does_not_answer_is_not_asked_for_the_image() {
    let rack = rack();
    let (result, second) = block_on(async {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let second = start(&rack, Place::Good, true).await;
        let options = Options { mirrors: vec![second.url(IMAGE)], ..options(DigestRule::Sidecar) };
        let source: Source = format!("http://{closed}{IMAGE}").parse().unwrap();
        (unpack(&source, &rack.target, &options, &Unobserved).await, second)
    });
    let report = result.unwrap();
    assert_eq!((report.places, report.retries), (vec![second.url(IMAGE).to_string()], 0));
}

#[test]
fn the_digest_of_a_place_that_failed_counts_where_no_other_has_one() {
    let rack = rack();
    let outcome = install(&rack, vec![(Place::Damaged, true), (Place::Good, false)]);
    assert_eq!(outcome.served(), [1]);
    assert_eq!(outcome.result.unwrap().digest.unwrap().to_string(), digest_of(&rack));
    let rack = self::rack();
    let error = install(&rack, vec![(Place::Damaged, true), (Place::Damaged, false)]).result.unwrap_err();
    assert!(matches!(&error, ImageError::NoPlaceLeft { failures, .. } if failures.len() == 2), "{error}");
}

#[test]
fn places_without_any_digest_are_an_error() {
    let error = install(&rack(), vec![(Place::Good, false), (Place::Good, false)]).result.unwrap_err();
    assert!(matches!(error, ImageError::NoDigest { .. }), "{error}");
}

#[test]
fn other_files_in_the_target_forbid_to_begin_anew() {
    let rack = rack();
    std::fs::write(rack.target.join("mine"), "kept").unwrap();
    let error = install(&rack, vec![(Place::Damaged, true), (Place::Good, true)]).result.unwrap_err();
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    assert_eq!(std::fs::read(rack.target.join("mine")).unwrap(), b"kept");
}

/// A disk that the kernel gives to one user at a time.
struct Disk(PathBuf);

impl Disk {
    fn new(dir: &Path) -> Self {
        let backing = dir.join("backing");
        std::fs::File::create(&backing).unwrap().set_len(16 << 20).unwrap();
        let name = String::from_utf8(run("losetup", &["--find", "--show", text(&backing)])).unwrap();
        Self(PathBuf::from(name.trim()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("losetup", &["--detach", text(&self.0)]);
    }
}

#[test]
fn a_raw_image_that_is_damaged_at_one_place_is_written_anew() {
    let image: Arc<Vec<u8>> = Arc::new((0..3_000_000u32).map(|n| (n % 251) as u8).collect());
    let mut rack = rack();
    rack.bytes = Arc::clone(&image);
    let temp = tempfile::tempdir().unwrap();
    let disk = Disk::new(temp.path());
    let report = block_on(async {
        let first = start(&rack, Place::Damaged, true).await;
        let second = start(&rack, Place::Good, true).await;
        let options = Options { mirrors: vec![second.url(IMAGE)], ..options(DigestRule::Sidecar) };
        write_raw(&Source::Url(first.url(IMAGE)), &disk.0, &options, &Unobserved).await
    });
    assert_eq!(report.unwrap().starts, 2);
    assert!(std::fs::read(&disk.0).unwrap()[..image.len()] == **image);
}

#[test]
fn the_command_asks_mirrors_in_order() {
    let rack = rack();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let servers = runtime.block_on(async {
        [
            start(&rack, Place::Status(404), false).await,
            start(&rack, Place::Status(403), false).await,
            start(&rack, Place::Good, true).await,
        ]
    });
    let [first, second, third] = servers.each_ref().map(|server| server.url(IMAGE).to_string());
    let args = ["unpack", &first, text(&rack.target), "--mirror", &second, "--mirror", &third, "--format", "json"];
    let output = Command::new(env!("CARGO_BIN_EXE_drophammer")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["places"], &report["starts"]), (&serde_json::json!([third]), &serde_json::json!(1)));
    assert_same(&facts(&rack.tree), &facts(&rack.target));
    let args = ["unpack", &first, text(&rack.target), "--mirror", "/srv/img"];
    let output = Command::new(env!("CARGO_BIN_EXE_drophammer")).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_file_has_no_mirrors() {
    let temp = tempfile::tempdir().unwrap();
    let mirrors = vec!["http://127.0.0.1:1/img".parse().unwrap()];
    let options = Options { mirrors, ..options(DigestRule::AllowMissing) };
    let source = Source::File(temp.path().join("img"));
    let error = block_on(unpack(&source, temp.path(), &options, &Unobserved)).unwrap_err();
    assert!(matches!(error, ImageError::Source { .. }), "{error}");
}

#[test]
fn an_image_that_is_another_one_everywhere_names_all() {
    let rack = rack();
    let other = vec![7; 100_000];
    let places = vec![(Place::Other(other.clone()), true), (Place::Other(other), true)];
    let error = install(&rack, places).result.unwrap_err();
    assert!(matches!(&error, ImageError::NoPlaceLeft { failures, .. } if failures.len() == 2), "{error}");
}
