//! Finding the image in a layout, and refusing what is wrong with it.

use std::path::PathBuf;

use drophammer::image::{DigestRule, ImageError, OciError, Report, Source, Unobserved, write_raw};
use serde_json::json;

use super::made::{
    CONFIG, INDEX, LAYER, Layout, MANIFEST, digest, layers, own_architecture, sha256, tagged, unpack_source,
};
use crate::support::{block_on, options, run, text, unpack_file};

struct Case {
    temp: tempfile::TempDir,
    layout: Layout,
}

impl Case {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let layout = Layout::new(temp.path().join("image"));
        Self { temp, layout }
    }

    /// Into an empty directory.
    fn target(&self) -> PathBuf {
        let target = self.temp.path().join("target");
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir(&target).unwrap();
        target
    }

    fn unpack(&self, rest: &str, rule: DigestRule) -> Result<Report, ImageError> {
        unpack_source(&format!("{}{rest}", self.layout.reference()), &self.target(), rule)
    }

    fn refused(&self, rest: &str) -> OciError {
        match self.unpack(rest, DigestRule::AllowMissing).unwrap_err() {
            ImageError::Oci { source, .. } => source,
            other => panic!("{other}"),
        }
    }

    fn found(&self) -> String {
        std::fs::read_to_string(self.temp.path().join("target/name")).unwrap()
    }
}

fn named(name: &str) -> Vec<Vec<u8>> {
    layers(&format!("layer()\nadd('name', '{name}')"))
}

#[test]
fn tags_and_digests_lead_to_the_image() {
    let case = Case::new();
    let [one, two] = ["one", "two"].map(|name| case.layout.add_image(&named(name)));
    let (first, second) = (digest(&one), digest(&two));
    case.layout.write_index(&[tagged(one, "os/debian:12"), tagged(two, "2")]);
    for (rest, rule, name) in [
        (":2".to_owned(), DigestRule::AllowMissing, "two"),
        (":os/debian:12".to_owned(), DigestRule::AllowMissing, "one"),
        (format!("@{second}"), DigestRule::Sidecar, "two"),
        (format!(":os/debian:12@{first}"), DigestRule::Sidecar, "one"),
        (String::new(), DigestRule::Given(first.parse().unwrap()), "one"),
    ] {
        let report = case.unpack(&rest, rule.clone()).unwrap();
        assert_eq!(case.found(), name, "{rest}");
        assert_eq!(report.digest.is_some(), rule != DigestRule::AllowMissing, "{rest}");
        assert_eq!(report.warnings.is_empty(), rule != DigestRule::AllowMissing, "{:?}", report.warnings);
    }
    assert!(matches!(case.refused(":3"), OciError::NoTag { found, .. } if found.len() == 2));
    assert!(matches!(case.refused(""), OciError::Several { found } if found.len() == 2));
    assert!(matches!(case.refused(&format!(":2@{first}")), OciError::TagDiffers { .. }));
    assert!(matches!(case.refused(&format!("@{}", sha256(b"other"))), OciError::Missing { .. }));
}

#[test]
fn no_digest_is_refused_and_the_way_out_is_told() {
    let case = Case::new();
    case.layout.write_index(&[case.layout.add_image(&named("one"))]);
    let err = case.unpack("", DigestRule::Sidecar).unwrap_err();
    let ImageError::Oci { source: OciError::NoDigest, image } = &err else { panic!("{err}") };
    assert_eq!(*image, case.layout.reference());
    assert!(drophammer::causes::with_causes(&err).contains("add @sha256:"), "{err}");
    assert!(!case.temp.path().join("target/name").exists());
}

