//! Signatures: made by minisign itself, in its new and its old form.

use std::path::{Path, PathBuf};

use drophammer::api::image_key::ImageKey;
use drophammer::image::{
    DigestRule, ImageError, Options, Report, SignatureError, Source, Unobserved, unpack, write_raw,
};

use crate::server::{Server, file, status};
use crate::support::{block_on, options, run, text};

struct Desk {
    temp: tempfile::TempDir,
    image: PathBuf,
    /// The one that signs, and another one.
    keys: [ImageKey; 2],
}

fn desk() -> Desk {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("img.tar.zst");
    std::fs::create_dir(temp.path().join("tree")).unwrap();
    std::fs::write(temp.path().join("tree/file"), "content".repeat(100_000)).unwrap();
    run("tar", &["-C", text(&temp.path().join("tree")), "--zstd", "-cf", text(&image), "."]);
    let keys = ["ours", "other"].map(|name| {
        let [public, secret] = ["pub", "key"].map(|suffix| temp.path().join(format!("{name}.{suffix}")));
        run("minisign", &["-G", "-W", "-p", text(&public), "-s", text(&secret)]);
        std::fs::read_to_string(public).unwrap().parse().unwrap()
    });
    Desk { temp, image, keys }
}

impl Desk {
    /// Signs the image with further arguments of minisign.
    fn sign(&self, key: &str, more: &[&str]) {
        let secret = self.temp.path().join(format!("{key}.key"));
        let common = ["-S", "-s", text(&secret), "-m", text(&self.image), "-t", "debian 12 for the lab"];
        run("minisign", &[&common, more].concat());
    }

    fn signature(&self) -> PathBuf {
        self.temp.path().join("img.tar.zst.minisig")
    }

    fn options(&self, rule: DigestRule) -> Options {
        Options { keys: vec![self.keys[0].clone()], ..options(rule) }
    }

    fn install(&self, rule: DigestRule) -> Result<Report, ImageError> {
        let target = tempfile::tempdir().unwrap();
        let done = block_on(unpack(&Source::File(self.image.clone()), target.path(), &self.options(rule), &Unobserved));
        if done.is_ok() {
            let content = std::fs::read(target.path().join("file")).unwrap();
            assert_eq!(content.len(), 700_000);
        }
        done
    }

    fn damage(&self) {
        let mut bytes = std::fs::read(&self.image).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4].copy_from_slice(&[0xff; 4]);
        std::fs::write(&self.image, bytes).unwrap();
    }
}

fn sha256_of(path: &Path) -> String {
    String::from_utf8(run("sha256sum", &[text(path)])).unwrap()[..64].to_owned()
}

#[test]
fn a_signed_image_needs_no_digest() {
    let desk = desk();
    desk.sign("ours", &[]);
    let report = desk.install(DigestRule::Sidecar).unwrap();
    assert_eq!(report.digest, None);
    let signature = report.signature.unwrap();
    assert_eq!(signature.trusted_comment, "debian 12 for the lab");
    assert_eq!(signature.key, desk.keys[0].id.to_string());
    assert_eq!(report.warnings, Vec::<String>::new());
}

