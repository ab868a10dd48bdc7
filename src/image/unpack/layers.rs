//! Layers of an OCI image: each is an archive of what it changes in those below it.
//!
//! Source: OCI image-spec, layer.md, "Whiteouts". A whiteout hides only what lower layers brought, also when it comes
//! after a file of its own layer at the same place. So it must be known what a layer brought: the places of its entries
//! are kept, 8 bytes each, and only for layers that have one below them.

use std::collections::HashSet;

use super::workers::Place;

/// Places of one layer, 5 MB at most. Distributions' upgrades have some 10,000.
const PLACES_MAX: usize = 400_000;

/// What a name in a layer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// A file or whatever it is.
    Plain,
    /// That name of the lower layers is gone.
    Whiteout(&'a [u8]),
    /// All that lower layers have in the directory is gone.
    Opaque,
    /// Something that the file system of whoever made the layer keeps for itself.
    Ignored,
}

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// By the names of a path, from the root down.
pub(super) fn parse_name<'a>(names: &[&'a [u8]]) -> Result<Name<'a>, &'static str> {
    let Some((name, parents)) = names.split_last() else { return Ok(Name::Plain) };
    if parents.iter().any(|parent| parent.starts_with(META)) {
        return Ok(Name::Ignored);
    }
    if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
        return Err("it is below a whiteout");
    }
    match (*name == OPAQUE, name.starts_with(META), name.strip_prefix(WHITEOUT)) {
        (true, _, _) => Ok(Name::Opaque),
        (false, true, _) => Ok(Name::Ignored),
        (false, false, Some(b"" | b"." | b"..")) => Err("a whiteout of no name"),
        (false, false, Some(hidden)) => Ok(Name::Whiteout(hidden)),
        (false, false, None) => Ok(Name::Plain),
    }
}

/// How many layers there were, and what the present one brought.
#[derive(Default)]
pub(super) struct Layers {
    /// From 1, the lowest; 0 before it.
    number: u32,
    places: HashSet<Place>,
    too_many: bool,
}

impl Layers {
    pub(super) fn begin(&mut self) {
        self.number += 1;
        self.places = HashSet::new();
        self.too_many = false;
    }

    /// Nothing is below it that it could hide.
    pub(super) fn is_lowest(&self) -> bool {
        self.number <= 1
    }

    /// The present layer brought this.
    pub(super) fn add(&mut self, place: Place) {
        if self.is_lowest() || self.too_many {
            return;
        }
        if self.places.len() >= PLACES_MAX {
            self.places = HashSet::new();
            self.too_many = true;
            return;
        }
        self.places.insert(place);
    }

    /// The places of the present layer, if they are all known.
    pub(super) fn places(&self) -> Result<&HashSet<Place>, &'static str> {
        match self.too_many {
            false => Ok(&self.places),
            true => {
                Err("a whiteout behind 400000 entries of its layer: it can't be told any more which files are the \
                         layer's own. Put whiteouts first")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Name<'_>, &'static str> {
        parse_name(&path.split('/').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_told_from_whiteouts() {
        assert_eq!(parse("etc/.whatever"), Ok(Name::Plain));
        assert_eq!(parse("etc/.wh.motd"), Ok(Name::Whiteout(b"motd")));
        assert_eq!(parse(".wh..profile"), Ok(Name::Whiteout(b".profile")));
        assert_eq!(parse("etc/.wh..wh..opq"), Ok(Name::Opaque));
        assert_eq!(parse(".wh..wh.plnk"), Ok(Name::Ignored));
        assert_eq!(parse(".wh..wh.plnk/12.34"), Ok(Name::Ignored));
        assert_eq!(parse("a/.wh..wh.aufs"), Ok(Name::Ignored));
        assert_eq!(parse_name(&[]), Ok(Name::Plain));
    }

    #[test]
    fn whiteouts_of_no_name_are_refused() {
        for bad in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.a/b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_have_a_limit_and_the_lowest_layer_needs_none() {
        let mut layers = Layers::default();
        let fill = |layers: &mut Layers| (0..=PLACES_MAX as u64).for_each(|n| layers.add(Place::of(n)));
        layers.begin();
        fill(&mut layers);
        assert_eq!(layers.places().unwrap().len(), 0);
        layers.begin();
        fill(&mut layers);
        assert!(layers.places().is_err());
        layers.begin();
        layers.add(Place::of(1));
        assert_eq!(layers.places().unwrap().len(), 1);
    }
}
