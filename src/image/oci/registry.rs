//! An image in a registry.
//!
//! Source: OCI distribution-spec, "Pull".

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde::Deserialize;

use super::challenge::{Challenge, parse_challenges};
use super::error::OciError;
use super::manifest::{ACCEPTED, DOCUMENT_MAX_BYTES};
use super::reference::{Login, RegistryPlace, shown_text};
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::http::{Answer, Small, fetch_small};
use crate::image::retry::Retry;

const TOKEN_ANSWER_MAX_BYTES: u64 = 256 << 10;

/// One image's part of a registry, and what lets us in there.
pub(in crate::image) struct Registry {
    pub(super) client: Client,
    place: RegistryPlace,
    pub(super) retry: Retry,
    /// Never held while waiting.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    pub(super) fn new(client: Client, place: RegistryPlace, retry: Retry) -> Self {
        Self { client, place, retry, authorization: Mutex::new(None) }
    }

    /// What is sent along with each request; none before the registry asked.
    pub(in crate::image) fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does what the registry asks for: fetches a token, or sends the password from now on.
    pub(in crate::image) async fn authorize(&self, challenges: &[String]) -> Result<(), ImageError> {
        let value = match parse_challenges(challenges) {
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.fetch_token(&realm, service.as_deref()).await?;
                format!("Bearer {token}")
            }
            Some(Challenge::Basic) => match &self.place.login {
                Some(login) => login.basic(),
                None => return Err(self.denied("a password", "oci://USER:PASSWORD@… says one")),
            },
            None => return Err(self.denied("something unknown", "only tokens and passwords are known")),
        };
        let value = sensitive(&value).map_err(|reason| self.denied("a token", &reason))?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// The manifest or index of that tag or digest.
    pub(super) async fn fetch_manifest(&self, reference: &str) -> Result<Vec<u8>, ImageError> {
        let url = self.url("manifests", reference)?;
        self.fetch(&url, &format!("{}:{reference}", self.place.repository), ACCEPTED).await
    }

    /// A small blob: an image's configuration.
    pub(super) async fn fetch_blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let url = self.blob_url(digest)?;
        self.fetch(&url, &format!("blob {digest} of {}", self.place.repository), "*/*").await
    }

    pub(super) fn blob_url(&self, digest: &Digest) -> Result<Url, ImageError> {
        self.url("blobs", &digest.to_string())
    }

    fn url(&self, kind: &str, name: &str) -> Result<Url, ImageError> {
        let path = format!("/v2/{}/{kind}/{name}", self.place.repository);
        self.place.base.join(&path).map_err(|err| ImageError::Source { text: path, reason: err.to_string() })
    }

    async fn fetch(&self, url: &Url, what: &str, accept: &'static str) -> Result<Vec<u8>, ImageError> {
        let mut asked = false;
        loop {
            let small = Small { url, accept, authorization: self.authorization(), limit: DOCUMENT_MAX_BYTES };
            match fetch_small(&self.client, &small, self.retry).await? {
                Answer::Content(content) => return Ok(content),
                Answer::TooLarge => {
                    return Err(self.fault(OciError::TooLarge { what: what.to_owned(), limit: DOCUMENT_MAX_BYTES }));
                }
                Answer::Missing => {
                    return Err(self.fault(OciError::Missing { registry: self.place.host(), what: what.to_owned() }));
                }
                Answer::Challenge(challenges) if !asked => self.authorize(&challenges).await?,
                Answer::Challenge(_) => {
                    return Err(self.denied("a login", "it answers 401 to what we have"));
                }
            }
            asked = true;
        }
    }

    async fn fetch_token(&self, realm: &str, service: Option<&str>) -> Result<String, ImageError> {
        let shown = shown_text(realm);
        let denied = |reason: &str| self.denied(&format!("a token of {shown}"), reason);
        let mut url = Url::parse(realm).map_err(|_| denied("it is no URL"))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && self.place.is_plain()) {
            return Err(denied("passwords and tokens go by https, as this registry does"));
        }
        let scope = format!("repository:{}:pull", self.place.repository);
        {
            // not the scope it asks for: no more than reading this image
            let mut query = url.query_pairs_mut();
            service.map(|service| query.append_pair("service", service));
            query.append_pair("scope", &scope);
        }
        let login = self.place.login.as_ref().map(|login| sensitive(&login.basic())).transpose();
        let authorization = login.map_err(|reason| denied(&reason))?;
        let small = Small { url: &url, accept: "application/json", authorization, limit: TOKEN_ANSWER_MAX_BYTES };
        match fetch_small(&self.client, &small, self.retry).await? {
            Answer::Content(content) => {
                // the answer holds secrets: nothing of it goes into an error
                let answer: TokenAnswer =
                    serde_json::from_slice(&content).map_err(|_| denied("its answer is not understood"))?;
                let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
                token.ok_or_else(|| denied("it gave none"))
            }
            Answer::TooLarge => Err(denied("its answer is too long")),
            Answer::Missing => Err(denied("it answered 404")),
            Answer::Challenge(_) => Err(denied(match self.place.login {
                Some(_) => "it does not take the password",
                None => "it wants a password; oci://USER:PASSWORD@… says one",
            })),
        }
    }

    fn denied(&self, asked: &str, reason: &str) -> ImageError {
        let (registry, asked, reason) = (self.place.host(), asked.to_owned(), reason.to_owned());
        self.fault(OciError::Denied { registry, asked, reason })
    }

    fn fault(&self, source: OciError) -> ImageError {
        ImageError::Oci { image: format!("{}/{}", self.place.host(), self.place.repository), source }
    }
}

impl Login {
    fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// A header that is not printed.
fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "it is no text for a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::oci::reference::{OciReference, Place};

    fn registry(reference: &str) -> Registry {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = match OciReference::parse(reference).unwrap().unwrap().place {
            Place::Registry(place) => place,
            Place::Directory(_) | Place::Archive(_) => panic!("no registry"),
        };
        Registry::new(Client::builder().no_proxy().build().unwrap(), place, Retry::default())
    }

    fn said(reference: &str, challenge: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(registry(reference).authorize(&[challenge.to_owned()])).unwrap_err();
        crate::causes::with_causes(&refused)
    }

    #[test]
    fn a_password_never_goes_by_plain_http_where_the_registry_does_not() {
        let text = said("oci://robot:s3cret@10.0.0.1/x", "Bearer realm=\"http://10.0.0.1/token?key=k3y\"");
        assert!(text.contains("http://10.0.0.1/token") && text.contains("by https"), "{text}");
        assert!(!text.contains("s3cret") && !text.contains("k3y"), "{text}");
    }

    #[test]
    fn a_way_in_that_is_not_known_is_named() {
        assert!(said("oci://10.0.0.1/x", "Negotiate").contains("only tokens and passwords"));
        assert!(said("oci://10.0.0.1/x", "Basic realm=x").contains("USER:PASSWORD"));
    }

    #[test]
    fn urls_stay_below_the_repository() {
        let registry = registry("oci+http://u:p@10.0.0.1:5000/os/debian");
        let url = registry.url("manifests", "12").unwrap();
        assert_eq!(url.as_str(), "http://10.0.0.1:5000/v2/os/debian/manifests/12");
        registry.authorization.lock().unwrap().replace(sensitive("Bearer x").unwrap());
        assert!(registry.authorization().unwrap().is_sensitive());
    }
}
