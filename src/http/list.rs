//! Lists that are read page by page, with a filter: rows, and the path of the next page.

use super::query::QueryText;
use serde::Serialize;
use std::fmt;
use utoipa::ToSchema;

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Path of the next page; null on the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Returns the same page, with what its rows are shown as.
    pub fn map<U>(self, shown: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(shown).collect(),
            next: self.next,
        }
    }
}

/// A list, as a request asks for it.
#[derive(Clone, Debug)]
pub struct List {
    path: &'static str,
    filter: QueryText,
    /// Name of the parameter that says where the page before ended.
    cursor: &'static str,
    /// Most rows of a page.
    limit: u32,
    /// Whether `limit` is a parameter of the list.
    takes_limit: bool,
}

impl List {
    /// Creates a list whose pages have `limit` rows at most.
    pub fn new(path: &'static str, cursor: &'static str, limit: u32) -> Self {
        Self {
            path,
            filter: QueryText::default(),
            cursor,
            limit,
            takes_limit: false,
        }
    }

    /// Creates a list whose readers choose `limit`, a parameter of its own.
    pub fn with_limit(path: &'static str, cursor: &'static str, limit: u32) -> Self {
        Self {
            takes_limit: true,
            ..Self::new(path, cursor, limit)
        }
    }

    /// Adds a parameter of the filter, if it is set.
    pub fn with(mut self, name: &'static str, value: Option<impl fmt::Display>) -> Self {
        self.filter = self.filter.with(name, value);
        self
    }

    /// Returns how many rows to read: one more than a page has tells whether there is a next page.
    pub fn rows(&self) -> u32 {
        self.limit + 1
    }

    /// Returns the path of the first page.
    pub fn first(&self) -> String {
        format!("{}{}", self.path, self.filter)
    }

    /// Returns the page that begins with these rows. `cursor` says where a page ends whose last row is this one.
    pub fn page<T, C: fmt::Display>(
        &self,
        mut rows: Vec<T>,
        cursor: impl FnOnce(&T) -> C,
    ) -> Page<T> {
        let limit = self.limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| {
            let query = self
                .filter
                .clone()
                .with(self.cursor, Some(cursor(last)))
                .with("limit", self.takes_limit.then_some(self.limit));
            format!("{}{query}", self.path)
        });
        Page { items: rows, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_leads_to_the_next_one_with_the_filter() {
        let list = List::new("/things", "before", 2).with("state", Some("a b"));
        assert_eq!((list.rows(), list.first()), (3, "/things?state=a+b".into()));
        let page = list.page(vec![9, 8, 7], |last| *last);
        assert_eq!(page.items, [9, 8]);
        assert_eq!(page.next.as_deref(), Some("/things?state=a+b&before=8"));
        let list = List::with_limit("/things", "before", 2);
        let next = list.page(vec![9, 8, 7], |last| *last).next;
        assert_eq!(next.as_deref(), Some("/things?before=8&limit=2"));
        // A page that is exactly full is the last one.
        assert_eq!(list.page(vec![9, 8], |last| *last).next, None);
    }
}
