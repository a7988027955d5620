//! Where API and pages read lists and details: on the primary, or on a replica that is near enough.
//!
//! What decides something, and what says whether verifyd works, is read on the primary: sign-in, access, workers, live
//! pages. What a replica cannot answer in time, or does not have yet, is asked once more of the primary.

use crate::engine::heartbeats::ConfirmedHeartbeats;
use crate::engine::worker::WorkerState;
use crate::ports::replica::Replayed;
use crate::ports::store::{Store, StoreError};
use crate::ports::store_error::Code;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A replica that is further behind is not read.
pub const MAX_LAG: Duration = Duration::from_secs(30);

/// Longest `worker.heartbeat_interval` with a replica: one that has every heartbeat but the latest is near enough.
pub const MAX_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// A page says so from here on.
const MENTIONED_LAG: Duration = Duration::from_secs(5);

/// Between two checks of the replica, while it is read and while it is not.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Longest time for a check, for which no request waits. For as long its result counts.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for an answer from the replica, so that there is time to ask the primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a replica that has failed a request is not read, whatever a check finds: the next request might fail, too.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// After this time any replica that is read has what was committed before.
pub const SETTLED_AFTER: Duration = MAX_LAG.saturating_add(CHECK_TIMEOUT);

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
    seen: Mutex<Seen>,
}

/// What is known of the replica.
#[derive(Debug, Default)]
struct Seen {
    /// When it was last checked.
    at: Option<Instant>,
    /// `None`: it is not to be read.
    lag: Option<Duration>,
    /// A request has failed: it is not checked before.
    left_until: Option<Instant>,
    /// What the log last said: that it is read (`None`), or why not.
    logged: Option<Option<Cause>>,
}

impl Seen {
    /// Returns how far the replica may be behind by now; `None`: it is not to be read.
    fn lag_by_now(&self) -> Option<Duration> {
        let age = self.at?.elapsed();
        self.lag
            .filter(|_| age < CHECK_TIMEOUT)
            .map(|lag| lag + age)
    }

