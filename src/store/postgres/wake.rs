//! `LISTEN`: receives notifications of a bare INSERT into `operation_runs`, over a separate connection.
//!
//! A notification reaches only current listeners. So a wake-up is sent once listening has begun, and a dead
//! connection is found by a probe: a notification to oneself, sent through the pool, which must arrive.
//! Behind a pooler in transaction mode it never does, although every statement succeeds. Worse, the
//! subscription stays with a connection that the pooler shares, where its notifications break the answers of
//! others. So a test for a session of one's own comes first.

use super::connector::Connector;
use super::{PostgresStore, sessions};
use crate::ports::store_error::StoreError;
use crate::ports::wake::{Listening, TriggerFault, WakeSignal, WakeStore};
use async_trait::async_trait;
use rand::Rng as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The channel that `verifyd.notify_queued` (migration 6) notifies.
const QUEUED: &str = "verifyd_queued";

/// Tells databases apart, also those of two servers. Notifications stay within one.
const PLACE: &str =
    "SELECT format('%s %s', current_database(), extract(epoch FROM pg_postmaster_start_time()))";

/// The trigger that notifies, whatever its name; whether it is enabled, and also where `session_replication_role` is
/// `replica`; and whose setting that is, of those who may insert runs.
const TRIGGER: &str = "
    WITH setting AS (
        SELECT concat_ws(' in ', 'the role ' || quote_ident(r.rolname), 'the database ' || quote_ident(d.datname)) AS whose,
            concat_ws(' IN ', 'ROLE ' || coalesce(quote_ident(r.rolname), CASE WHEN d.oid IS NULL THEN 'ALL' END),
                'DATABASE ' || quote_ident(d.datname)) AS of
        FROM pg_db_role_setting s
        LEFT JOIN pg_roles r ON r.oid = s.setrole
        LEFT JOIN pg_database d ON d.oid = s.setdatabase
        WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          AND EXISTS (SELECT FROM unnest(s.setconfig) AS c(text)
              WHERE lower(c.text) = 'session_replication_role=replica')
          AND (s.setrole = 0 OR has_any_column_privilege(s.setrole, to_regclass('operation_runs')::oid, 'INSERT')))
    SELECT quote_ident(t.tgname), t.tgenabled IN ('O', 'A'), t.tgenabled = 'A', coalesce(
        (SELECT string_agg(whose, ', ' ORDER BY whose) FROM setting),
        CASE WHEN current_setting('session_replication_role') = 'replica' THEN 'the server' END),
        coalesce(
            (SELECT string_agg(format('ALTER %s RESET session_replication_role;', of), ' ' ORDER BY whose) FROM setting),
            'ALTER SYSTEM SET session_replication_role = origin; and then: SELECT pg_reload_conf();')
    FROM pg_trigger t
    JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE t.tgrelid = to_regclass('operation_runs') AND n.nspname = 'verifyd' AND p.proname = 'notify_queued'
    ORDER BY t.tgenabled = 'A' DESC, t.tgenabled = 'O' DESC LIMIT 1";

/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are opened until one listens, at most: the others tell whether it has a session of its own.
const OPENINGS: u32 = 4;
/// Between two probes of a connection that works.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// Before listening is tried again: after an error, and where no notification gets through.
const AFTER_ERROR: Duration = Duration::from_secs(1);
const LONGEST_AFTER_ERROR: Duration = Duration::from_secs(30);
/// Failures in a row that are worth a line in the log.
const WARN_AFTER: u32 = 3;
const PAUSE_WHILE_NOTHING_ARRIVES: Duration = Duration::from_secs(300);

/// A connection that listens.
struct Subscription {
    listener: PgListener,
    /// The channel of its own, on which its probes come back.
    own: String,
}

/// Why listening ended.
enum Ended {
    Stopped,
    /// No probe ever came back over this connection, or it is no direct one.
    NothingArrives,
    Broken(String),
}

fn switched() -> Ended {
    Ended::Broken("another host accepts writes".into())
}

impl Subscription {
    /// None: the connection would have no session of its own.
    async fn open(connector: &Connector, timeout: Duration) -> Result<Option<Self>, StoreError> {
        let options = connector.options();
        let opening = async {
            if !sessions::is_direct(&options).await? && !sessions::are_kept(&options).await? {
                return Ok(None);
            }
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .connect_lazy_with(options);
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            let own = format!("verifyd_probe_{}", Uuid::new_v4().simple());
            listener.listen_all([QUEUED, own.as_str()]).await?;
            Ok::<_, StoreError>(Some(Self { listener, own }))
        };
        tokio::time::timeout(timeout, opening)
            .await
            .unwrap_or_else(|_| {
                Err(StoreError::Unavailable(
                    "the connection to listen on timed out".into(),
                ))
            })
            .map_err(|error| connector.named_in(error))
    }

    /// The channel of the next notification.
    async fn next_channel(&mut self) -> Result<String, StoreError> {
        match self.listener.try_recv().await {
            Ok(Some(notification)) => Ok(notification.channel().to_owned()),
            Ok(None) => Err(StoreError::Unavailable("the connection was closed".into())),
            Err(error) => Err(error.into()),
        }
    }
}

