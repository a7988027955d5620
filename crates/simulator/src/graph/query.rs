//! The query options that the calls use: `$select`, `$top` and paging.

use super::error::GraphError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// How many items a page has when the caller does not say.
const PAGE_SIZE: usize = 100;
/// The most that `$top` may ask for.
const LARGEST_PAGE: usize = 999;

/// Parsed query options.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    select: Option<Vec<String>>,
    top: Option<usize>,
    skip: usize,
}

impl Query {
    pub(super) fn parse(query: &str) -> Result<Self, GraphError> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "$select" => {
                    let names = value.split(',').map(str::trim).filter(|n| !n.is_empty());
                    parsed.select = Some(names.map(str::to_owned).collect());
                }
                "$top" => {
                    let top = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=LARGEST_PAGE).contains(n));
                    parsed.top = Some(top.ok_or_else(|| {
                        GraphError::bad_request(format!("Invalid page size specified: '{value}'."))
                    })?);
                }
                "$skiptoken" => {
                    parsed.skip = skip_of(&value).ok_or_else(|| {
                        GraphError::bad_request("The $skiptoken is not one of this list.")
                    })?;
                }
                other if other.starts_with('$') => {
                    return Err(GraphError::bad_request(format!(
                        "The query option '{other}' is not supported here."
                    )));
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// Only the selected members. Graph refuses names that the type does not have.
    pub(super) fn select(&self, type_name: &str, object: Value) -> Result<Value, GraphError> {
        let (Some(names), Value::Object(mut members)) = (&self.select, object.clone()) else {
            return Ok(object);
        };
        let mut selected = Map::new();
        for name in names {
            let Some(value) = members.remove(name) else {
                if selected.contains_key(name) {
                    continue;
                }
                return Err(GraphError::bad_request(format!(
                    "Could not find a property named '{name}' on type '{type_name}'."
                )));
            };
            selected.insert(name.clone(), value);
        }
        Ok(Value::Object(selected))
    }

    /// The first items of a list that has no further pages.
    pub(super) fn first(&self, mut items: Vec<Value>) -> Vec<Value> {
        items.truncate(self.top.unwrap_or(items.len()));
        items
    }

    /// One page, and the query of the next link when there is more.
    pub(super) fn page(&self, items: Vec<Value>) -> (Vec<Value>, Option<String>) {
        let size = self.top.unwrap_or(PAGE_SIZE);
        let total = items.len();
        let page: Vec<Value> = items.into_iter().skip(self.skip).take(size).collect();
        let end = self.skip + page.len();
        let next = (end < total && !page.is_empty()).then(|| self.query_from(end));
        (page, next)
    }

    /// The query of the next link of a list that never ends.
    pub(super) fn next_without_end(&self) -> String {
        self.query_from(self.skip + 1)
    }

    /// The query of the link to this very page.
    pub(super) fn again(&self) -> String {
        self.query_from(self.skip)
    }

    fn query_from(&self, skip: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(select) = &self.select {
            query.append_pair("$select", &select.join(","));
        }
        if let Some(top) = self.top {
            query.append_pair("$top", &top.to_string());
        }
        query.append_pair(
            "$skiptoken",
            &URL_SAFE_NO_PAD.encode(format!("from:{skip}")),
        );
        query.finish()
    }
}

fn skip_of(token: &str) -> Option<usize> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_prefix("from:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_join_to_the_whole_list_and_keep_the_other_options() {
        let items: Vec<Value> = (0..7).map(|n| json!({"id": n})).collect();
        let mut query = Query::parse("$top=3&$select=id").unwrap();
        let mut read = Vec::new();
        let mut pages = 0;
        loop {
            let (page, next) = query.page(items.clone());
            read.extend(page);
            pages += 1;
            let Some(next) = next else { break };
            query = Query::parse(&next).unwrap();
            assert_eq!(query.top, Some(3));
            assert_eq!(query.select, Some(vec!["id".to_owned()]));
        }
        assert_eq!((read, pages), (items, 3));
    }

    #[test]
    fn a_list_of_exactly_one_page_has_no_next_link() {
        let items = vec![json!(1); PAGE_SIZE];
        assert_eq!(Query::default().page(items).1, None);
    }

    #[test]
    fn select_takes_what_is_named_and_refuses_what_does_not_exist() {
        let object = json!({"id": 1, "name": 2, "more": 3});
        let query = Query::parse("%24select=id,%20more").unwrap();
        assert_eq!(
            query.select("t", object.clone()).unwrap(),
            json!({"id": 1, "more": 3})
        );
        assert!(
            Query::parse("$select=nothing")
                .unwrap()
                .select("t", object)
                .is_err()
        );
    }

    #[test]
    fn bad_options_are_refused() {
        for query in [
            "$top=0",
            "$top=1000",
            "$top=x",
            "$skiptoken=%C3%A4",
            "$count=true",
        ] {
            assert!(Query::parse(query).is_err(), "{query}");
        }
        assert_eq!(Query::parse("api-version=1").unwrap(), Query::default());
    }
}
