//! The connections to the Redis server.

use super::error;
use super::primary::Primary;
use super::settings::{RedisSettings, RedisSettingsError};
use crate::ports::queue::QueueError;
use crate::queue::consumer_health::ConsumerHealth;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest pause between two attempts to connect again: a server that restarts is back within seconds.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Opens connections, and keeps the one over which hints are sent.
pub(super) struct Connections {
    primary: Primary,
    config: ConnectionManagerConfig,
    shared: Mutex<Option<ConnectionManager>>,
    /// Whether the server was reached, and has answered since.
    reached: AtomicBool,
    connect_timeout: Duration,
    call_timeout: Duration,
    health: Arc<ConsumerHealth>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The clients know the password.
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// Prepares connections without opening one.
    pub fn new(
        settings: &RedisSettings,
        health: Arc<ConsumerHealth>,
    ) -> Result<Self, RedisSettingsError> {
        let primary = Primary::new(settings)?;
        // Not where another server may be the primary meanwhile: whoever needs a connection asks for it again.
        let retries = match primary.may_move() {
            true => 0,
            false => settings.consumer.retries,
        };
        // apalis_redis::connect waits 500 ms for an answer, and one slow answer ends a worker.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout()))
            .set_response_timeout(Some(settings.response_timeout))
            .set_number_of_retries(retries)
            .set_max_delay(MAX_RETRY_DELAY);
        Ok(Self {
            primary,
            config,
            shared: Mutex::new(None),
            reached: AtomicBool::new(false),
            connect_timeout: settings.connect_timeout(),
            call_timeout: settings.call_timeout(),
            health,
        })
    }

    /// Returns a connection of its own to the present primary, which its first command establishes. The error
    /// describes why there is none.
    pub async fn fresh(&self) -> Result<ConnectionManager, String> {
        let client = self.primary.client().await?;
        ConnectionManager::new_lazy_with_config(client, self.config.clone())
            .map_err(|error| error::describe(&error))
    }

    /// Opens a connection for pub/sub.
    pub async fn pubsub(&self) -> Result<PubSub, QueueError> {
        let client = self.primary.client().await;
        let client = client.map_err(QueueError::Unavailable)?;
        match tokio::time::timeout(self.connect_timeout, client.get_async_pubsub()).await {
            Ok(Ok(pubsub)) => Ok(pubsub),
            Ok(Err(error)) => Err(self.unavailable(&error).await),
            Err(_) => Err(QueueError::Unavailable("connecting took too long".into())),
        }
    }

    /// Tries once whether the server can be used, for its own error: a connection that retries reports
    /// only a timeout in the end. Does nothing once the server has been reached,
    /// until a call gets no answer or a sign-in is refused.
    pub async fn first_contact(&self) -> Result<(), QueueError> {
        if self.reached.load(Ordering::Relaxed) {
            return Ok(());
        }
        let tried = self.primary.try_to_reach();
        let result = match tokio::time::timeout(self.call_timeout, tried).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", self.call_timeout)),
        };
        self.health
            .connected
            .store(result.is_ok(), Ordering::Relaxed);
        self.reached.store(result.is_ok(), Ordering::Relaxed);
        result.map_err(QueueError::Unavailable)
    }

    /// Returns why Sentinels do not lead to the primary, for each that does not.
    pub async fn unusable_sentinels(&self) -> Vec<String> {
        self.primary.unusable_sentinels().await
    }

    /// Runs one short exchange over the shared connection, within connect and response timeout.
    pub async fn call<T, F>(&self, exchange: F) -> Result<T, QueueError>
    where
        F: AsyncFnOnce(&mut ConnectionManager) -> RedisResult<T>,
    {
        self.first_contact().await?;
        let mut connection = self.shared().await?;
        let answer = tokio::time::timeout(self.call_timeout, exchange(&mut connection)).await;
        let (result, renew) = match answer {
            Ok(Ok(value)) => (Ok(value), false),
            Ok(Err(error)) => (
                Err(self.unavailable(&error).await),
                needs_new_connection(&error),
            ),
            Err(_) => (
                Err(QueueError::Unavailable(
                    "no answer within the timeout".into(),
                )),
                true,
            ),
        };
        if renew {
            // The next call learns why, if it has no answer, either.
            self.reached.store(false, Ordering::Relaxed);
            // The manager connects again only after the connection has closed, which a half-open one never is, not
            // after a refused sign-in, and to the same server, which may be a former primary.
            *self.shared.lock() = None;
        }
        self.health
            .connected
            .store(result.is_ok(), Ordering::Relaxed);
        result
    }

    /// Runs one short exchange over a connection of its own, which is tried once and fails with its cause.
    pub async fn once<T, F>(&self, exchange: F) -> Result<T, QueueError>
    where
        F: AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    {
        self.first_contact().await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.call_timeout));
        let client = self.primary.client().await;
        let client = client.map_err(QueueError::Unavailable)?;
        let exchange = async {
            let connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            exchange(connection).await
        };
        match tokio::time::timeout(self.call_timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unavailable(&error).await),
            Err(_) => Err(QueueError::Unavailable(
                "no answer within the timeout".into(),
            )),
        }
    }

    /// Describes what went wrong, as `first_contact` does: of a refused sign-in with the server's own answer, which the
    /// client leaves out.
    pub async fn describe(&self, error: &RedisError) -> String {
        if error.kind() == ErrorKind::AuthenticationFailed {
            self.reached.store(false, Ordering::Relaxed);
            if let Err(QueueError::Unavailable(answer)) = self.first_contact().await {
                return answer;
            }
        }
        error::describe(error)
    }

    /// Returns the error of a queue whose server cannot be used for this.
    pub async fn unavailable(&self, error: &RedisError) -> QueueError {
        QueueError::Unavailable(self.describe(error).await)
    }

    async fn shared(&self) -> Result<ConnectionManager, QueueError> {
        if let Some(connection) = self.shared.lock().as_ref() {
            return Ok(connection.clone());
        }
        let fresh = self.fresh().await;
        if fresh.is_err() {
            self.health.connected.store(false, Ordering::Relaxed);
        }
        let fresh = fresh.map_err(QueueError::Unavailable)?;
        // Another call may have opened one meanwhile.
        Ok(self.shared.lock().get_or_insert(fresh).clone())
    }
}

fn needs_new_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.kind() == ErrorKind::AuthenticationFailed
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}