    /// Whether a request has failed a short time ago.
    fn is_left(&self) -> bool {
        self.left_until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns whether the log now says something else than before.
    fn note(&mut self, found: &Result<Duration, NotRead>) -> bool {
        self.at = Some(Instant::now());
        self.lag = found.as_ref().ok().copied();
        let known = match found {
            Ok(lag) | Err(NotRead::Late(lag)) => Some(*lag),
            Err(_) => None,
        };
        measure(self.lag, known);
        let now = Some(found.as_ref().err().map(NotRead::cause));
        if matches!(found, Err(NotRead::Awaited)) || self.logged == now {
            return false;
        }
        match found {
            Ok(_) => tracing::info!("lists and details are read from database.read_url"),
            Err(error) => {
                tracing::warn!(%error, "database.read_url is not read; reading database.url");
            }
        }
        self.logged = now;
        true
    }
}

/// What the log tells apart: texts may name what differs each time, such as a process. Of an error its class and code.
type Cause = (Discriminant<NotRead>, Option<(&'static str, Option<Code>)>);

/// Why the replica is not read. The text is that of the log.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    /// The first heartbeat of this process was sent a moment ago, or not yet. That is not logged.
    #[error("it does not have the first heartbeat of this process yet")]
    Awaited,
    #[error("it has no heartbeat of this process: it is of another database, or far behind")]
    Foreign,
    #[error("it accepts writes: it was promoted, or never was a replica")]
    Promoted,
    #[error("it may be more than {} s behind", MAX_LAG.as_secs())]
    Late(Duration),
    #[error("its lag is unknown, as a heartbeat of this process was late")]
    Unknown,
    #[error("it does not answer in time")]
    Silent,
    #[error("it failed a request")]
    Faulty,
    #[error("{text}")]
    Failed {
        class: &'static str,
        code: Option<Code>,
        text: String,
    },
}

impl NotRead {
    fn cause(&self) -> Cause {
        let error = match self {
            Self::Failed { class, code, .. } => Some((*class, code.clone())),
            _ => None,
        };
        (discriminant(self), error)
    }
}

impl From<&StoreError> for NotRead {
    fn from(error: &StoreError) -> Self {
        Self::Failed {
            class: error.class(),
            code: error.detail().and_then(|detail| detail.code.clone()),
            text: error.to_string(),
        }
    }
}

/// The replica, for one request.
#[derive(Clone, Debug)]
pub struct Reader {
    store: Arc<dyn Store>,
    lag: Duration,
    attempt: Arc<Attempt>,
}

impl Reader {
    /// Returns the replica; the answer says so.
    pub fn store(&self) -> &dyn Store {
        self.attempt.is_used.send_replace(true);
        self.store.as_ref()
    }

    /// Returns the lag that the page has to mention.
    pub fn mentioned_lag(&self) -> Option<Duration> {
        (self.attempt.is_used() && self.lag >= MENTIONED_LAG).then_some(self.lag)
    }
}

/// A request that the replica may answer.
#[derive(Debug, Default)]
struct Attempt {
    is_used: watch::Sender<bool>,
    /// The error of the replica.
    failure: Mutex<Option<NotRead>>,
}

tokio::task_local! {
    static ATTEMPT: Arc<Attempt>;
}

impl Attempt {
    fn is_used(&self) -> bool {
        *self.is_used.borrow()
    }

    /// Returns the answer; `None`: the replica was used, and has taken too long. What the primary answers takes as long
    /// as it takes.
    async fn of(self: &Arc<Self>, answer: impl Future<Output = Response>) -> Option<Response> {
        let overdue = async {
            let mut is_used = self.is_used.subscribe();
            let _ = is_used.wait_for(|is_used| *is_used).await;
            tokio::time::sleep(ANSWER_TIMEOUT).await;
        };
        tokio::select! {
            answer = ATTEMPT.scope(Arc::clone(self), answer) => Some(answer),
            () = overdue => None,
        }
    }

    /// Returns why the replica is left, now that the primary has answered with this status after this time. What fails
    /// or takes too long there, too, is no fault of the replica: one slow list would keep all from reading it.
    fn fault(&self, is_overdue: bool, status: StatusCode, took: Duration) -> Option<NotRead> {
        if status.is_server_error() {
            return None;
        }
        if is_overdue {
            return (took < ANSWER_TIMEOUT).then_some(NotRead::Silent);
        }
        let failure = self.failure.lock().take();
        Some(failure.unwrap_or(NotRead::Faulty))
    }
}

/// Whether the request is repeated on the primary after this error, so that it is none of the request. It is kept as the
/// cause for which the replica is left.
pub fn is_of_replica(error: &StoreError) -> bool {
    let kept = ATTEMPT.try_with(|attempt| {
        let is_used = attempt.is_used();
        if is_used {
            *attempt.failure.lock() = Some(error.into());
        }
        is_used
    });
    kept.unwrap_or(false)
}

impl Reads {
    pub fn new(replica: Option<Arc<dyn Store>>) -> Self {
        let replica = replica.map(|store| Replica {
            store,
            seen: Mutex::default(),
        });
        Self {
            replica: replica.map(Arc::new),
        }
    }

    pub fn has_replica(&self) -> bool {
        self.replica.is_some()
    }

    /// Compares the replica with the heartbeats of this worker until `stop`. Before, and without, it is not read.
    pub async fn follow(self: Arc<Self>, worker: Arc<WorkerState>, stop: CancellationToken) {
        if let Some(replica) = &self.replica {
            tokio::select! {
                () = stop.cancelled() => {}
                () = replica.follow(&worker) => {}
            }
        }
    }

    /// Answers a request, one that only reads with a [`Reader`] as its extension where the replica is to be read.
    pub async fn answer(&self, mut request: Request, next: Next) -> Response {
        let (Some(replica), true) = (&self.replica, may_be_behind(&request)) else {
            return next.run(request).await;
        };
        let lag = replica.seen.lock().lag_by_now();
        let Some(lag) = lag else {
            return next.run(request).await;
        };
        let again = repeated(&request);
        let attempt = Arc::new(Attempt::default());
        request.extensions_mut().insert(Reader {
            store: Arc::clone(&replica.store),
            lag,
            attempt: Arc::clone(&attempt),
        });
        match attempt.of(next.clone().run(request)).await {
            Some(response) if !attempt.is_used() => response,
            Some(mut response) if !is_wanting(response.status()) => {
                let age = HeaderValue::from(lag.as_secs());
                response.headers_mut().insert(DATA_AGE, age);
                response
            }
            Some(response) if response.status() == StatusCode::NOT_FOUND => next.run(again).await,
            tried => {
                let is_overdue = tried.is_none();
                drop(tried);
                let asked = Instant::now();
                let response = next.run(again).await;
                let fault = attempt.fault(is_overdue, response.status(), asked.elapsed());
                if let Some(fault) = fault {
                    replica.leave(fault);
                }
                response
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
    async fn follow(&self, worker: &WorkerState) {
        measure(None, None);
        loop {
            let left_until = self.seen.lock().left_until;
            if let Some(until) = left_until {
                tokio::time::sleep_until(until).await;
            }
            let pause = match self.check(worker).await {
                Ok(_) | Err(NotRead::Awaited) => CHECK_INTERVAL,
                Err(_) => RETRY_INTERVAL,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Checks the replica. Requests that failed meanwhile count for more.
    async fn check(&self, worker: &WorkerState) -> Result<Duration, NotRead> {
        let replayed = self.store.replayed(&worker.id);
        let found = match tokio::time::timeout(CHECK_TIMEOUT, replayed).await {
            Ok(Ok(replayed)) => lag_of(replayed, &worker.heartbeats),
            Ok(Err(error)) => Err(NotRead::from(&error)),
            Err(_) => Err(NotRead::Silent),
        };
        let mut seen = self.seen.lock();
        if !seen.is_left() {
            seen.note(&found);
        }
        drop(seen);
        found
    }

    /// It has failed a request: for a while it is not read.
    fn leave(&self, why: NotRead) {
        let mut seen = self.seen.lock();
        if !seen.is_left() {
            seen.left_until = Some(Instant::now() + LEFT_FOR);
            seen.note(&Err(why));
        }
    }
}

/// Sets the metrics: what the replica is read with, and its lag if that is known.
fn measure(used: Option<Duration>, known: Option<Duration>) {
    metrics::gauge!("verifyd_replica_usable").set(u8::from(used.is_some()));
    let seconds = known.map_or(f64::NAN, |lag| lag.as_secs_f64());
    metrics::gauge!("verifyd_replica_lag_seconds").set(seconds);
}

/// Returns the lag of a replica that may be read.
fn lag_of(replayed: Replayed, heartbeats: &ConfirmedHeartbeats) -> Result<Duration, NotRead> {
    if !replayed.is_replica {
        return Err(NotRead::Promoted);
    }
    let Some(last_heartbeat_at) = replayed.last_heartbeat_at else {
        let is_due = heartbeats.oldest().is_some_and(|age| age > MAX_LAG);
        return Err(match is_due {
            true => NotRead::Foreign,
            false => NotRead::Awaited,
        });
    };
    let dated = heartbeats.date(last_heartbeat_at).ok_or(NotRead::Unknown)?;
    if dated.at_most <= MAX_LAG {
        Ok(dated.lag)
    } else if dated.lag > MAX_LAG / 2 {
        Err(NotRead::Late(dated.at_most))
    } else {
        // This process has sent the heartbeat after that one late.
        Err(NotRead::Unknown)
    }
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
    use crate::ports::store_error::Detail;
    use chrono::DateTime;

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

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_is_read_while_it_has_a_heartbeat_of_this_process_that_is_new_enough() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0);
        let heartbeats = ConfirmedHeartbeats::default();
        let found = |is_replica, last_heartbeat_at| {
            let replayed = Replayed {
                is_replica,
                last_heartbeat_at,
            };
            lag_of(replayed, &heartbeats)
        };
        assert!(matches!(found(true, None), Err(NotRead::Awaited)));
        heartbeats.add(Instant::now(), at(0).unwrap());
        tokio::time::advance(seconds(5)).await;
        assert!(matches!(found(true, None), Err(NotRead::Awaited)));
        assert!(matches!(found(true, at(0)), Ok(lag) if lag.is_zero()));
        assert!(matches!(found(false, at(0)), Err(NotRead::Promoted)));
        assert!(matches!(found(true, at(60)), Err(NotRead::Unknown)));

        heartbeats.add(Instant::now(), at(5).unwrap());
        tokio::time::advance(seconds(25)).await;
        assert!(matches!(found(true, at(0)), Ok(lag) if lag == seconds(25)));
        tokio::time::advance(seconds(1)).await;
        assert!(matches!(found(true, at(0)), Err(NotRead::Late(lag)) if lag == seconds(31)));
        assert!(matches!(found(true, None), Err(NotRead::Foreign)));

        // Heartbeats are held up.
        tokio::time::advance(seconds(20)).await;
        assert!(matches!(found(true, at(5)), Err(NotRead::Unknown)));
        heartbeats.add(Instant::now(), at(51).unwrap());
        assert!(matches!(found(true, at(5)), Err(NotRead::Unknown)));
        assert!(matches!(found(true, at(51)), Ok(lag) if lag.is_zero()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_of_the_replica_may_take_too_long() {
        let attempt = Arc::new(Attempt::default());
        let slow = async || {
            tokio::time::sleep(3 * ANSWER_TIMEOUT).await;
            Response::default()
        };
        assert!(attempt.of(slow()).await.is_some());
        let late_use = async {
            tokio::time::sleep(2 * ANSWER_TIMEOUT).await;
            attempt.is_used.send_replace(true);
            tokio::time::sleep(ANSWER_TIMEOUT / 2).await;
            Response::default()
        };
        assert!(attempt.of(late_use).await.is_some());
        assert!(attempt.of(slow()).await.is_none());
    }

    #[test]
    fn what_the_primary_does_not_answer_in_time_either_is_no_fault_of_the_replica() {
        const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        for (is_overdue, status, took, expected) in [
            (
                true,
                StatusCode::OK,
                Duration::ZERO,
                Some("it does not answer in time"),
            ),
            (true, StatusCode::OK, ANSWER_TIMEOUT, None),
            (true, BUSY, Duration::ZERO, None),
            (
                false,
                StatusCode::OK,
                ANSWER_TIMEOUT,
                Some("it failed a request"),
            ),
            (false, BUSY, Duration::ZERO, None),
        ] {
            let fault = Attempt::default().fault(is_overdue, status, took);
            let fault = fault.map(|fault| fault.to_string());
            assert_eq!(fault.as_deref(), expected, "{is_overdue} {status} {took:?}");
        }
    }

    #[tokio::test]
    async fn an_error_is_kept_where_the_primary_is_asked_again() {
        let denied = StoreError::Schema("denied".into());
        assert!(!is_of_replica(&denied));
        let attempt = Arc::new(Attempt::default());
        for is_used in [false, true] {
            attempt.is_used.send_replace(is_used);
            let failing = async {
                assert_eq!(is_of_replica(&denied), is_used);
                Response::default()
            };
            attempt.of(failing).await;
            let kept = attempt.failure.lock().is_some();
            assert_eq!(kept, is_used);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_cause_is_logged_once_while_it_lasts() {
        let refused = |code: &str, text: &str| {
            let code = Some(Code::Sqlstate(code.to_owned()));
            NotRead::from(&StoreError::Refused(Detail::new(text, code)))
        };
        let mut seen = Seen::default();
        for (found, is_logged) in [
            (Err(NotRead::Awaited), false),
            (Err(NotRead::Late(seconds(31))), true),
            (Err(NotRead::Late(seconds(41))), false),
            (Err(NotRead::Promoted), true),
            (Ok(seconds(1)), true),
            (Ok(seconds(2)), false),
            (Err(NotRead::Promoted), true),
            (Err(refused("40001", "conflict with process 7")), true),
            (Err(refused("40001", "conflict with process 8")), false),
            (Err(refused("42501", "permission denied")), true),
        ] {
            assert_eq!(seen.note(&found), is_logged, "{found:?}");
            assert_eq!(seen.lag_by_now(), found.ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_of_a_replica_ages_and_counts_for_a_while() {
        let seen = Seen {
            at: Some(Instant::now()),
            lag: Some(seconds(2)),
            ..Seen::default()
        };
        tokio::time::advance(seconds(3)).await;
        assert_eq!(seen.lag_by_now(), Some(seconds(5)));
        tokio::time::advance(seconds(2)).await;
        assert_eq!(seen.lag_by_now(), None);
        assert_eq!(Seen::default().lag_by_now(), None);
    }
}
