//! The readers of foreign bytes over inputs that were valid once and then damaged, from a fixed seed.
//!
//! `DROPHAMMER_FUZZ=COUNT` tries so many inputs for each target instead of the usual few; `scripts/fuzz` runs the same
//! targets under libFuzzer, which sees what an input reaches and digs there.

mod corpus;
mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use mutate::Mutator;

/// Enough for some seconds.
const INPUTS: u64 = 3000;

fn fuzz(name: &str) {
    let inputs = std::env::var("DROPHAMMER_FUZZ").map_or(INPUTS, |count| count.parse().expect("a number of inputs"));
    let (_, target) = targets::TARGETS.into_iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus::corpus(name);
    corpus.iter().for_each(|input| target(input));
    for seed in 0..inputs {
        let input = Mutator::new(seed).mutate(&corpus);
        let run = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(run.is_ok(), "{name}, seed {seed}: {}", hex::encode(&input));
    }
}

#[test]
fn archives_of_any_bytes_are_read_or_refused() {
    fuzz("tar_reader");
}

#[test]
fn lz4_frames_of_any_bytes_are_read_or_refused() {
    fuzz("lz4_frames");
}

#[test]
fn zstd_frames_of_any_bytes_are_read_or_refused() {
    fuzz("zstd_frames");
}

#[test]
fn oci_manifests_of_any_bytes_are_read_or_refused() {
    fuzz("oci_manifest");
}

#[test]
fn manifests_of_bundles_of_any_bytes_are_read_or_refused() {
    fuzz("bundle_manifest");
}

/// Else the targets would only see what is refused at its first byte.
#[test]
fn the_inputs_to_begin_with_are_valid() {
    for archive in corpus::corpus("tar_reader") {
        let mut reader = drophammer::image::tar::Reader::new(&archive[..]);
        let mut entries = 0;
        while reader.next_entry().expect("a valid archive").is_some() {
            entries += 1;
        }
        assert!(entries > 0);
    }
    for manifest in corpus::corpus("oci_manifest") {
        drophammer::image::parse_oci_manifest(&manifest).expect("a valid manifest");
    }
    for manifest in corpus::corpus("bundle_manifest") {
        drophammer::anvil::bundle::manifest::parse_manifest(&manifest).expect("a valid manifest");
    }
    for target in ["lz4_frames", "zstd_frames"] {
        for frames in corpus::corpus(target) {
            let limit = drophammer::image::MemoryLimit::default();
            drophammer::image::decompress_to(&mut &frames[..], limit, &mut Vec::new()).expect(target);
        }
    }
}
