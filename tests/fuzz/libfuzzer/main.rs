//! One program for all targets; `DROPHAMMER_FUZZ_TARGET` names the one to run.
#![no_main]

use std::sync::OnceLock;

#[path = "../corpus.rs"]
mod corpus;
#[path = "../targets.rs"]
mod targets;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("DROPHAMMER_FUZZ_TARGET").expect("DROPHAMMER_FUZZ_TARGET names a target");
        let found = targets::TARGETS.into_iter().find(|(known, _)| *known == name);
        let Some((_, target)) = found else { panic!("no target {name}") };
        if let Some(directory) = std::env::var_os("DROPHAMMER_FUZZ_CORPUS") {
            for (number, input) in corpus::corpus(&name).into_iter().enumerate() {
                let path = std::path::Path::new(&directory).join(format!("valid-{number}"));
                std::fs::write(path, input).expect("writing the first inputs");
            }
        }
        TARGET.set(target).expect("set once");
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(bytes);
        }
    }
);
