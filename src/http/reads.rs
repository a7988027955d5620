//! Where API and pages read lists and details: on the primary, or on a replica that is near enough.
//!
//! What decides something, and what says whether verifyd works, is read on the primary: sign-in, access, workers, live
//! pages. What a replica cannot answer in time, or does not have yet, is asked once more of the primary.

use crate::ports::store::Store;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A replica that is further behind is not read.
pub const MAX_LAG: Duration = Duration::from_secs(30);

/// A page says so from here on.
const MENTIONED_LAG: Duration = Duration::from_secs(5);

/// Between two looks at the replica, while it is read and while it is not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Longest time for a look, for which no request waits. For as long its outcome counts.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for an answer from the replica, so that there is time to ask the primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time any replica that is read has what was committed before.
pub const SETTLED_AFTER: Duration = MAX_LAG.saturating_add(LOOK_TIMEOUT);

/// Seconds that the data of an answer is behind, where it was read from a replica.
const DATA_AGE: HeaderName = HeaderName::from_static("x-data-age");

/// The primary, and the replica if there is one.
#[derive(Debug)]
pub struct Reads {
    replica: Option<Arc<Replica>>,
}

#[derive(Debug)]
struct Replica {
    store: Arc<dyn Store>,
    /// See [`quiet`].
    quiet: Duration,
    seen: Mutex<Seen>,
    /// Held during a look.
    looking: tokio::sync::Mutex<()>,
}

/// What the last look has found.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    at: Option<Instant>,
    /// `None`: it is not to be read.
    lag: Option<Duration>,
}

impl Seen {
    fn is_old(self) -> bool {
        let pause = match self.lag {
            Some(_) => LOOK_EVERY,
            None => LOOK_AGAIN,
        };
        self.at.is_none_or(|at| at.elapsed() >= pause)
    }

    /// Returns how far the replica may be behind by now; `None`: it is not to be read.
    fn lag_by_now(self) -> Option<Duration> {
        let age = self.at?.elapsed();
        self.lag.filter(|_| age < LOOK_TIMEOUT).map(|lag| lag + age)
    }
}

/// The replica, for one request.
#[derive(Clone, Debug)]
pub struct Reader {
    store: Arc<dyn Store>,
    lag: Duration,
    is_used: Arc<AtomicBool>,
}

impl Reader {
    /// Returns the replica; the answer says so.
    pub fn store(&self) -> &dyn Store {
        self.is_used.store(true, Ordering::Relaxed);
        self.store.as_ref()
    }

    /// Returns the lag that the page has to mention.
    pub fn mentioned_lag(&self) -> Option<Duration> {
        let is_used = self.is_used.load(Ordering::Relaxed);
        (is_used && self.lag >= MENTIONED_LAG).then_some(self.lag)
    }
}

impl Reads {
    /// `heartbeat_interval`: a worker commits that often.
    pub fn new(replica: Option<Arc<dyn Store>>, heartbeat_interval: Duration) -> Self {
        Self {
            replica: replica.map(|store| {
                Arc::new(Replica {
                    store,
                    quiet: quiet(heartbeat_interval),
                    seen: Mutex::default(),
                    looking: tokio::sync::Mutex::default(),
                })
            }),
        }
    }

    pub fn has_replica(&self) -> bool {
        self.replica.is_some()
    }

    /// Answers a request, one that only reads with a [`Reader`] as its extension where the replica is to be read.
    pub async fn answer(&self, mut request: Request, next: Next) -> Response {
        let (Some(replica), true) = (&self.replica, may_be_behind(&request)) else {
            return next.run(request).await;
        };
        let Some(lag) = replica.lag() else {
            return next.run(request).await;
        };
        let again = repeated(&request);
        let is_used = Arc::new(AtomicBool::new(false));
        request.extensions_mut().insert(Reader {
            store: Arc::clone(&replica.store),
            lag,
            is_used: Arc::clone(&is_used),
        });
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, next.clone().run(request)).await;
        let is_used = is_used.load(Ordering::Relaxed);
        match answered {
            Ok(response) if !is_used => response,
            Ok(mut response) if !is_wanting(response.status()) => {
                let age = HeaderValue::from(lag.as_secs());
                response.headers_mut().insert(DATA_AGE, age);
                response
            }
            Ok(response) if response.status() == StatusCode::NOT_FOUND => next.run(again).await,
            _ => {
                replica.leave();
                next.run(again).await
            }
        }
    }

    /// Closes the connections to the replica.
    pub async fn close(&self) {
        if let Some(replica) = &self.replica {
            replica.store.close().await;
        }
    }
}