#[test]
fn the_image_for_this_machine_is_found_through_indexes() {
    let case = Case::new();
    let platform = |mut image: serde_json::Value, architecture: &str| {
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        image
    };
    let [ours, other] = ["ours", "other"].map(|name| case.layout.add_image(&named(name)));
    let entries = [platform(other.clone(), "s390x"), platform(ours, own_architecture())];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let index = case.layout.add_json(INDEX, &index);
    let outer = json!({"schemaVersion": 2, "manifests": [index]});
    case.layout.write_index(&[tagged(case.layout.add_json(INDEX, &outer), "x")]);
    let report = case.unpack(&format!("@{}", digest(&index)), DigestRule::Sidecar).unwrap();
    assert_eq!((case.found().as_str(), report.digest.unwrap().to_string()), ("ours", digest(&index)));
    case.unpack(":x", DigestRule::AllowMissing).unwrap();
    assert_eq!(case.found(), "ours");

    case.layout.write_index(&[platform(other, "s390x")]);
    match case.refused("") {
        OciError::NoPlatform { wanted, found } => {
            assert_eq!(wanted, format!("linux/{}", own_architecture()));
            assert!(found[0].starts_with("linux/s390x sha256:"), "{found:?}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_image_whose_configuration_is_for_another_machine_is_refused() {
    let case = Case::new();
    let layer = case.layout.add(LAYER, &named("one")[0]);
    let mut manifest = case.layout.manifest(&[layer]);
    manifest["config"] = case.layout.add_json(CONFIG, &json!({"os": "linux", "architecture": "s390x"}));
    case.layout.write_index(&[case.layout.add_json(MANIFEST, &manifest)]);
    assert!(matches!(case.refused(""), OciError::NoPlatform { found, .. } if found == ["linux/s390x"]));
}

#[test]
fn damage_is_found_in_every_part() {
    let case = Case::new();
    let layer = case.layout.add(LAYER, &named("one")[0]);
    let image = case.layout.add_json(MANIFEST, &case.layout.manifest(std::slice::from_ref(&layer)));
    case.layout.write_index(std::slice::from_ref(&image));
    let (layer, image) = (case.layout.blob_path(&digest(&layer)), case.layout.blob_path(&digest(&image)));
    let (good_layer, good_image) = (std::fs::read(&layer).unwrap(), std::fs::read(&image).unwrap());

    let mut bad = good_layer.clone();
    // in the content of the file, where the archive itself has no checksum
    bad[512] ^= 1;
    std::fs::write(&layer, &bad).unwrap();
    match case.unpack("", DigestRule::AllowMissing).unwrap_err() {
        ImageError::Layer { number: 1, count: 1, source, .. } => {
            assert!(matches!(*source, ImageError::Digest { bytes, .. } if bytes == bad.len() as u64), "{source}");
        }
        other => panic!("{other}"),
    }
    std::fs::write(&layer, &good_layer[1..]).unwrap();
    assert!(matches!(case.refused(""), OciError::WrongLength { .. }));
    std::fs::remove_file(&layer).unwrap();
    assert!(matches!(case.refused(""), OciError::Missing { .. }));

    let mut bad = good_image.clone();
    bad.pop();
    bad.push(b' ');
    std::fs::write(&image, &bad).unwrap();
    assert!(matches!(case.refused(""), OciError::WrongContent { .. }));
    assert!(matches!(case.refused(&format!("@{}", sha256(&good_image))), OciError::WrongContent { .. }));
    std::fs::write(&image, b"x".repeat(5 << 20)).unwrap();
    assert!(matches!(case.refused(&format!("@{}", sha256(&good_image))), OciError::TooLarge { .. }));
}

#[test]
fn archives_of_containers_are_not_taken_for_root_trees() {
    let case = Case::new();
    case.layout.write_index(&[case.layout.add_image(&named("one"))]);
    let (dir, archive) = (text(&case.layout.path), case.temp.path().join("image.tar"));
    for names in ["oci-layout index.json blobs", "blobs index.json oci-layout", "."] {
        run("sh", &["-c", &format!("cd $0 && tar --sort=name -cf $1 {names}"), dir, text(&archive)]);
        let err = unpack_file(&archive, &case.target()).unwrap_err();
        assert!(matches!(err, ImageError::ContainerArchive { .. }), "{names}: {err}");
        assert!(err.to_string().contains("oci-archive:FILE"), "{err}");
        let named = unpack_source(&format!("oci-archive:{}", text(&archive)), &case.target(), DigestRule::AllowMissing);
        named.unwrap();
        assert_eq!(case.found(), "one", "{names}");
    }
    let docker = format!(
        "import sys, tarfile; tarfile.open(sys.argv[1], 'w').addfile(tarfile.TarInfo('{}.json'))",
        "a".repeat(64)
    );
    run("python3", &["-c", &docker, text(&archive)]);
    let err = unpack_file(&archive, &case.target()).unwrap_err();
    assert!(matches!(err, ImageError::ContainerArchive { .. }), "{err}");

    run("sh", &["-c", "cd $0 && tar -czf $1 .", dir, text(&archive)]);
    let err = unpack_source(&format!("oci-archive:{}", text(&archive)), &case.target(), DigestRule::AllowMissing);
    let err = err.unwrap_err();
    assert!(matches!(err, ImageError::Oci { source: OciError::CompressedArchive { .. }, .. }), "{err}");
}

#[test]
fn an_image_of_layers_is_not_written_to_a_disk() {
    let case = Case::new();
    case.layout.write_index(&[case.layout.add_image(&named("one"))]);
    let disk = case.temp.path().join("disk");
    std::fs::write(&disk, "kept").unwrap();
    let source: Source = case.layout.reference().parse().unwrap();
    let written = block_on(write_raw(&source, &disk, &options(DigestRule::AllowMissing), &Unobserved));
    assert!(matches!(written, Err(ImageError::Source { .. })), "{written:?}");
    assert_eq!(std::fs::read(&disk).unwrap(), b"kept");
}
