//! The places that one image can be had from, in the order they are asked, and what became of each.
//!
//! A place that failed is not asked for anything any more. All places are trusted alike: the operator named them, and
//! what they send is checked by a digest or a signature. Whoever trusts a place less gives digests or keys that do not
//! come from it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::Url;

use super::error::ImageError;
use super::source::Source;
use crate::causes::with_causes;

/// How often an image that changed while it was fetched is begun anew from the same place.
const STARTS_MAX: u32 = 3;
/// Of what is told about failed places.
const LINES_MAX: usize = 8;
const LINE_MAX_CHARS: usize = 400;

/// An image's places; never empty.
pub(super) struct Places {
    first: Source,
    mirrors: Vec<Source>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By index, and why, in the order they failed.
    failed: Vec<(usize, String)>,
    /// Whose bytes are in the image that is being written, in order.
    served: Vec<usize>,
    /// Starts that ended because the image changed.
    changed: Vec<usize>,
    /// Starts that ended, for whatever reason.
    starts: u32,
}

impl Places {
    /// `source` is asked first. Only an image by HTTP has mirrors.
    pub(super) fn new(source: &Source, mirrors: &[Url]) -> Result<Self, ImageError> {
        if let (Source::File(_) | Source::Oci(_), [_, ..]) = (source, mirrors) {
            let reason = "only images by http and https have mirrors".to_owned();
            return Err(ImageError::Source { text: source.to_string(), reason });
        }
        let mut places = Self { first: source.clone(), mirrors: Vec::new(), state: Mutex::default() };
        for mirror in mirrors {
            let mirror = Source::Url(mirror.clone());
            // the same place twice would be asked twice
            if !places.all().any(|known| *known == mirror) {
                places.mirrors.push(mirror);
            }
        }
        Ok(places)
    }

    /// Places that have not failed, with their indices.
    pub(super) fn left(&self) -> Vec<(usize, &Source)> {
        let state = self.state();
        self.all().enumerate().filter(|(index, _)| !state.has_failed(*index)).collect()
    }

    /// The place to be asked now; the last one if all have failed.
    pub(super) fn current(&self) -> &Source {
        self.left().first().map_or_else(|| self.mirrors.last().unwrap_or(&self.first), |(_, source)| source)
    }

    /// Notes that a place is of no more use, and says so if there is another one.
    pub(super) fn fail(&self, index: usize, error: &ImageError) {
        self.note_failure(index, error);
        if let Some((_, next)) = self.left().first() {
            tracing::warn!("{}; going on with {next}", with_causes(error));
        }
    }

    fn note_failure(&self, index: usize, error: &ImageError) {
        let mut state = self.state();
        if !state.has_failed(index) {
            state.failed.push((index, shorten(with_causes(error))));
        }
    }

    /// Notes that bytes of this place are in what is being written.
    pub(super) fn serves(&self, index: usize) {
        let mut state = self.state();
        if state.served.last() != Some(&index) {
            state.served.push(index);
        }
    }

    /// The places whose bytes are in what is being written.
    pub(super) fn served(&self) -> Vec<String> {
        let served = self.state().served.clone();
        served.iter().filter_map(|index| Some(self.all().nth(*index)?.to_string())).collect()
    }

    /// Decides what follows an error: `Ok` with the reason when all is to be fetched anew, from [`Self::current`].
    pub(super) fn begin_anew(&self, error: ImageError) -> Result<ImageError, ImageError> {
        let served = std::mem::take(&mut self.state().served);
        let current = self.left().first().map(|(index, _)| *index);
        match &error {
            // the place has another image than the one before; it gets its chance from the start
            ImageError::OtherLength { .. } => {}
            ImageError::Changed { .. } => {
                if let Some(current) = current
                    && self.count_change(current) >= STARTS_MAX
                {
                    self.note_failure(current, &error);
                }
            }
            ImageError::Digest { .. } | ImageError::WrongSignature { .. } => {
                // which of several gave the wrong bytes can't be told: the newest gets its chance from the start
                if let Some(current) = current
                    && served.len() <= 1
                {
                    self.note_failure(current, &error);
                }
            }
            // whoever fetches by HTTP has noted it
            ImageError::Status { .. }
            | ImageError::Unreachable { .. }
            | ImageError::Answer { .. }
            | ImageError::Short { .. }
            | ImageError::WrongRange { .. } => {
                if let Source::File(_) = self.first {
                    return Err(error);
                }
            }
            // no other place would make it better
            _ => return Err(error),
        }
        // no table of errors shall make this go on for ever
        let starts_left = self.count_start() < self.all().fold(0, |most, _| most + STARTS_MAX);
        if self.left().is_empty() || !starts_left {
            return Err(self.all_failed(error));
        }
        Ok(error)
    }

    /// The error for the caller: the last one alone, or every place's.
    pub(super) fn all_failed(&self, last: ImageError) -> ImageError {
        let state = self.state();
        let others: Vec<&String> = state.failed.iter().map(|(_, why)| why).collect();
        let last_line = shorten(with_causes(&last));
        if others.iter().all(|why| **why == last_line) {
            drop(state);
            return last;
        }
        let mut failures: Vec<String> = others.into_iter().cloned().collect();
        if !failures.contains(&last_line) {
            failures.push(last_line);
        }
        let more = failures.len().saturating_sub(LINES_MAX);
        if more > 0 {
            failures.drain(LINES_MAX / 2..LINES_MAX / 2 + more);
            failures.insert(LINES_MAX / 2, format!("… and {more} more"));
        }
        drop(state);
        ImageError::NoPlaceLeft { image: self.first.to_string(), failures, last: Box::new(last) }
    }

