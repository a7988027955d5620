//! For applications in Rust: record checks, send hints, wait for results.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use verifyd::domain::ConnectionId;
//! use verifyd::producer::Producer;
//!
//! let producer = Producer::connect("postgres://app@db/app", Some("redis://redis")).await?;
//! let check = producer.check(ConnectionId(1)).await?;
//! let run = producer.wait(check.run_id, Duration::from_secs(60)).await?;
//! println!("{:?}", run.outcome);
//! # Ok(())
//! # }
//! ```

use crate::app;
use crate::config::{Settings, Sources};
use crate::domain::access::Binding;
use crate::domain::run::OperationRun;
use crate::domain::{ConnectionId, RunId};
use crate::operations::{CheckRequest, OperationError, find_run, start_check, wait_for_run};
use crate::outbound::Outbound;
use crate::ports::clock::SystemClock;
use crate::ports::provider::Providers;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;

/// Why a check could not be recorded, or its result not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// Says which URL cannot be used, and why; never quotes a password.
    #[error("{0}")]
    Connect(String),
    /// The connection or the run does not exist, or the connection cannot be checked.
    #[error(transparent)]
    Operation(#[from] OperationError),
}

/// A check that is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub run_id: RunId,
    /// False: the connection had an active run already, and this is it.
    pub created: bool,
    /// Why the hint could not be sent; a worker's sweep finds the run all the same.
    pub hint_not_sent: Option<String>,
}

/// Records runs and sends their hints. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Producer {
    store: Arc<dyn Store>,
    queue: Option<Arc<dyn Queue>>,
    /// For the module that is recorded when the connection has none.
    providers: Providers,
}

impl Producer {
    /// Connects to the database and, where its URL is given, to Redis. The queue has its default name.
    /// Everything else of `verifyd`'s configuration has its default value; neither its files nor its
    /// environment are read.
    pub async fn connect(
        database_url: &str,
        redis_url: Option<&str>,
    ) -> Result<Self, ProducerError> {
        let mut settings = Settings::load(Sources::default())
            .map_err(|error| ProducerError::Connect(error.to_string()))?;
        settings.database.url = SecretString::from(database_url.to_owned());
        if let Some(url) = redis_url {
            settings.redis.url = SecretString::from(url.to_owned());
        }
        Self::with(&settings).await
    }

    /// Connects with the sections `database` and `redis` of `settings`, and sends each hint to the queue of its group
    /// in `worker.groups`.
    pub async fn with(settings: &Settings) -> Result<Self, ProducerError> {
        let failed = |error: anyhow::Error| ProducerError::Connect(format!("{error:#}"));
        let store = app::open_store(settings).await.map_err(failed)?;
        // Hints in this process would reach no worker.
        let queue = if settings.has_redis() {
            Some(app::open_queue(settings).map_err(failed)?)
        } else {
            None
        };
        let outbound = Outbound::new(&settings.outbound)
            .map_err(|error| ProducerError::Connect(error.to_string()))?;
        let providers = app::open_providers(settings, Arc::new(SystemClock), &outbound, None)
            .map_err(failed)?;
        Ok(Self {
            store,
            queue,
            providers,
        })
    }

    /// Records a check of this connection and sends its hint. An active run of the connection is
    /// returned in place of a second one. A connection that is disabled or cannot be used is refused.
    pub async fn check(&self, connection: ConnectionId) -> Result<Check, ProducerError> {
        self.start(&CheckRequest::of(connection)).await
    }

    /// Does the same with a module, an onboarding session or a reach of one's own.
    pub async fn start(&self, request: &CheckRequest) -> Result<Check, ProducerError> {
        let (store, queue) = (self.store.as_ref(), self.queue.as_deref());
        let started = start_check(store, queue, &self.providers, request).await?;
        Ok(Check {
            run_id: started.recorded.run_id,
            created: started.recorded.created,
            hint_not_sent: started.hint.err().map(|error| error.to_string()),
        })
    }

    /// Returns the present state of the run.
    pub async fn run(&self, id: RunId) -> Result<OperationRun, ProducerError> {
        Ok(find_run(self.store.as_ref(), &Binding::EVERYTHING, id).await?)
    }

    /// Returns the run as soon as it is completed, or its present state after `timeout`.
    pub async fn wait(&self, id: RunId, timeout: Duration) -> Result<OperationRun, ProducerError> {
        Ok(wait_for_run(self.store.as_ref(), id, timeout, |_| {}).await?)
    }
}
