//! The stages between fetching and writing: hashing and decompressing, each on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use super::decompress::decompress;
use super::digest::{Algorithm, Digest, Hasher};
use super::fetch::Stop;
use super::queue::{Gone, Receiver, Sender};

/// Set by a stage that found the content damaged, before it ends.
///
/// Then hashing goes on to the end although nobody unpacks any more: a wrong digest tells an image that was damaged
/// on its way from one that was made badly.
#[derive(Default)]
pub(super) struct Damage(AtomicBool);

impl Damage {
    pub(super) fn note<T>(&self, result: &Result<T, Stop>) {
        if let Err(Stop::Failed(err)) = result
            && err.is_damage()
        {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn was_found(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Passes chunks on and hashes them, with each of the algorithms.
pub(super) fn hash(
    mut input: Receiver,
    output: Sender,
    algorithms: &[Algorithm],
    damage: &Damage,
) -> Result<Vec<Digest>, Stop> {
    let mut hashers: Vec<Hasher> = algorithms.iter().copied().map(Hasher::new).collect();
    let mut output = Some(output);
    while let Some(chunk) = input.receive()? {
        hashers.iter_mut().for_each(|hasher| hasher.update(&chunk));
        if let Some(Err(Gone)) = output.as_ref().map(|output| output.send(chunk)) {
            if hashers.is_empty() || !damage.was_found() {
                return Err(Stop::Gone);
            }
            output = None;
        }
    }
    if let Some(output) = output {
        // a stage that failed meanwhile tells so itself
        let _ = output.end();
    }
    Ok(hashers.into_iter().map(Hasher::finish).collect())
}
