//! Query strings of links.

use std::fmt;

/// A query string of those parameters that are set.
#[derive(Clone, Debug, Default)]
pub struct QueryText(Vec<(&'static str, String)>);

impl QueryText {
    pub fn with(mut self, key: &'static str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            self.0.push((key, value.to_string()));
        }
        self
    }
}

impl fmt::Display for QueryText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (key, value) in &self.0 {
            query.append_pair(key, value);
        }
        let text = query.finish();
        if text.is_empty() {
            Ok(())
        } else {
            write!(f, "?{text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_what_is_set() {
        let none = QueryText::default().with("a", None::<i64>);
        assert_eq!(none.to_string(), "");
        let some = none.with("b", Some("x&y z")).with("c", Some(1));
        assert_eq!(some.to_string(), "?b=x%26y+z&c=1");
    }
}
