//! Kernel command lines as they may be shown: without what is secret.

/// Values of these are never shown.
const SECRET_KEYS: [&str; 1] = ["drophammer.token"];

/// The words, one blank between them.
pub fn masked(cmdline: &str) -> String {
    cmdline.split_ascii_whitespace().map(mask).collect::<Vec<_>>().join(" ")
}

/// A word without its secret: the whole value of a secret key, and what stands before the host of any URL.
fn mask(word: &str) -> String {
    let Some((key, value)) = word.split_once('=') else { return mask_urls(word) };
    if SECRET_KEYS.contains(&key) {
        return format!("{key}=***");
    }
    format!("{key}={}", mask_urls(value))
}

/// User name and password of `scheme://user:password@host`, as often as there is one.
fn mask_urls(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        masked.push_str(before);
        masked.push_str("://");
        let authority = after.split(['/', '?', '#', ',']).next().unwrap_or_default();
        rest = match authority.rsplit_once('@') {
            Some((secret, _)) => {
                masked.push_str("***");
                after.get(secret.len()..).unwrap_or_default()
            }
            None => after,
        };
    }
    masked + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let line = "quiet drophammer.token=SECRET1 drophammer.proxy=http://user:SECRET2@10.0.0.3:3128 drophammer.token= \
                    drophammer.mirrors=http://a/x@y,http://u:SECRET3@b/c root=UUID=1 PIXIE_API_URL=http://10.0.0.1/certs?a=b@c";
        let shown = "quiet drophammer.token=*** drophammer.proxy=http://***@10.0.0.3:3128 drophammer.token=*** \
                     drophammer.mirrors=http://a/x@y,http://***@b/c root=UUID=1 PIXIE_API_URL=http://10.0.0.1/certs?a=b@c";
        assert_eq!(masked(line), shown);
    }
}
