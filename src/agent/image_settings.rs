//! Where images come from and how they are trusted: what the kernel command line says, or else MetalConfig.
//!
//! Where trust is concerned, and the way a site wants its traffic to go, a value that can't be understood is an error,
//! and nothing is installed. Another one is left out with a warning.

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;

use crate::api::image_key::ImageKey;
use crate::api::image_places::{HttpProxy, Mirror, ProxyRule};
use crate::api::metal_config::MetalConfig;
use crate::api::rest::Image;
use crate::config::cmdline::Cmdline;
use crate::image::{DigestRule, Source, Verify};

/// What the operator wants of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageSettings {
    /// Asked in this order, before the image's own URL.
    pub mirrors: Vec<Mirror>,
    /// When there is any, an image must be signed with one.
    pub keys: Vec<ImageKey>,
    pub proxy: Option<ProxyRule>,
    /// An image without digest is installed, with a warning.
    pub digest_is_optional: bool,
    pub verify: Verify,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

impl ImageSettings {
    /// A key of the command line replaces MetalConfig's.
    pub(crate) fn parse(cmdline: &Cmdline, config: &MetalConfig) -> Result<Self> {
        let mut warnings = Vec::new();
        let mirrors = match cmdline.mirrors() {
            Some(list) => parse_mirrors("drophammer.mirrors", &list, &mut warnings),
            None => parse_mirrors("image_mirrors of MetalConfig", &config.image_mirrors, &mut warnings),
        };
        let keys = match cmdline.image_keys() {
            Some(list) => {
                // somebody wanted signatures: no key must not mean no check
                ensure!(!list.is_empty(), "drophammer.image_key= has no key");
                parse_keys("drophammer.image_key", &list)?
            }
            None => parse_keys("image_keys of MetalConfig", &config.image_keys)?,
        };
        let proxy = match cmdline.proxy() {
            Some(text) => parse_proxy("drophammer.proxy", text)?,
            None => parse_proxy("http_proxy of MetalConfig", config.http_proxy.as_deref().unwrap_or_default())?,
        };
        let except = cmdline.no_proxy().unwrap_or_else(|| config.no_proxy.clone());
        let digest = match cmdline.image_digest() {
            Some(word) => ("drophammer.image_digest", word),
            None => ("image_digest of MetalConfig", config.image_digest.as_deref().unwrap_or("required")),
        };
        let digest_is_optional = match digest {
            (_, "required") => false,
            (_, "optional") => true,
            (key, word) => {
                warnings.push(format!("{key}: expected required or optional, found {word:?}; a digest is required"));
                false
            }
        };
        let proxy = proxy.map(|proxy| ProxyRule { proxy, except });
        let verify = match cmdline.image_verify() {
            None | Some("sample") => Verify::Sample,
            Some("full") => Verify::Full,
            Some(word) => {
                let key = "drophammer.image_verify";
                warnings.push(format!("{key}: expected sample or full, found {word:?}; all is read back"));
                Verify::Full
            }
        };
        Ok(Self { mirrors, keys, proxy, digest_is_optional, verify, warnings })
    }

    /// Where to ask for the image, in order: at the mirrors, and last at its own URL.
    pub(crate) fn places(&self, image: &Image) -> Result<(Source, Vec<Url>)> {
        let source: Source = image.url.parse().context("allocation.image.url")?;
        let Source::Url(origin) = &source else { return Ok((source, Vec::new())) };
        let mut places = self.mirrors.iter().map(|mirror| mirror.place_of(origin)).chain([origin.clone()]);
        let first = places.next().map_or(source.clone(), Source::Url);
        Ok((first, places.collect()))
    }

    /// What the image must match.
    pub(crate) fn digest_rule(&self, image: &Image) -> Result<DigestRule> {
        Ok(match &image.digest {
            Some(text) => DigestRule::Given(text.parse().with_context(|| format!("allocation.image.digest {text:?}"))?),
            None if self.digest_is_optional => DigestRule::AllowMissing,
            None => DigestRule::Sidecar,
        })
    }
}

fn parse_mirrors(key: &str, list: &[String], warnings: &mut Vec<String>) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for (index, text) in list.iter().enumerate() {
        match Mirror::parse(text) {
            Ok(mirror) => mirrors.push(mirror),
            Err(error) => warnings.push(format!("{key}[{index}]: {error}; going on without")),
        }
    }
    mirrors
}

fn parse_keys(key: &str, list: &[String]) -> Result<Vec<ImageKey>> {
    let parsed = list.iter().enumerate().map(|(index, text)| {
        let parsed: Result<ImageKey, _> = text.parse();
        parsed.with_context(|| format!("{key}[{index}]"))
    });
    parsed.collect()
}

