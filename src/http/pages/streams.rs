//! Counts the live streams of sessions and tokens.

use super::session::Visitor;
use crate::domain::TokenId;
use crate::http::HttpSettings;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// The live pages of this process: all of them, and those of each session and token.
#[derive(Debug)]
pub struct Streams {
    most: usize,
    most_of_session: usize,
    most_of_token: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of_session: HashMap<String, usize>,
    of_token: HashMap<TokenId, usize>,
}

/// The slot of one live page.
#[derive(Debug)]
pub struct StreamSlot {
    streams: Arc<Streams>,
    session: String,
    token: TokenId,
}

impl Streams {
    pub fn new(settings: &HttpSettings) -> Self {
        Self {
            most: settings.max_streams(),
            most_of_session: settings.max_streams_per_session(),
            most_of_token: settings.max_streams_per_token(),
            open: Mutex::default(),
        }
    }

    /// `None`: there is none left for this session, for its token, or at all.
    pub fn take(self: &Arc<Self>, visitor: &Visitor) -> Option<StreamSlot> {
        let mut open = self.open.lock();
        let count = |of: Option<&usize>| of.copied().unwrap_or_default();
        if open.all >= self.most
            || count(open.of_session.get(&visitor.session)) >= self.most_of_session
            || count(open.of_token.get(&visitor.token)) >= self.most_of_token
        {
            return None;
        }
        open.all += 1;
        *open.of_session.entry(visitor.session.clone()).or_default() += 1;
        *open.of_token.entry(visitor.token).or_default() += 1;
        Some(StreamSlot {
            streams: Arc::clone(self),
            session: visitor.session.clone(),
            token: visitor.token,
        })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        open.all -= 1;
        one_less(&mut open.of_session, &self.session);
        one_less(&mut open.of_token, &self.token);
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
