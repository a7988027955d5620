//! Pages of a list: rows, and the path of the next page.

use serde::Serialize;
use utoipa::ToSchema;

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Path of the next page; null on the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Of one row more than a page has: it tells whether there is a next one.
    pub fn of(mut rows: Vec<T>, limit: u32, next: impl Fn(&T) -> String) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(next);
        Self { items: rows, next }
    }

    /// The same page of what its rows are shown as.
    pub fn map<U>(self, shown: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(shown).collect(),
            next: self.next,
        }
    }
}
