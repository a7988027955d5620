//! The connections to the Redis server.

use super::error;
use super::settings::{RedisSettings, RedisSettingsError};
use crate::ports::queue::QueueError;
use crate::queue::consumer_health::ConsumerHealth;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, ServerErrorKind};
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest pause between two attempts to connect again: a server that restarts is back within seconds.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Opens connections, and keeps the one over which hints are sent.
pub(super) struct Connections {
    client: Client,
    config: ConnectionManagerConfig,
    shared: Mutex<Option<ConnectionManager>>,
    /// Whether the server has been reached since this process started.
    reached: AtomicBool,
    connect_timeout: Duration,
    response_timeout: Duration,
    call_timeout: Duration,
    health: Arc<ConsumerHealth>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the password.
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// Prepares connections without opening one.
    pub fn new(
        settings: &RedisSettings,
        health: Arc<ConsumerHealth>,
    ) -> Result<Self, RedisSettingsError> {
        let client = Client::open(settings.url.expose_secret())
            .map_err(|_| RedisSettingsError::Url("the client does not accept it".to_owned()))?;
        // apalis_redis::connect waits 500 ms for an answer, and one slow answer ends a worker.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.response_timeout))
            .set_number_of_retries(settings.consumer.retries)
            .set_max_delay(MAX_RETRY_DELAY);
        Ok(Self {
            client,
            config,
            shared: Mutex::new(None),
            reached: AtomicBool::new(false),
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            call_timeout: settings.call_timeout(),
            health,
        })
    }

    /// Returns a connection of its own, which its first command establishes.
    pub fn fresh(&self) -> RedisResult<ConnectionManager> {
        ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
    }

    /// Opens a connection for pub/sub.
    pub async fn pubsub(&self) -> Result<PubSub, QueueError> {
        match tokio::time::timeout(self.connect_timeout, self.client.get_async_pubsub()).await {
            Ok(Ok(pubsub)) => Ok(pubsub),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(QueueError::Unavailable("connecting took too long".into())),
        }
    }

    /// Tries once whether the server can be used, for its own error: a connection that retries reports
    /// only a timeout in the end. Does nothing once the server has been reached.
    pub async fn first_contact(&self) -> Result<(), QueueError> {
        if self.reached.load(Ordering::Relaxed) {
            return Ok(());
        }
        let tried =
            error::try_to_connect(&self.client, self.connect_timeout, self.response_timeout);
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

    /// Runs one short exchange over the shared connection, within connect and response timeout.
    pub async fn call<T, F>(&self, exchange: F) -> Result<T, QueueError>
    where
        F: AsyncFnOnce(&mut ConnectionManager) -> RedisResult<T>,
    {
        self.first_contact().await?;
        let mut connection = self.shared()?;
        let answer = tokio::time::timeout(self.call_timeout, exchange(&mut connection)).await;
        let (result, renew) = match answer {
            Ok(Ok(value)) => (Ok(value), false),
            Ok(Err(error)) => (Err(unavailable(&error)), needs_new_connection(&error)),
            Err(_) => (
                Err(QueueError::Unavailable(
                    "no answer within the timeout".into(),
                )),
                true,
            ),
        };
        if renew {
            // The manager connects again only after the connection has closed; a half-open one,
            // and one to a former primary, never does.
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
        let exchange = async {
            let connection = self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            exchange(connection).await
        };
        match tokio::time::timeout(self.call_timeout, exchange).await {
            Ok(answer) => answer.map_err(|error| unavailable(&error)),
            Err(_) => Err(QueueError::Unavailable(
                "no answer within the timeout".into(),
            )),
        }
    }

    fn shared(&self) -> Result<ConnectionManager, QueueError> {
        let mut shared = self.shared.lock();
        if let Some(connection) = shared.as_ref() {
            return Ok(connection.clone());
        }
        let connection = self.fresh().map_err(|error| unavailable(&error))?;
        Ok(shared.insert(connection).clone())
    }
}

fn needs_new_connection(error: &RedisError) -> bool {
    error.is_timeout() || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Describes what went wrong. The client's messages name commands and the server's answer, never the
/// URL.
pub(super) fn unavailable(error: &RedisError) -> QueueError {
    QueueError::Unavailable(error::describe(error))
}
