//! What a registry asks for before it lets us in.
//!
//! Source: RFC 9110, 11.6.1 (`WWW-Authenticate`); the Docker registry's "Token Authentication Specification".

/// How to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a token, which `realm` gives.
    Bearer { realm: String, service: Option<String> },
    /// With user name and password.
    Basic,
}

/// The way we know among those a server offers, one a header; a token comes before a password.
pub(super) fn parse_challenges(headers: &[String]) -> Option<Challenge> {
    let mut found: Vec<Challenge> = headers.iter().filter_map(|header| parse_challenge(header)).collect();
    found.sort_by_key(|challenge| *challenge == Challenge::Basic);
    found.into_iter().next()
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let text = text.trim();
    let (scheme, parameters) = text.split_once(' ').unwrap_or((text, ""));
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => {
            let parameters = parse_parameters(parameters);
            let get = |wanted: &str| Some(parameters.iter().find(|(name, _)| name == wanted)?.1.clone());
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service") })
        }
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

/// `name=value, name="value with \" in it"`; ends at the first that is neither.
fn parse_parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some((name, tail)) = rest.split_once('=') {
        let (value, tail) = match tail.strip_prefix('"') {
            Some(quoted) => match unquote(quoted) {
                Some(found) => found,
                None => break,
            },
            None => {
                let end = tail.find(',').unwrap_or(tail.len());
                let (value, tail) = tail.split_at(end);
                (value.trim().to_owned(), tail)
            }
        };
        parameters.push((name.trim_matches([' ', ',', '\t']).to_ascii_lowercase(), value));
        rest = tail;
    }
    parameters
}

/// Up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(letters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(headers: &[&str]) -> Option<Challenge> {
        parse_challenges(&headers.iter().map(|&header| header.to_owned()).collect::<Vec<_>>())
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_are_understood() {
        let docker =
            r#"Bearer realm="https://10.0.0.1/token",service="registry, \"x\"",scope="repository:a:pull,push""#;
        assert_eq!(parse(&[docker]), bearer("https://10.0.0.1/token", Some("registry, \"x\"")));
        assert_eq!(parse(&["bearer Service=x , REALM=https://10.0.0.1/t"]), bearer("https://10.0.0.1/t", Some("x")));
        assert_eq!(parse(&["Basic realm=\"Registry Realm\""]), Some(Challenge::Basic));
        assert_eq!(parse(&["Basic", "Digest x=y", "Bearer realm=r"]), bearer("r", None));
        for odd in ["", "Negotiate", "Bearer", "Bearer realm=\"open", "Bearer service=x"] {
            assert_eq!(parse(&[odd]), None, "{odd}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = parse(&[&text]);
            let _ = parse(&[&format!("Bearer realm=\"{text}")]);
        }
    }
}