impl Replica {
    /// Returns how far it is behind, by what the last look has found. The first request after a while begins another
    /// look, and is answered by the primary.
    fn lag(self: &Arc<Self>) -> Option<Duration> {
        let seen = *self.seen.lock();
        if seen.is_old() {
            let replica = Arc::clone(self);
            tokio::spawn(async move { replica.look().await });
        }
        seen.lag_by_now()
    }

    async fn look(&self) {
        let Ok(_only_look) = self.looking.try_lock() else {
            return;
        };
        let began = Instant::now();
        let looked = tokio::time::timeout(LOOK_TIMEOUT, self.store.lag(self.quiet)).await;
        let lag = looked.ok().and_then(Result::ok).flatten();
        let seconds = lag.map_or(f64::NAN, |lag| lag.as_secs_f64());
        metrics::gauge!("verifyd_replica_lag_seconds").set(seconds);
        self.note(began, lag.filter(|lag| *lag <= MAX_LAG));
    }

    /// It has not answered: for a while it is not read.
    fn leave(&self) {
        self.note(Instant::now(), None);
    }

    fn note(&self, at: Instant, lag: Option<Duration>) {
        let seen = Seen { at: Some(at), lag };
        let before = std::mem::replace(&mut *self.seen.lock(), seen);
        match (before.lag, lag) {
            (Some(_), None) => tracing::warn!(
                "database.read_url does not answer in time, or lags by more than {MAX_LAG:?}; reading database.url"
            ),
            (None, Some(_)) => tracing::info!("lists and details are read from database.read_url"),
            _ => {}
        }
    }
}

/// Returns how long the primary may have no commit, as heartbeats may be late.
pub fn quiet(heartbeat_interval: Duration) -> Duration {
    MAX_LAG.min(2 * heartbeat_interval)
}

/// Whether the request only reads, and does not ask for what is new.
fn may_be_behind(request: &Request) -> bool {
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    let mut directives = request.headers().get_all(CACHE_CONTROL).iter();
    reads && !directives.any(|value| value.to_str().is_ok_and(|text| text.contains("no-cache")))
}

/// Whether the primary may have a better answer.
fn is_wanting(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status.is_server_error()
}

/// The same request. One that only reads has no body that counts.
fn repeated(request: &Request) -> Request {
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, cache_control: Option<&'static str>) -> Request {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        if let Some(value) = cache_control {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(CACHE_CONTROL, value);
        }
        request
    }

    #[test]
    fn only_what_reads_and_does_not_ask_for_what_is_new_may_be_behind() {
        for (method, cache_control, expected) in [
            (Method::GET, None, true),
            (Method::HEAD, Some("max-age=0"), true),
            (Method::GET, Some("no-cache"), false),
            (Method::GET, Some("max-age=0, no-cache"), false),
            (Method::POST, None, false),
        ] {
            let request = request(method, cache_control);
            assert_eq!(may_be_behind(&request), expected, "{request:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_not_read_is_looked_at_less_often() {
        for (lag, pause) in [(Some(Duration::ZERO), LOOK_EVERY), (None, LOOK_AGAIN)] {
            let at = Some(Instant::now());
            let seen = Seen { at, lag };
            assert!(!seen.is_old());
            tokio::time::advance(pause).await;
            assert!(seen.is_old());
        }
        assert!(Seen::default().is_old());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_of_a_replica_ages_and_counts_for_a_while() {
        let seen = Seen {
            at: Some(Instant::now()),
            lag: Some(Duration::from_secs(2)),
        };
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(seen.lag_by_now(), Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(seen.lag_by_now(), None);
        assert_eq!(Seen::default().lag_by_now(), None);
    }
}
