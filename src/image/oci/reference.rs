//! Names of OCI images, spelt as skopeo and podman do where they have a word for it.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

use crate::image::digest::{Algorithm, Digest};
use crate::image::source::{percent_decoded, shown};

/// An OCI image. Its `Display` and `Debug` leave out user name and password.
///
/// - `oci:DIR[:TAG][@DIGEST]`: an image layout in a directory
/// - `oci-archive:FILE[:TAG][@DIGEST]`: an image layout in an uncompressed tar file
/// - `oci://[USER:PASSWORD@]HOST[:PORT]/NAME[:TAG][@DIGEST]`: in a registry, by HTTPS
/// - `oci+http://…`: the same by plain HTTP
#[derive(Clone, PartialEq, Eq)]
pub struct OciReference {
    pub(super) place: Place,
    pub(super) tag: Option<String>,
    /// Of the manifest, or of the index that leads to it.
    pub(super) digest: Option<Digest>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    Directory(PathBuf),
    Archive(PathBuf),
    Registry(RegistryPlace),
}

/// Where a registry has an image.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RegistryPlace {
    /// Scheme, host and port; no user, no path.
    pub(super) base: Url,
    pub(super) repository: String,
    pub(super) login: Option<Login>,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Used where nothing is said, as everybody does.
pub(super) const DEFAULT_TAG: &str = "latest";

const TAG_MAX_BYTES: usize = 128;
const NAME_MAX_BYTES: usize = 255;

impl OciReference {
    /// `None` if the text names no OCI image at all; else the image, or what is wrong with its name.
    pub(in crate::image) fn parse(text: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = text.split_once(':')?;
        match (scheme.to_ascii_lowercase().as_str(), rest.strip_prefix("//")) {
            ("oci", Some(rest)) => Some(Self::parse_registry("https", rest)),
            ("oci+http", Some(rest)) => Some(Self::parse_registry("http", rest)),
            ("oci", None) => Some(Self::parse_layout(rest, Place::Directory)),
            ("oci-archive", _) => Some(Self::parse_layout(rest, Place::Archive)),
            _ => None,
        }
    }

    fn parse_layout(text: &str, place: fn(PathBuf) -> Place) -> Result<Self, String> {
        let (text, digest) = split_digest(text)?;
        let (path, tag) = text.split_once(':').map_or((text, None), |(path, tag)| (path, Some(tag)));
        if path.is_empty() {
            return Err("it has no path".to_owned());
        }
        if tag.is_some_and(|tag| tag.starts_with("//")) {
            return Err("an OCI archive is read from a file only: fetch it first, or push it to a registry".to_owned());
        }
        Ok(Self { place: place(PathBuf::from(path)), tag: tag.map(str::to_owned), digest })
    }

    fn parse_registry(scheme: &str, text: &str) -> Result<Self, String> {
        let (authority, path) = match text.split_once('/') {
            Some(("", _)) => return Err("it has no registry; an image in a directory is oci:DIR".to_owned()),
            Some((authority, path)) => (authority, path),
            None => return Err("it has no name behind the registry".to_owned()),
        };
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(parse_login(login)?), host),
            None => (None, authority),
        };
        let (path, digest) = split_digest(path)?;
        let (repository, tag) = path.split_once(':').map_or((path, None), |(name, tag)| (name, Some(tag)));
        check_repository(repository)?;
        tag.map_or(Ok(()), check_tag)?;
        let place = RegistryPlace { base: parse_base(scheme, host)?, repository: repository.to_owned(), login };
        Ok(Self { place: Place::Registry(place), tag: tag.map(str::to_owned), digest })
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), String> {
    let Some((before, digest)) = text.rsplit_once('@') else { return Ok((text, None)) };
    let digest: Digest = digest.parse().map_err(|err| format!("behind the @: {err}"))?;
    match digest.algorithm() {
        Algorithm::Sha256 | Algorithm::Sha512 => Ok((before, Some(digest))),
        Algorithm::Md5 | Algorithm::Blake2b => Err("behind the @: expected sha256 or sha512".to_owned()),
    }
}

/// Escapes as in a URL. The text is not repeated in errors.
fn parse_login(text: &str) -> Result<Login, String> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => {
            Ok(Login { user: percent_decoded(user), password: percent_decoded(password) })
        }
        _ => Err("expected USER:PASSWORD before the @".to_owned()),
    }
}

fn parse_base(scheme: &str, host: &str) -> Result<Url, String> {
    let bad = |reason: String| format!("registry {host:?}: {reason}");
    if host.contains(['\\', '?', '#']) {
        return Err(bad("expected HOST or HOST:PORT".to_owned()));
    }
    Url::parse(&format!("{scheme}://{host}/")).map_err(|err| bad(err.to_string()))
}