/// An empty text is none.
fn parse_proxy(key: &str, text: &str) -> Result<Option<HttpProxy>> {
    if text.is_empty() {
        return Ok(None);
    }
    match HttpProxy::parse(text) {
        Ok(proxy) => Ok(Some(proxy)),
        Err(error) => bail!("{key}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "RWS7czYRT8p5jUqJcRL+Z+BHnjeXhuD5nllelSrbEqUggTSMeiO70FS7";
    const OTHER_KEY: &str = "RWQ8o+IlQV+jburG5K/m3XWuvJ5Hxl+MLT1NjgXPP+qx+FzYfmYRGO3N";

    fn parse(cmdline: &str, config: &str) -> Result<ImageSettings> {
        ImageSettings::parse(&Cmdline::parse(cmdline), &serde_json::from_str(config).unwrap())
    }

    fn image(url: &str) -> Image {
        Image { url: url.into(), ..Image::default() }
    }

    #[test]
    fn without_a_word_there_is_nothing_and_a_digest_is_required() {
        for config in ["{}", r#"{"image_mirrors":null,"image_keys":null,"http_proxy":null,"image_digest":null}"#] {
            let settings = parse("quiet", config).unwrap();
            assert_eq!(settings, ImageSettings::default());
            assert_eq!(settings.digest_rule(&image("http://10.0.0.1/img")).unwrap(), DigestRule::Sidecar);
        }
    }

    #[test]
    fn all_is_read_back_where_that_is_wanted_or_might_be() {
        let verify = |word: &str| parse(word, "{}").unwrap();
        assert_eq!(verify("drophammer.image_verify=full").verify, Verify::Full);
        assert_eq!(verify("drophammer.image_verify=sample").verify, Verify::Sample);
        let odd = verify("drophammer.image_verify=all");
        assert_eq!((odd.verify, odd.warnings.len()), (Verify::Full, 1));
    }

    #[test]
    fn mirrors_come_before_the_images_own_url() {
        let settings =
            parse("drophammer.mirrors=http://10.0.0.5/m,https://[fd00::5]", r#"{"image_mirrors":["http://10.9.9.9"]}"#)
                .unwrap();
        let (first, rest) = settings.places(&image("https://images.example/debian/img.tar.zst")).unwrap();
        assert_eq!(first.to_string(), "http://10.0.0.5/m/debian/img.tar.zst");
        let rest: Vec<String> = rest.iter().map(Url::to_string).collect();
        assert_eq!(rest, ["https://[fd00::5]/debian/img.tar.zst", "https://images.example/debian/img.tar.zst"]);
        let (first, rest) = parse("", "{}").unwrap().places(&image("http://10.0.0.1/img")).unwrap();
        assert_eq!((first.to_string().as_str(), rest), ("http://10.0.0.1/img", vec![]));
    }

    #[test]
    fn a_wrong_mirror_is_left_out_with_a_warning() {
        let settings = parse("drophammer.mirrors=10.0.0.5,http://10.0.0.6", "{}").unwrap();
        assert_eq!(settings.mirrors.len(), 1);
        assert!(settings.warnings[0].starts_with("drophammer.mirrors[0]: expected http://"), "{:?}", settings.warnings);
    }

    #[test]
    fn keys_of_the_command_line_replace_the_others() {
        let config = format!(r#"{{"image_keys":["{OTHER_KEY}"]}}"#);
        assert_eq!(parse("", &config).unwrap().keys[0].to_string(), OTHER_KEY);
        let settings = parse(&format!("drophammer.image_key={KEY}"), &config).unwrap();
        assert_eq!((settings.keys.len(), settings.keys[0].to_string().as_str()), (1, KEY));
    }

    #[test]
    fn a_key_that_is_none_is_an_error() {
        for (cmdline, config, expected) in [
            ("drophammer.image_key=", "{}", "drophammer.image_key= has no key"),
            ("drophammer.image_key=RWx", "{}", "drophammer.image_key[0]"),
            ("", r#"{"image_keys":[""]}"#, "image_keys of MetalConfig[0]"),
            ("", &format!(r#"{{"image_keys":["{KEY}","{}"]}}"#, &KEY[..40]), "image_keys of MetalConfig[1]"),
        ] {
            let error = format!("{:#}", parse(cmdline, config).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_wrong_proxy_is_an_error_that_keeps_its_password() {
        let error = parse("drophammer.proxy=socks5://user:secret@10.0.0.3", "{}").unwrap_err().to_string();
        assert!(error.starts_with("drophammer.proxy: expected") && !error.contains("secret"), "{error}");
        let settings = parse(
            "drophammer.no_proxy=10.0.0.0/8,lab.example",
            r#"{"http_proxy":"http://user:secret@10.0.0.3:3128","no_proxy":["x"]}"#,
        )
        .unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
        assert_eq!(settings.proxy.unwrap().except, ["10.0.0.0/8", "lab.example"]);
    }

    #[test]
    fn only_the_word_optional_lets_a_digest_be_missing() {
        let rule = |cmdline: &str, config: &str| {
            let settings = parse(cmdline, config).unwrap();
            (settings.digest_rule(&image("http://10.0.0.1/img")).unwrap(), settings.warnings.len())
        };
        assert_eq!(rule("drophammer.image_digest=optional", "{}"), (DigestRule::AllowMissing, 0));
        assert_eq!(rule("", r#"{"image_digest":"optional"}"#), (DigestRule::AllowMissing, 0));
        assert_eq!(
            rule("drophammer.image_digest=required", r#"{"image_digest":"optional"}"#),
            (DigestRule::Sidecar, 0)
        );
        assert_eq!(rule("drophammer.image_digest=no", "{}"), (DigestRule::Sidecar, 1));
        let given = Image { digest: Some(format!("md5:{}", "0".repeat(32))), ..image("http://10.0.0.1/img") };
        let settings = parse("drophammer.image_digest=optional", "{}").unwrap();
        assert!(matches!(settings.digest_rule(&given).unwrap(), DigestRule::Given(_)));
    }
}
