//! Where an image comes from: an HTTP(S) URL, a file, or an OCI image somewhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

use super::error::ImageError;
use super::oci::OciReference;

/// An image's place. Its `Display` leaves out user name, password and query, which may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// `http` or `https`.
    Url(Url),
    File(PathBuf),
    /// An image in layers.
    Oci(OciReference),
}

impl Source {
    /// The same place with `suffix` (`.sha256`) at the end of the path; a query stays where it is. An OCI image has
    /// nothing beside it.
    pub fn beside(&self, suffix: &str) -> Self {
        match self {
            Self::Url(url) => {
                let mut url = url.clone();
                let path = format!("{}{suffix}", url.path());
                url.set_path(&path);
                Self::Url(url)
            }
            Self::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                Self::File(PathBuf::from(name))
            }
            Self::Oci(reference) => Self::Oci(reference.clone()),
        }
    }

    /// Last component of the path, as a checksum file names it. Empty if there is none.
    pub fn file_name(&self) -> String {
        match self {
            Self::Url(url) => {
                percent_decoded(url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default())
            }
            Self::File(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            Self::Oci(_) => String::new(),
        }
    }
}

impl FromStr for Source {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refused = |reason: String| ImageError::Source { text: without_login(text), reason };
        if let Some(reference) = OciReference::parse(text) {
            return reference.map(Self::Oci).map_err(refused);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(refused("it is empty".to_owned()));
            }
            return Ok(Self::File(PathBuf::from(text)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Url::parse(text).map(Self::Url).map_err(|err| refused(err.to_string())),
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::File(Path::new(&percent_decoded(path)).to_owned())),
                _ => Err(refused("a file URL needs an absolute path".to_owned())),
            },
            other => {
                Err(refused(format!("scheme {other:?} is not supported, only http, https, file, oci and oci+http")))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&shown(url)),
            Self::File(path) => path.display().fmt(f),
            Self::Oci(reference) => reference.fmt(f),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// The URL for people: without user name, password, query and fragment.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{}://{}{port}{}{query}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// A text that is no URL, for people: what may be a password is left out.
fn without_login(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => text.to_owned(),
    }
}

pub(super) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        match escaped.and_then(|digits| hex::decode(digits).ok()) {
            Some(decoded) => {
                bytes.extend(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn checksum_file_keeps_the_query_aside() {
        let beside = source("http://10.0.0.1:8080/debian/img.tar.zst?token=secret&x=1").beside(".sha256");
        let Source::Url(url) = &beside else { panic!("{beside}") };
        assert_eq!(url.as_str(), "http://10.0.0.1:8080/debian/img.tar.zst.sha256?token=secret&x=1");
        assert_eq!(source("/srv/img.tar").beside(".md5"), Source::File("/srv/img.tar.md5".into()));
    }

    #[test]
    fn shows_no_secrets() {
        let shown = format!("{:?}", source("https://user:pass@10.0.0.1/a/img.tar?token=secret#x"));
        assert_eq!(shown, "Source(https://10.0.0.1/a/img.tar?…)");
    }

    #[test]
    fn file_urls_and_paths_are_files() {
        assert_eq!(source("file:///srv/a%20b.tar"), Source::File("/srv/a b.tar".into()));
        assert_eq!(source("file://localhost/srv/a"), Source::File("/srv/a".into()));
        assert_eq!(source("img.tar"), Source::File("img.tar".into()));
        assert_eq!(source("http://10.0.0.1/x/a%20b.tar?q=1").file_name(), "a b.tar");
    }

    #[test]
    fn refuses_other_schemes_by_name() {
        let err = "docker://10.0.0.1/a".parse::<Source>().unwrap_err().to_string();
        assert!(err.contains("docker"), "{err}");
        assert!("file://relative/path".parse::<Source>().is_err());
        let err = "oci://robot:s3cret/x@10.0.0.1/Bad".parse::<Source>().unwrap_err().to_string();
        assert!(err.starts_with("oci://…@10.0.0.1/Bad is no image source") && !err.contains("s3cret"), "{err}");
    }
}
