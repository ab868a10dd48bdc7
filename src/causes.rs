//! An error together with what caused it, for one line of a log.

use std::error::Error;

/// The error's text, then each cause behind a colon. What the text says already is not said again: many errors print
/// their cause themselves.
pub fn with_causes(error: &dyn Error) -> String {
    add_causes(error.to_string(), error)
}

/// `text`, which stands for the error, and the error's causes behind it.
pub fn add_causes(mut text: String, error: &dyn Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|inner| inner as &dyn Error)
        }
    }

    #[test]
    fn causes_follow_in_order_and_none_is_told_twice() {
        let error = Layer("asking: refused", Some(Box::new(Layer("refused", Some(Box::new(Layer("no route", None)))))));
        assert_eq!(with_causes(&error), "asking: refused: no route");
    }
}