    fn count_change(&self, index: usize) -> u32 {
        let mut state = self.state();
        state.changed.push(index);
        state.changed.iter().fold(0, |count, changed| count + u32::from(*changed == index))
    }

    fn count_start(&self) -> u32 {
        let mut state = self.state();
        state.starts += 1;
        state.starts
    }

    fn all(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.first).chain(&self.mirrors)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_failed(&self, index: usize) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == index)
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(LINE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(urls: &[&str]) -> Places {
        let urls: Vec<Url> = urls.iter().map(|url| url.parse().unwrap()).collect();
        Places::new(&Source::Url(urls[0].clone()), &urls[1..]).unwrap()
    }

    fn status(status: u16) -> ImageError {
        ImageError::Status { url: "http://10.0.0.1/img".into(), offset: 0, status, expected: "200" }
    }

    fn changed() -> ImageError {
        let text = String::new;
        ImageError::Changed { url: text(), offset: 1, what: "ETag", expected: text(), found: text() }
    }

    fn wrong_digest() -> ImageError {
        let digest: super::super::digest::Digest = format!("md5:{}", "00".repeat(16)).parse().unwrap();
        ImageError::Digest { image: "img".into(), expected: digest.clone(), found: digest, bytes: 1, damage: None }
    }

    #[test]
    fn a_single_place_keeps_its_error() {
        let places = places(&["http://10.0.0.1/img"]);
        places.fail(0, &status(404));
        let error = places.begin_anew(status(404)).unwrap_err();
        assert!(matches!(error, ImageError::Status { status: 404, .. }), "{error}");
    }

    #[test]
    fn the_last_error_has_a_line_for_each_place() {
        let places = places(&["http://10.0.0.1/img", "http://10.0.0.2/img"]);
        places.fail(0, &status(404));
        places.fail(1, &status(503));
        let error = places.begin_anew(status(503)).unwrap_err();
        let text = error.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("404") && text.contains("503"), "{text}");
        assert!(matches!(error, ImageError::NoPlaceLeft { last, .. } if matches!(*last, ImageError::Status { .. })));
    }

    #[test]
    fn many_places_are_told_briefly() {
        let urls: Vec<String> = (0..50).map(|n| format!("http://10.0.0.{n}/img")).collect();
        let places = places(&urls.iter().map(String::as_str).collect::<Vec<_>>());
        for index in 0..50 {
            places.fail(index, &ImageError::NoHttpClient { url: format!("{index} {}", "x".repeat(1000)) });
        }
        let text = places.all_failed(status(404)).to_string();
        assert!(text.lines().count() == 2 + LINES_MAX && text.contains("and 43 more"), "{text}");
        assert!(text.len() < (LINES_MAX + 1) * (LINE_MAX_CHARS + 50), "{}", text.len());
    }

    #[test]
    fn a_wrong_digest_of_mixed_bytes_gives_the_newest_place_another_chance() {
        let places = places(&["http://10.0.0.1/img", "http://10.0.0.2/img"]);
        places.serves(0);
        places.fail(0, &status(503));
        places.serves(1);
        assert!(places.begin_anew(wrong_digest()).is_ok());
        assert_eq!(places.current().to_string(), "http://10.0.0.2/img");
        places.serves(1);
        assert!(matches!(places.begin_anew(wrong_digest()), Err(ImageError::NoPlaceLeft { .. })));
    }

    #[test]
    fn a_place_whose_image_changes_again_and_again_is_left() {
        let places = places(&["http://10.0.0.1/img", "http://10.0.0.2/img"]);
        for _ in 0..2 {
            assert!(places.begin_anew(changed()).is_ok());
            assert_eq!(places.current().to_string(), "http://10.0.0.1/img");
        }
        assert!(places.begin_anew(changed()).is_ok());
        assert_eq!(places.current().to_string(), "http://10.0.0.2/img");
    }

    #[test]
    fn nothing_goes_on_for_ever() {
        let places = places(&["http://10.0.0.1/img", "http://10.0.0.2/img"]);
        let again = (0..100).take_while(|_| places.begin_anew(status(503)).is_ok()).count();
        assert!(again < 10, "{again}");
    }

    #[test]
    fn a_file_is_not_read_again() {
        let places = Places::new(&Source::File("/srv/img".into()), &[]).unwrap();
        assert!(places.begin_anew(wrong_digest()).is_err());
        let places = Places::new(&Source::File("/srv/img".into()), &[]).unwrap();
        assert!(places.begin_anew(ImageError::Short { image: "img".into(), expected: 2, found: 1 }).is_err());
    }

    #[test]
    fn files_have_no_mirrors() {
        let mirror = "http://10.0.0.1/img".parse().unwrap();
        assert!(Places::new(&Source::File("/srv/img".into()), &[mirror]).is_err());
        assert!(Places::new(&Source::File("/srv/img".into()), &[]).is_ok());
    }
}