/// Source: OCI distribution-spec, "Pulling manifests".
fn check_repository(name: &str) -> Result<(), String> {
    let is_alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let is_component = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(is_alphanumeric)
            && bytes.last().is_some_and(is_alphanumeric)
            && bytes.iter().all(|byte| is_alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-'))
            && !part.contains("..")
    };
    match name.len() <= NAME_MAX_BYTES && name.split('/').all(is_component) {
        true => Ok(()),
        false => {
            Err(format!("{name:?} is no name of an image: expected a-z, 0-9 and . _ - between them, / between parts"))
        }
    }
}

/// Source: OCI distribution-spec, "Pulling manifests".
fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let good = tag.len() <= TAG_MAX_BYTES
        && tag.as_bytes().first().is_some_and(is_word)
        && tag.as_bytes().iter().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'));
    if good { Ok(()) } else { Err(format!("{tag:?} is no tag: expected letters, digits and _ . -")) }
}

impl RegistryPlace {
    /// Host and port, for people.
    pub(super) fn host(&self) -> String {
        let port = self.base.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port}", self.base.host_str().unwrap_or_default())
    }

    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Directory(path) => write!(f, "oci:{}", path.display())?,
            Place::Archive(path) => write!(f, "oci-archive:{}", path.display())?,
            Place::Registry(place) => {
                let scheme = if place.is_plain() { "oci+http" } else { "oci" };
                write!(f, "{scheme}://{}/{}", place.host(), place.repository)?;
            }
        }
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl fmt::Debug for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OciReference({self})")
    }
}

/// Of a URL that a registry sent us.
pub(super) fn shown_text(text: &str) -> String {
    Url::parse(text).map_or_else(|_| "no URL".to_owned(), |url| shown(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parse(text: &str) -> Result<OciReference, String> {
        OciReference::parse(text).expect("it names an OCI image")
    }

    #[test]
    fn references_survive_their_text_form() {
        for text in [
            "oci:/srv/image".to_owned(),
            "oci:image:12.5".to_owned(),
            format!("oci:/srv/image:example.org/debian:12@{SHA256}"),
            format!("oci-archive:/srv/image.tar@{SHA256}"),
            "oci-archive:image.tar:latest".to_owned(),
            "oci://10.0.0.1/debian".to_owned(),
            "oci://[2001:db8::1]:5000/debian".to_owned(),
            format!("oci+http://registry.example:5000/os/debian-12/base_x:12.0@{SHA256}"),
        ] {
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
        for other in ["http://10.0.0.1/a", "/srv/oci", "docker://10.0.0.1/a", "", "oci"] {
            assert!(OciReference::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_login_is_understood_and_not_shown() {
        let reference = parse("oci://robot:p%40ss%2Fw:x@10.0.0.1:5000/debian:12").unwrap();
        let Place::Registry(place) = &reference.place else { panic!("{reference}") };
        let login = place.login.as_ref().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("robot", "p@ss/w:x"));
        assert_eq!(place.base.as_str(), "https://10.0.0.1:5000/");
        assert_eq!(format!("{reference:?}"), "OciReference(oci://10.0.0.1:5000/debian:12)");
    }

    #[test]
    fn says_what_is_wrong_with_a_reference() {
        for (text, said) in [
            ("oci:", "no path"),
            ("oci:///srv/image", "oci:DIR"),
            ("oci://10.0.0.1", "no name"),
            ("oci://10.0.0.1/", "no name of an image"),
            ("oci://10.0.0.1/Debian", "no name of an image"),
            ("oci://10.0.0.1/a/../b", "no name of an image"),
            ("oci://10.0.0.1/a?x=1", "no name of an image"),
            ("oci://10.0.0.1/a:", "no tag"),
            ("oci://10.0.0.1/a:b/c", "no tag"),
            ("oci://10.0.0.1/a@sha256:00", "hexadecimal digits"),
            ("oci://10.0.0.1/a@md5:900150983cd24fb0d6963f7d28e17f72", "sha256 or sha512"),
            ("oci://user@10.0.0.1/a", "USER:PASSWORD"),
            ("oci://10.0.0.1:port/a", "port"),
            ("oci-archive:http://10.0.0.1/a.tar", "from a file only"),
        ] {
            let err = parse(text).unwrap_err();
            assert!(err.contains(said), "{text}: {err}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            for scheme in ["oci:", "oci://", "oci+http://", "oci-archive:"] {
                let _ = OciReference::parse(&format!("{scheme}{text}"));
            }
        }
    }
}
