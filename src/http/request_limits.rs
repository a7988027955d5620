//! Limits that API and pages share: look-ups of tokens and sessions, concurrent requests, and the memory of answers.
//!
//! A look-up of a token that was not recently valid is first counted for the address that it comes from. A
//! request slot is taken after the whole request has arrived, and one token never takes all of them. The bytes of a
//! large answer count until its peer has taken them, so that no number of clients that do not read fills the memory.

use super::HttpSettings;
use super::body::HoldingBody;
use super::connection_slots::network;
use super::rate_limit::RateLimiter;
use crate::domain::TokenId;
use crate::ports::store::StoreError;
use axum::response::Response;
use hyper::body::Body as _;
use moka::future::Cache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Look-ups that are made at the same time.
const MAX_LOOK_UPS: usize = 2;
/// Hashes of tokens and sessions that are remembered, of each kind.
const CACHED_HASHES: u64 = 10_000;
/// Time for which a token that was valid is looked up without being counted.
const VALID_FOR: Duration = Duration::from_secs(600);
/// Time for which an invalid token is refused without a look-up. No token becomes valid again, and a new one
/// was never tried before.
const INVALID_FOR: Duration = Duration::from_secs(300);
/// Tokens with a share, before those without requests and answers are removed.
const SHARES: usize = 256;
/// Longest answer whose bytes do not count: the number of connections bounds these.
const UNCOUNTED_BYTES: u64 = 64 * 1024;
/// Longest wait of an answer, which keeps its slot, for the peers of earlier ones to read.
const UNSENT_WAIT: Duration = Duration::from_secs(2);

/// Of whom a request is: a token, or all that have none.
type Owner = Option<TokenId>;

/// What an owner may take.
#[derive(Clone, Debug)]
struct Share {
    requests: Arc<Semaphore>,
    unsent: Arc<Semaphore>,
}

impl Share {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.requests) > 1 || Arc::strong_count(&self.unsent) > 1
    }
}

/// See the module.
pub struct RequestLimits {
    in_flight: Arc<Semaphore>,
    per_token: usize,
    /// A permit for each byte.
    unsent: Arc<Semaphore>,
    unsent_per_token: u32,
    shares: Mutex<HashMap<Owner, Share>>,
    look_ups: Semaphore,
    by_address: RateLimiter<Option<IpAddr>>,
    valid: Cache<String, TokenId>,
    invalid: Cache<String, ()>,
    /// Timeout of a request, including the wait for its slot.
    pub request_timeout: Duration,
}

/// Why a token was not looked up.
#[derive(Debug)]
pub enum LookUpRefused {
    /// The address has tried too many that this process does not know; when to try again.
    TooMany(Duration),
    Store(StoreError),
}

/// The slot of a request that is being processed.
#[derive(Debug)]
pub struct RequestSlot {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    /// Of the owner, then of all.
    unsent: [Arc<Semaphore>; 2],
    unsent_per_token: u32,
}

impl RequestSlot {
    /// Ends the request with its answer. The bytes of a long one count until they are written or the connection is
    /// closed. `None`: peers do not read earlier answers, of the same owner or of others.
    pub async fn send(self, answer: Response) -> Option<Response> {
        let length = answer.body().size_hint().exact();
        let Some(length) = length.filter(|length| *length > UNCOUNTED_BYTES) else {
            return Some(answer);
        };
        // One that is longer than a share takes all of it.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let length = length.min(self.unsent_per_token);
        let [own, all] = &self.unsent;
        let count = async {
            let own = Arc::clone(own).acquire_many_owned(length).await.ok()?;
            let all = Arc::clone(all).acquire_many_owned(length).await.ok()?;
            Some((own, all))
        };
        let counted = tokio::time::timeout(UNSENT_WAIT, count).await.ok()??;
        Some(answer.map(|body| HoldingBody::of(body, counted)))
    }
}

impl std::fmt::Debug for RequestLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestLimits").finish_non_exhaustive()
    }
}