impl PostgresStore {
    async fn notify(&self, channel: &str) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            let notify = self.sql("SELECT pg_notify($1, '')").bind(channel);
            notify.execute(tx).await?;
            Ok(())
        })
        .await
    }

    async fn listen_once(
        &self,
        connector: &Connector,
        signal: &WakeSignal,
        stop: &CancellationToken,
        first: impl FnOnce() + Send,
    ) -> Ended {
        let mut switches = connector.switches();
        // Nobody waits for it: signing in may take its time.
        let timeout = OPENINGS * connector.opening_timeout;
        let opened = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            _ = switches.changed() => return switched(),
            opened = Subscription::open(connector, timeout) => opened,
        };
        let mut subscription = match opened {
            Ok(Some(subscription)) => subscription,
            Ok(None) => return Ended::NothingArrives,
            Err(error) => return Ended::Broken(error.to_string()),
        };
        // For runs that came before.
        signal.wake();
        let mut first = Some(first);
        let mut probe_at = Instant::now();
        // When the current probe counts as lost.
        let mut awaited: Option<Instant> = None;
        loop {
            let alarm = awaited.unwrap_or(probe_at);
            tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                _ = switches.changed() => return switched(),
                received = subscription.next_channel() => match received {
                    Ok(channel) if channel == subscription.own => {
                        awaited = None;
                        if let Some(first) = first.take() {
                            first();
                        }
                    }
                    Ok(_) => {
                        metrics::counter!("verifyd_wakeups_total").increment(1);
                        signal.wake();
                    }
                    Err(error) => return Ended::Broken(error.to_string()),
                },
                () = tokio::time::sleep_until(alarm) => {
                    if awaited.is_some() {
                        return match first {
                            Some(_) => Ended::NothingArrives,
                            None => Ended::Broken("a probe did not come back".into()),
                        };
                    }
                    let probing = tokio::time::timeout(PROBE_TIMEOUT, self.notify(&subscription.own));
                    let probed = tokio::select! {
                        () = stop.cancelled() => return Ended::Stopped,
                        probed = probing => probed,
                    };
                    match probed {
                        Ok(Ok(())) => {
                            probe_at = Instant::now() + PROBE_EVERY;
                            awaited = Some(Instant::now() + PROBE_TIMEOUT);
                        }
                        // Says nothing about the subscription: the pool is unavailable or busy.
                        Ok(Err(_)) | Err(_) => probe_at = Instant::now() + AFTER_ERROR,
                    }
                }
            }
        }
    }
}

#[async_trait]
impl WakeStore for PostgresStore {
    async fn listen(&self, signal: &WakeSignal, stop: CancellationToken) {
        let Some(connector) = &self.listen else {
            stop.cancelled().await;
            return;
        };
        let is_listening = AtomicBool::new(false);
        let mut has_warned = false;
        let mut broken = 0;
        let mut pause = AFTER_ERROR;
        loop {
            is_listening.store(false, Ordering::Relaxed);
            let ended = self
                .listen_once(connector, signal, &stop, || {
                    is_listening.store(true, Ordering::Relaxed);
                    metrics::gauge!("verifyd_listening").set(1.0);
                    tracing::info!("listening: a bare INSERT wakes this worker");
                })
                .await;
            metrics::gauge!("verifyd_listening").set(0.0);
            if is_listening.load(Ordering::Relaxed) {
                has_warned = false;
                broken = 0;
                pause = AFTER_ERROR;
            }
            let wait = match ended {
                Ended::Stopped => return,
                Ended::NothingArrives => {
                    if !has_warned {
                        tracing::warn!(
                            "notifications of the database do not arrive, there seems to be a \
                             pooler on the way: bare INSERTs are found by the sweep only; \
                             set database.listen_url to a direct connection to the same database, \
                             or to off"
                        );
                    }
                    has_warned = true;
                    PAUSE_WHILE_NOTHING_ARRIVES
                }
                Ended::Broken(why) => {
                    connector.record_failure();
                    broken += 1;
                    if broken == WARN_AFTER {
                        tracing::warn!(
                            why,
                            "listening fails again and again: bare INSERTs are found by the sweep \
                             only; behind a pooler set database.listen_url to a direct connection"
                        );
                    }
                    tracing::debug!(why, "not listening for now; the sweep finds new runs");
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_AFTER_ERROR);
                    wait
                }
            };
            let wait = wait.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn wake(&self) -> Result<(), StoreError> {
        self.notify(QUEUED).await
    }

    async fn trigger_fault(&self) -> Result<Option<TriggerFault>, StoreError> {
        let found: Option<(String, bool, bool, Option<String>, String)> = self
            .transaction(async |tx| {
                let found = self.rows(TRIGGER).persistent(false);
                Ok::<_, StoreError>(found.fetch_optional(tx).await?)
            })
            .await?;
        Ok(match found {
            None => Some(TriggerFault::Missing),
            Some((trigger, false, ..)) => Some(TriggerFault::Disabled { trigger }),
            Some((trigger, true, false, Some(by), reset)) => {
                Some(TriggerFault::Replica { trigger, by, reset })
            }
            Some((_, true, ..)) => None,
        })
    }

    async fn try_listening(&self) -> Result<Listening, StoreError> {
        let Some(connector) = &self.listen else {
            return Ok(Listening::Off);
        };
        self.with_timeout(self.close_idle()).await?;
        connector.choose().await?;
        let opened = Subscription::open(connector, PROBE_TIMEOUT).await?;
        let Some(mut subscription) = opened else {
            return Ok(Listening::NotReceived);
        };
        let there: String = sqlx::query_scalar(PLACE)
            .persistent(false)
            .fetch_one(&mut subscription.listener)
            .await?;
        let here: String = self
            .transaction(async |tx| {
                let place = self.scalar(PLACE).fetch_one(tx).await?;
                Ok::<_, StoreError>(place)
            })
            .await?;
        if there != here {
            return Ok(Listening::Elsewhere);
        }
        self.notify(&subscription.own).await?;
        let until = Instant::now() + PROBE_TIMEOUT;
        loop {
            match tokio::time::timeout_at(until, subscription.next_channel()).await {
                Ok(Ok(channel)) if channel == subscription.own => return Ok(Listening::Received),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(Listening::NotReceived),
            }
        }
    }
}
