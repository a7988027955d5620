//! Caches tokens in memory until shortly before they expire. They are stored nowhere else.

use super::{AccessToken, TokenKey};
use crate::domain::Reason;
use crate::provider::microsoft::fault::Fault;
use moka::Expiry;
use moka::future::Cache;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A bounded cache; one request at a time for each key.
pub(in super::super) struct TokenCache(Cache<TokenKey, Arc<AccessToken>>);

/// A token, and whether it was issued for this caller.
#[derive(Clone, Debug)]
pub(in super::super) struct Obtained {
    pub token: Arc<AccessToken>,
    pub fresh: bool,
}

struct BeforeExpiry {
    margin: Duration,
}

impl BeforeExpiry {
    fn keep(&self, token: &AccessToken) -> Duration {
        token.lifetime - self.margin.min(token.lifetime / 2)
    }
}

impl Expiry<TokenKey, Arc<AccessToken>> for BeforeExpiry {
    fn expire_after_create(
        &self,
        _: &TokenKey,
        token: &Arc<AccessToken>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(self.keep(token))
    }

    fn expire_after_update(
        &self,
        _: &TokenKey,
        token: &Arc<AccessToken>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.keep(token))
    }
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("entries", &self.0.entry_count())
            .finish()
    }
}

impl TokenCache {
    /// Creates a cache of at most `entries` tokens, each kept until `margin` before its end.
    pub fn new(entries: u64, margin: Duration) -> Self {
        Self(
            Cache::builder()
                .max_capacity(entries)
                .expire_after(BeforeExpiry { margin })
                .build(),
        )
    }

    /// Returns the cached token, or the result of `request`. Concurrent callers for the same key wait for one
    /// request and share its result, each within its own deadline.
    pub async fn obtain<R>(
        &self,
        key: &TokenKey,
        deadline: Instant,
        request: impl Fn() -> R,
    ) -> Result<Obtained, Fault>
    where
        R: Future<Output = Result<AccessToken, Fault>>,
    {
        loop {
            let asked = AtomicBool::new(false);
            let init = async {
                asked.store(true, Ordering::Relaxed);
                request().await.map(Arc::new)
            };
            let result =
                tokio::time::timeout_at(deadline, self.0.try_get_with_by_ref(key, init)).await;
            let fresh = asked.load(Ordering::Relaxed);
            metrics::counter!(
                "verifyd_provider_token_cache_lookups_total",
                "provider" => "microsoft",
                "result" => if fresh { "miss" } else { "hit" },
            )
            .increment(1);
            return match result {
                Ok(Ok(token)) => Ok(Obtained { token, fresh }),
                // The deadline of the other caller was over; this one's is not.
                Ok(Err(fault))
                    if !fresh
                        && fault.reason == Reason::DeadlineExceeded
                        && Instant::now() < deadline =>
                {
                    continue;
                }
                Ok(Err(fault)) => Err(Fault::clone(&fault)),
                Err(_) => Err(Fault::new(Reason::DeadlineExceeded)),
            };
        }
    }

    /// Forgets the token if it is still the cached one.
    pub async fn reject(&self, key: &TokenKey, token: &Arc<AccessToken>) {
        if self
            .0
            .get(key)
            .await
            .is_some_and(|cached| Arc::ptr_eq(&cached, token))
        {
            self.0.invalidate(key).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ConnectionId;
    use crate::provider::microsoft::claims::Claims;
    use std::sync::atomic::AtomicUsize;
    use uuid::Uuid;

    fn key(connection: i64) -> TokenKey {
        TokenKey {
            connection: ConnectionId(connection),
            credential: [7; 32],
            token_url: "https://login.example.com/".into(),
            client_id: Uuid::nil(),
            scope: "s".into(),
        }
    }

    fn token(lifetime: Duration) -> AccessToken {
        AccessToken {
            authorization: AccessToken::header("t").unwrap(),
            claims: Claims::default(),
            lifetime,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn those_who_ask_together_share_one_request() {
        let cache = TokenCache::new(10, Duration::from_secs(120));
        let requests = AtomicUsize::new(0);
        let key = &key(1);
        let request = || async {
            requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(token(HOUR))
        };
        let all = (0..8).map(|_| cache.obtain(key, soon(), request));
        let obtained = futures::future::join_all(all).await;
        assert_eq!(requests.load(Ordering::Relaxed), 1);
        let fresh = obtained.iter().filter(|o| o.as_ref().unwrap().fresh);
        assert_eq!(fresh.count(), 1);
    }

    #[tokio::test]
    async fn keys_do_not_share_and_faults_are_not_kept() {
        let cache = TokenCache::new(10, Duration::ZERO);
        let refuse = || async { Err(Fault::new(Reason::SecretInvalid)) };
        let refused = cache.obtain(&key(1), soon(), refuse).await;
        assert_eq!(refused.unwrap_err().reason, Reason::SecretInvalid);
        for connection in [1, 2] {
            let grant = || async { Ok(token(HOUR)) };
            let obtained = cache.obtain(&key(connection), soon(), grant).await.unwrap();
            assert!(obtained.fresh);
        }
    }

    #[test]
    fn a_token_is_kept_until_the_margin_and_for_half_its_life_at_least() {
        let margin = BeforeExpiry {
            margin: Duration::from_secs(120),
        };
        assert_eq!(margin.keep(&token(HOUR)), HOUR - margin.margin);
        let short = Duration::from_secs(60);
        assert_eq!(margin.keep(&token(short)), short / 2);
    }

    #[tokio::test]
    async fn a_token_is_forgotten_before_its_end_and_when_it_is_rejected() {
        let cache = TokenCache::new(10, HOUR);
        let key = &key(1);
        let ask = async |lifetime| {
            let grant = || async move { Ok(token(lifetime)) };
            cache.obtain(key, soon(), grant).await.unwrap()
        };
        // Half of it is kept, whatever the margin.
        let short = Duration::from_millis(40);
        assert!(ask(short).await.fresh);
        tokio::time::sleep(short).await;
        assert!(ask(HOUR).await.fresh);
        let third = ask(HOUR).await;
        assert!(!third.fresh);
        cache.reject(key, &Arc::new(token(HOUR))).await;
        assert!(!ask(HOUR).await.fresh, "another token's rejection");
        cache.reject(key, &third.token).await;
        assert!(ask(HOUR).await.fresh);
    }

    #[tokio::test]
    async fn waiting_for_anothers_request_ends_at_ones_own_deadline() {
        let cache = TokenCache::new(10, Duration::ZERO);
        let key = &key(1);
        let slow = cache.obtain(key, soon(), std::future::pending);
        let own = Instant::now() + Duration::from_millis(30);
        let quick = cache.obtain(key, own, || async { Ok(token(HOUR)) });
        tokio::select! {
            biased;
            _ = slow => unreachable!("it never ends"),
            result = quick => {
                assert_eq!(result.unwrap_err().reason, Reason::DeadlineExceeded);
            }
        }
    }

    #[tokio::test]
    async fn anothers_deadline_is_not_ones_own() {
        let cache = TokenCache::new(10, Duration::ZERO);
        let key = &key(1);
        let hurried = cache.obtain(key, soon(), || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Err(Fault::new(Reason::DeadlineExceeded))
        });
        let patient = cache.obtain(key, soon(), || async { Ok(token(HOUR)) });
        let (hurried, patient) = tokio::join!(biased; hurried, patient);
        assert_eq!(hurried.unwrap_err().reason, Reason::DeadlineExceeded);
        assert!(patient.unwrap().fresh);
    }
}