impl RequestLimits {
    /// Admits as many requests at a time as three fifths of `connections`, the connections to the database, so that
    /// runs find one whatever is asked. A token gets half of them, and half of the bytes that may be unsent.
    pub fn new(settings: &HttpSettings, connections: u32) -> Self {
        let requests = (connections as usize * 3 / 5).max(1);
        Self {
            in_flight: Arc::new(Semaphore::new(requests)),
            per_token: requests.div_ceil(2),
            unsent: Arc::new(Semaphore::new(settings.unsent_bytes as usize)),
            unsent_per_token: settings.unsent_bytes / 2,
            shares: Mutex::default(),
            look_ups: Semaphore::new(MAX_LOOK_UPS),
            by_address: RateLimiter::per_minute(settings.api.anonymous_requests_per_minute),
            valid: remembered(VALID_FOR),
            invalid: remembered(INVALID_FOR),
            request_timeout: settings.timeouts.request,
        }
    }

    /// Returns the token that recently had this hash, so that its requests are counted before it is looked up
    /// again.
    pub async fn known(&self, hash: &str) -> Option<TokenId> {
        self.valid.get(hash).await
    }

    /// Looks up this hash by `ask`, if the rate limit of the address allows it; `token` returns the owner of
    /// the result. A hash that was valid recently is always looked up, so that a client is not locked out by
    /// others with the same address, and so that a revoked token ends at once.
    pub async fn look_up<T>(
        &self,
        hash: &str,
        address: Option<IpAddr>,
        ask: impl Future<Output = Result<Option<T>, StoreError>>,
        token: impl Fn(&T) -> TokenId,
    ) -> Result<Option<T>, LookUpRefused> {
        if self.invalid.contains_key(hash) {
            return Ok(None);
        }
        let address = address.map(network);
        let is_known = self.valid.contains_key(hash);
        if !is_known {
            let counted = self.by_address.take(address);
            counted.map_err(LookUpRefused::TooMany)?;
        }
        let slot = self.look_ups.acquire().await;
        let found = ask.await;
        drop(slot);
        if !is_known && !matches!(found, Ok(None)) {
            self.by_address.give_back(&address);
        }
        let found = found.map_err(LookUpRefused::Store)?;
        match (&found, is_known) {
            (Some(_), true) => {}
            (Some(found), false) => self.valid.insert(hash.to_owned(), token(found)).await,
            (None, _) => {
                self.valid.invalidate(hash).await;
                self.invalid.insert(hash.to_owned(), ()).await;
            }
        }
        Ok(found)
    }

    /// Waits for a slot: first for one of the owner's share, then for one of all.
    pub async fn enter(&self, owner: Owner) -> Option<RequestSlot> {
        let share = {
            let mut shares = self.shares.lock();
            if shares.len() >= SHARES {
                shares.retain(|_, share| share.is_used());
            }
            let share = shares.entry(owner).or_insert_with(|| Share {
                requests: Arc::new(Semaphore::new(self.per_token)),
                unsent: Arc::new(Semaphore::new(self.unsent_per_token as usize)),
            });
            share.clone()
        };
        let own = share.requests.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.in_flight).acquire_owned().await.ok()?;
        Some(RequestSlot {
            _own: own,
            _all: all,
            unsent: [share.unsent, Arc::clone(&self.unsent)],
            unsent_per_token: self.unsent_per_token,
        })
    }
}

