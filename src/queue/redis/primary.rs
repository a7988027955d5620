//! Finds the primary of Redis: at a fixed address, or by asking Sentinels.
//!
//! A failover ends the connections to the former primary. Whoever opens one asks again, so that the next one leads to
//! the new primary. While Redis is unavailable every call does so: they share one search, and one that failed counts for
//! those that follow within a moment.

use super::address::{self, SentinelTarget, Target};
use super::error;
use super::settings::{RedisSettings, RedisSettingsError};
use crate::domain::report::redact::clean;
use crate::ports::single_flight::SingleFlight;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult};
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Characters of a description.
const LENGTH: usize = 1_000;

/// How long a search that failed counts: short beside the seconds that a failover takes.
const FAILURE_COUNTS_FOR: Duration = Duration::from_millis(500);

/// Leads to the primary.
pub(super) struct Primary {
    place: Place,
    timeouts: Timeouts,
}

enum Place {
    Fixed(Box<Client>),
    Monitored(Arc<Monitored>),
}

/// Of one connection to a server.
#[derive(Clone, Copy)]
struct Timeouts {
    connect: Duration,
    response: Duration,
}

/// A primary that Sentinels know.
struct Monitored {
    sentinels: Vec<Client>,
    target: SentinelTarget,
    timeouts: Timeouts,
    search_timeout: Duration,
    searches: SingleFlight<Result<Client, String>>,
    /// When the last search failed, and why; `None` if it has not.
    failure: Mutex<Option<(Instant, String)>>,
    /// The address that was found last, for the log.
    last: Mutex<Option<String>>,
}

impl Primary {
    /// Connects to nothing yet.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisSettingsError> {
        let refused = || RedisSettingsError::Url("the client does not accept it".to_owned());
        let timeouts = Timeouts {
            connect: settings.connect_timeout(),
            response: settings.response_timeout,
        };
        let place = match address::read(settings.url.expose_secret()).ok_or_else(refused)? {
            Target::Server(server) => {
                let client = Client::open(server).map_err(|_| refused())?;
                Place::Fixed(Box::new(client))
            }
            Target::Sentinels(target) => {
                let clients = target.sentinels.iter().cloned().map(Client::open);
                Place::Monitored(Arc::new(Monitored {
                    sentinels: clients.collect::<RedisResult<_>>().map_err(|_| refused())?,
                    target,
                    timeouts,
                    search_timeout: settings.call_timeout(),
                    searches: SingleFlight::default(),
                    failure: Mutex::new(None),
                    last: Mutex::new(None),
                }))
            }
        };
        Ok(Self { place, timeouts })
    }

    /// Whether another server may be the primary later.
    pub fn may_move(&self) -> bool {
        matches!(self.place, Place::Monitored(_))
    }

    /// Returns a client of the present primary. By a fixed address it connects to nothing. The error describes every
    /// failure, without passwords.
    pub async fn client(&self) -> Result<Client, String> {
        match &self.place {
            Place::Fixed(client) => Ok(client.as_ref().clone()),
            Place::Monitored(monitored) => monitored.client().await,
        }
    }

    /// Tries once whether the primary can be used, without any retry.
    pub async fn try_to_reach(&self) -> Result<(), String> {
        let client = self.client().await?;
        if !self.may_move() {
            self.timeouts.try_to_connect(&client).await?;
        }
        Ok(())
    }

    /// Asks each Sentinel. Returns why it does not lead to the primary, without passwords, for each that does not.
    pub async fn unusable_sentinels(&self) -> Vec<String> {
        let Place::Monitored(monitored) = &self.place else {
            return Vec::new();
        };
        let mut failures = Vec::new();
        let mut answers = monitored.ask_all();
        while let Some(answer) = answers.next().await {
            if let Err(failure) = answer {
                failures.push(clean(&failure, LENGTH));
            }
        }
        failures.sort();
        failures
    }
}

impl Timeouts {
    async fn try_to_connect(self, client: &Client) -> Result<MultiplexedConnection, String> {
        error::try_to_connect(client, self.connect, self.response).await
    }
}

impl Monitored {
    /// Searches for the primary, once for all callers that wait meanwhile.
    async fn client(self: &Arc<Self>) -> Result<Client, String> {
        if let Some(failure) = self.recent_failure() {
            return Err(failure);
        }
        let monitored = Arc::clone(self);
        let searching = async move { monitored.search().await };
        match self.searches.get(searching).await {
            Some(found) => found,
            None => Err("the search for the primary panicked; the log says where".to_owned()),
        }
    }

    fn recent_failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        let (at, failure) = failure.as_ref()?;
        (at.elapsed() < FAILURE_COUNTS_FOR).then(|| failure.clone())
    }

    /// The first Sentinel that leads to a server that can be used counts.
    async fn search(&self) -> Result<Client, String> {
        let searching = async {
            let mut failures = Vec::new();
            let mut answers = self.ask_all();
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(primary) => return Ok(primary),
                    Err(failure) => failures.push(failure),
                }
            }
            Err(clean(&failures.join("; "), LENGTH))
        };
        let found = match tokio::time::timeout(self.search_timeout, searching).await {
            Ok(found) => found,
            Err(_) => Err(format!(
                "no Sentinel led to the primary within {:?}",
                self.search_timeout
            )),
        };
        let failure = found.as_ref().err().cloned();
        *self.failure.lock() = failure.map(|failure| (Instant::now(), failure));
        if let Ok(primary) = &found {
            self.report(primary);
        }
        found
    }

    /// Asks all Sentinels at once, as some may be gone. Yields each answer when it comes.
    fn ask_all(&self) -> FuturesUnordered<impl Future<Output = Result<Client, String>>> {
        let sentinels = self.sentinels.iter();
        sentinels.map(|sentinel| self.ask(sentinel)).collect()
    }

    /// Asks one Sentinel, and connects to the server that it names: during a failover that is the one that is gone.
    async fn ask(&self, sentinel: &Client) -> Result<Client, String> {
        let asked = address::place(sentinel.get_connection_info().addr());
        let failed = |failure: String| format!("Sentinel {asked}: {failure}");
        let connected = self.timeouts.try_to_connect(sentinel).await;
        let mut connection = connected.map_err(failed)?;
        let name = &self.target.name;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let answer: Option<(String, u16)> = question
            .query_async(&mut connection)
            .await
            .map_err(|error| failed(error::describe(&error)))?;
        let Some((host, port)) = answer else {
            return Err(failed(format!("it monitors no primary named {name:?}")));
        };
        let named = self.target.primary_at(host, port);
        let place = address::place(named.addr());
        let unusable =
            |failure: String| failed(format!("the primary that it names, {place}: {failure}"));
        let primary = Client::open(named).map_err(|error| unusable(error::describe(&error)))?;
        let connected = self.timeouts.try_to_connect(&primary).await;
        connected.map_err(unusable)?;
        Ok(primary)
    }

    /// Logs the address of the primary when it is another than before.
    fn report(&self, primary: &Client) {
        let address = address::place(primary.get_connection_info().addr());
        let mut last = self.last.lock();
        if last.as_ref() != Some(&address) {
            tracing::info!(
                name = self.target.name,
                address,
                "Sentinel names the primary of Redis"
            );
            *last = Some(address);
        }
    }
}
