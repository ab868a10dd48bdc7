//! Where images come from besides their own URL: mirrors, and a proxy on the way.

use std::fmt;

use reqwest::Url;
use serde::Deserialize;

/// Not what an operator may give as a place. The text itself is left out: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("expected http://HOST[:PORT][/PATH] or https://…, found {0}")]
    NoUrl(String),
    #[error("expected a URL without {0}")]
    Unexpected(&'static str),
}

fn parse_http_url(text: &str) -> Result<Url, PlaceError> {
    let text = text.trim();
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(PlaceError::NoUrl("a text without http://".to_owned()));
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(PlaceError::NoUrl(format!("a URL that begins with {scheme}://")));
    }
    let url = Url::parse(text).map_err(|error| PlaceError::NoUrl(format!("a wrong URL ({error})")))?;
    match (url.query(), url.fragment()) {
        (Some(_), _) => Err(PlaceError::Unexpected("a query (?…)")),
        (_, Some(_)) => Err(PlaceError::Unexpected("a fragment (#…)")),
        (None, None) => Ok(url),
    }
}

/// A server that has the same images below a path of its own.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mirror(Url);

impl Mirror {
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        parse_http_url(text).map(Self)
    }

    /// Where the mirror has the image of that URL: the mirror's scheme, host, port and path, then the image's path.
    ///
    /// `http://10.0.0.5/mirror` has `https://images.example/debian/img.tar.zst` at
    /// `http://10.0.0.5/mirror/debian/img.tar.zst`. User name, password and query of the image's URL are for its own
    /// server, and not passed on.
    pub fn place_of(&self, image: &Url) -> Url {
        let mut place = self.0.clone();
        place.set_path(&format!("{}{}", self.0.path().trim_end_matches('/'), image.path()));
        place
    }

    /// The whole URL, a password included.
    pub fn to_secret_string(&self) -> String {
        self.0.to_string()
    }
}

/// Without user name and password.
impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mirror({})", without_user(&self.0))
    }
}

impl TryFrom<String> for Mirror {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        Self::parse(&text)
    }
}

/// An HTTP proxy; its URL may hold a user name and a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HttpProxy(Url);

impl HttpProxy {
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        parse_http_url(text).map(Self)
    }

    /// The whole URL, a password included.
    pub fn secret_url(&self) -> &Url {
        &self.0
    }
}

/// Without user name and password.
impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_user(&self.0))
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

impl TryFrom<String> for HttpProxy {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        Self::parse(&text)
    }
}

/// The way to servers: by a proxy, but for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRule {
    pub proxy: HttpProxy,
    /// Hosts, domains (with all below them) and networks in CIDR form that are reached without it.
    pub except: Vec<String>,
}

fn without_user(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_has_the_images_path_below_its_own() {
        let image = Url::parse("https://user:pass@images.example:8443/debian/img%20a.tar.zst?token=secret").unwrap();
        let place = |base: &str| Mirror::parse(base).unwrap().place_of(&image).to_string();
        assert_eq!(place("http://10.0.0.5/mirror"), "http://10.0.0.5/mirror/debian/img%20a.tar.zst");
        assert_eq!(place("http://10.0.0.5:8080"), "http://10.0.0.5:8080/debian/img%20a.tar.zst");
        assert_eq!(place("https://[fd00::5]/a/b/"), "https://[fd00::5]/a/b/debian/img%20a.tar.zst");
    }

    #[test]
    fn what_is_no_place_is_refused_without_repeating_it() {
        for text in
            ["", "10.0.0.5:3128", "socks5://user:secret@10.0.0.5", "http://", "http://user:secret@:x", "/srv/images"]
        {
            let error = HttpProxy::parse(text).unwrap_err();
            assert!(matches!(error, PlaceError::NoUrl(_)), "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(Mirror::parse("http://10.0.0.5/?a=1").unwrap_err(), PlaceError::Unexpected("a query (?…)"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let proxy = HttpProxy::parse("http://user:secret@proxy.lab.example:3128").unwrap();
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "http://proxy.lab.example:3128/ HttpProxy(http://proxy.lab.example:3128/)"
        );
        let mirror = Mirror::parse("http://user:secret@10.0.0.5/").unwrap();
        assert!(!format!("{mirror:?}").contains("secret"));
    }
}