fn remembered<T: Clone + Send + Sync + 'static>(lifetime: Duration) -> Cache<String, T> {
    Cache::builder()
        .max_capacity(CACHED_HASHES)
        .time_to_live(lifetime)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Sources};
    use axum::body::{Body, Bytes};
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn limits(change: impl FnOnce(&mut HttpSettings)) -> RequestLimits {
        let mut settings = Settings::load(Sources::default()).unwrap().http;
        change(&mut settings);
        RequestLimits::new(&settings, 7)
    }

    fn token(id: i64) -> Owner {
        Some(TokenId(id))
    }

    #[tokio::test]
    async fn one_token_never_takes_all_places() {
        // Four at a time, of which a token has two.
        let limits = limits(|_| {});
        let enter = |owner| limits.enter(owner).now_or_never().flatten();
        let held = [enter(token(1)), enter(token(1))];
        assert!(held.iter().all(Option::is_some));
        assert!(enter(token(1)).is_none(), "it has its share");
        let more = [enter(token(2)), enter(None)];
        assert!(more.iter().all(Option::is_some), "others have theirs");
        assert!(enter(token(3)).is_none(), "there are no more slots at all");
        drop(held);
        assert!(enter(token(3)).is_some());
        assert!(enter(token(1)).is_some());
    }

    /// The bytes of an answer of this length, as hyper keeps them after the body.
    async fn sent(limits: &RequestLimits, owner: Owner, length: usize) -> Option<Bytes> {
        let slot = limits.enter(owner).await.expect("a slot");
        let answer = slot.send(Response::new(Body::from(vec![b'a'; length])));
        let mut body = answer.await?.into_body();
        let frame = body.frame().await.expect("a frame").expect("in memory");
        drop(body);
        let bytes = frame.into_data().expect("bytes");
        assert_eq!(bytes.len(), length);
        Some(bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_not_read_are_bounded_for_a_token_and_for_all() {
        const QUARTER: usize = 1024 * 1024;
        let limits = limits(|s| s.unsent_bytes = 4 * 1024 * 1024);
        let send = |owner, length| sent(&limits, owner, length);
        let held = [send(token(1), QUARTER).await, send(token(1), QUARTER).await];
        assert!(held.iter().all(Option::is_some));
        assert!(send(token(1), QUARTER).await.is_none(), "it has its share");
        let short = send(token(1), 64 * 1024).await;
        assert!(short.is_some(), "short ones do not count");
        let long = send(token(2), 9 * QUARTER).await;
        assert!(long.is_some(), "it takes a share, however long it is");
        assert!(send(None, QUARTER).await.is_none(), "no more are free");
        drop(held);
        assert!(send(None, QUARTER).await.is_some());
        assert!(send(token(1), QUARTER).await.is_some());
        // Whoever reads soon enough holds up nobody.
        let read = async {
            tokio::time::sleep(UNSENT_WAIT / 2).await;
            drop(long);
        };
        let (waited, ()) = tokio::join!(send(token(2), QUARTER), read);
        assert!(waited.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hash_that_is_not_known_is_counted_before_it_is_looked_up() {
        let limits = limits(|s| s.api.anonymous_requests_per_minute = 10);
        let asked = AtomicUsize::new(0);
        let address = |last| Some(IpAddr::from([192, 0, 2, last]));
        let look_up = async |hash: &str, from: u8, valid: bool| {
            let ask = async {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(valid.then_some(()))
            };
            let found = limits
                .look_up(hash, address(from), ask, |()| TokenId(1))
                .await;
            found.map_err(|error| matches!(error, LookUpRefused::TooMany(_)))
        };
        for n in 0..2_000 {
            let found = look_up(&format!("unknown {n}"), 1, false).await;
            assert_eq!(found, if n < 10 { Ok(None) } else { Err(true) });
        }
        assert_eq!(asked.swap(0, Ordering::Relaxed), 10);
        // The same hash from another address is not looked up again.
        assert_eq!(look_up("unknown 0", 2, true).await, Ok(None));
        assert_eq!(asked.swap(0, Ordering::Relaxed), 0);
        // Valid ones are not counted, and are accepted from an address without allowance.
        for n in 0..50 {
            let hash = format!("valid {n}");
            assert_eq!(look_up(&hash, 2, true).await, Ok(Some(())));
            assert_eq!(look_up(&hash, 1, true).await, Ok(Some(())));
        }
        assert_eq!(
            asked.load(Ordering::Relaxed),
            100,
            "each is asked for: it may be revoked"
        );
        assert_eq!(
            look_up("valid 0", 1, false).await,
            Ok(None),
            "it was revoked"
        );
        // An error of the database is not counted.
        for n in 0..50 {
            let ask = async { Err::<Option<()>, _>(StoreError::Unavailable("away".into())) };
            let failed = limits
                .look_up(&format!("{n}"), address(3), ask, |()| TokenId(1))
                .await;
            assert!(matches!(failed, Err(LookUpRefused::Store(_))));
        }
    }
}