#[test]
fn an_unsigned_image_is_refused_also_with_a_digest() {
    let desk = desk();
    let given = DigestRule::Given(format!("sha256:{}", sha256_of(&desk.image)).parse().unwrap());
    for rule in [given, DigestRule::Sidecar, DigestRule::AllowMissing] {
        let error = desk.install(rule).unwrap_err();
        assert!(matches!(error, ImageError::Unsigned { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("img.tar.zst.minisig") && text.contains(&desk.keys[0].id.to_string()), "{text}");
    }
}

#[test]
fn a_signature_by_another_key_is_refused_with_both_ids() {
    let desk = desk();
    desk.sign("other", &[]);
    let error = desk.install(DigestRule::Sidecar).unwrap_err();
    match &error {
        ImageError::Signature { reason: SignatureError::UnknownKey { found, known }, .. } => {
            assert_eq!(*found, desk.keys[1].id);
            assert_eq!(*known, desk.keys[0].id.to_string());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_key_with_the_right_id_that_did_not_sign_is_refused() {
    let desk = desk();
    desk.sign("ours", &[]);
    let forged = ImageKey { id: desk.keys[0].id, key: desk.keys[1].key };
    let forged = Options { keys: vec![forged], ..options(DigestRule::Sidecar) };
    let target = tempfile::tempdir().unwrap();
    let error = block_on(unpack(&Source::File(desk.image.clone()), target.path(), &forged, &Unobserved)).unwrap_err();
    assert!(matches!(error, ImageError::Signature { reason: SignatureError::TrustedComment(_), .. }), "{error}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "nothing is unpacked before");
}

#[test]
fn the_old_kind_of_signature_is_refused_with_what_to_do() {
    let desk = desk();
    desk.sign("ours", &["-l"]);
    let error = desk.install(DigestRule::Sidecar).unwrap_err();
    assert!(matches!(error, ImageError::Signature { reason: SignatureError::Legacy, .. }), "{error}");
    assert!(error.to_string().contains("minisign -Sm IMAGE"), "{error}");
}

#[test]
fn an_image_changed_after_it_was_signed_is_refused() {
    let desk = desk();
    desk.sign("ours", &[]);
    std::fs::write(desk.temp.path().join("tree/file"), "changed").unwrap();
    run("tar", &["-C", text(&desk.temp.path().join("tree")), "--zstd", "-cf", text(&desk.image), "."]);
    match desk.install(DigestRule::Sidecar).unwrap_err() {
        ImageError::WrongSignature { file, key, bytes, damage, .. } => {
            assert_eq!(file, text(&desk.signature()));
            assert_eq!((key, damage), (desk.keys[0].id, None));
            assert_eq!(bytes, desk.image.metadata().unwrap().len());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damage_on_the_way_is_a_wrong_signature_and_not_a_bad_archive() {
    let desk = desk();
    desk.sign("ours", &[]);
    desk.damage();
    match desk.install(DigestRule::Sidecar).unwrap_err() {
        ImageError::WrongSignature { damage: Some(damage), .. } => assert!(damage.contains("zstd"), "{damage}"),
        other => panic!("{other}"),
    }
}

#[test]
fn digest_and_signature_must_both_hold() {
    let desk = desk();
    desk.sign("ours", &[]);
    let sidecar = desk.temp.path().join("img.tar.zst.sha256");
    std::fs::write(&sidecar, sha256_of(&desk.image)).unwrap();
    let report = desk.install(DigestRule::Sidecar).unwrap();
    assert!(report.digest.is_some() && report.signature.is_some());
    std::fs::write(&sidecar, "00".repeat(32)).unwrap();
    let error = desk.install(DigestRule::Sidecar).unwrap_err();
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    // a digest made for what was changed does not help
    desk.damage();
    std::fs::write(&sidecar, sha256_of(&desk.image)).unwrap();
    let error = desk.install(DigestRule::Sidecar).unwrap_err();
    assert!(matches!(error, ImageError::WrongSignature { .. }), "{error}");
}

#[test]
fn what_is_no_signature_is_told() {
    let desk = desk();
    desk.sign("ours", &[]);
    let good = std::fs::read_to_string(desk.signature()).unwrap();
    for (text, expected) in [
        (String::new(), "it is empty"),
        ("<html>not found</html>".to_owned(), "first line"),
        (good.lines().take(2).collect::<Vec<_>>().join("\n"), "no trusted comment"),
        (good.replace("debian 12", "debian 13"), "trusted comment was changed"),
    ] {
        std::fs::write(desk.signature(), text).unwrap();
        let error = desk.install(DigestRule::Sidecar).unwrap_err();
        assert!(matches!(error, ImageError::Signature { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_raw_image_is_held_against_its_signature() {
    let desk = desk();
    desk.sign("ours", &[]);
    let disk = desk.temp.path().join("disk");
    std::fs::write(&disk, "").unwrap();
    let write = || {
        let options = desk.options(DigestRule::Sidecar);
        block_on(write_raw(&Source::File(desk.image.clone()), &disk, &options, &Unobserved))
    };
    assert!(write().unwrap().signature.is_some());
    let written = std::fs::read(&disk).unwrap();
    assert!(written[257..].starts_with(b"ustar"));
    std::fs::write(&desk.image, vec![1; 2_000_000]).unwrap();
    let error = write().unwrap_err();
    assert!(matches!(error, ImageError::WrongSignature { .. }), "{error}");
    let head = std::fs::read(&disk).unwrap();
    assert!(head.iter().take(1 << 20).all(|byte| *byte == 0), "the head comes only after the signature");
}

#[test]
fn a_signature_comes_from_the_first_place_that_has_a_good_one() {
    let desk = desk();
    desk.sign("ours", &[]);
    let image = std::fs::read(&desk.image).unwrap();
    let signature = std::fs::read(desk.signature()).unwrap();
    let target = tempfile::tempdir().unwrap();
    let report = block_on(async {
        let portal = Server::start(|request| file(b"<html>log in</html>", request)).await;
        let good = Server::start(move |request| match request.path.as_str() {
            "/img?token=x" => file(&image, request),
            "/img.minisig?token=x" => file(&signature, request),
            _ => status(404),
        })
        .await;
        let source = Source::Url(portal.url("/img?token=x"));
        let options = Options { mirrors: vec![good.url("/img?token=x")], ..desk.options(DigestRule::Sidecar) };
        unpack(&source, target.path(), &options, &Unobserved).await
    });
    let report = report.unwrap();
    assert_eq!((report.starts, report.places.len()), (1, 1));
    assert!(report.signature.is_some());
}

#[test]
fn who_has_a_good_signature_is_the_only_one_asked() {
    let desk = desk();
    desk.sign("ours", &[]);
    let (image, signature) = (std::fs::read(&desk.image).unwrap(), std::fs::read(desk.signature()).unwrap());
    let target = tempfile::tempdir().unwrap();
    block_on(async {
        let good = Server::start(move |request| match request.path.as_str() {
            "/img" => file(&image, request),
            "/img.minisig" => file(&signature, request),
            _ => status(404),
        })
        .await;
        let other = Server::start(|_| status(404)).await;
        let options = Options { mirrors: vec![other.url("/img")], ..desk.options(DigestRule::Sidecar) };
        unpack(&Source::Url(good.url("/img")), target.path(), &options, &Unobserved).await.unwrap();
        assert_eq!(other.heads(), Vec::<String>::new());
    });
}

#[test]
fn the_command_takes_keys_and_files_of_keys() {
    let desk = desk();
    desk.sign("ours", &[]);
    let unpack = |key: &str| {
        let target = tempfile::tempdir().unwrap();
        let args = ["unpack", text(&desk.image), text(target.path()), "--image-key", key];
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_drophammer")).args(args).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let id = desk.keys[0].id.to_string();
    for key in [desk.keys[0].to_string().as_str(), text(&desk.temp.path().join("ours.pub"))] {
        let (code, output) = unpack(key);
        assert!(code == Some(0) && output.contains(&format!("signed by {id}")), "{output}");
    }
    let (code, output) = unpack(text(&desk.temp.path().join("other.pub")));
    assert!(code == Some(1) && output.contains("not among the configured ones"), "{output}");
    for wrong in ["RWx", "/nowhere/minisign.pub", text(&desk.temp.path().join("ours.key"))] {
        let (code, output) = unpack(wrong);
        assert!(code == Some(2) && output.contains("minisign"), "{output}");
    }
}
