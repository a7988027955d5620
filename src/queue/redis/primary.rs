//! Finds the primary of Redis: at a fixed address, or by asking Sentinels.
//!
//! A failover ends the connections to the former primary. Whoever opens one asks again, so that the next one leads to
//! the new primary.

use super::address::{self, SentinelTarget, Target};
use super::error;
use super::settings::{RedisSettings, RedisSettingsError};
use crate::domain::report::redact::clean;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::{Client, RedisResult};
use secrecy::ExposeSecret;
use std::time::Duration;

/// Characters of a description.
const LENGTH: usize = 1_000;

/// Leads to the primary.
pub(super) struct Primary {
    place: Place,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// Of one search.
    call_timeout: Duration,
}

enum Place {
    Fixed(Client),
    Monitored(Monitored),
}

/// A primary that Sentinels know.
struct Monitored {
    sentinels: Vec<Client>,
    target: SentinelTarget,
    /// The address that was found last, for the log.
    last: Mutex<Option<String>>,
}

impl Primary {
    /// Connects to nothing yet.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisSettingsError> {
        let refused = || RedisSettingsError::Url("the client does not accept it".to_owned());
        let place = match address::read(settings.url.expose_secret()).ok_or_else(refused)? {
            Target::Server(server) => Place::Fixed(Client::open(server).map_err(|_| refused())?),
            Target::Sentinels(target) => {
                let clients = target.sentinels.iter().cloned().map(Client::open);
                Place::Monitored(Monitored {
                    sentinels: clients.collect::<RedisResult<_>>().map_err(|_| refused())?,
                    target,
                    last: Mutex::new(None),
                })
            }
        };
        Ok(Self {
            place,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            call_timeout: settings.call_timeout(),
        })
    }

    /// Whether another server may be the primary later.
    pub fn may_move(&self) -> bool {
        matches!(self.place, Place::Monitored(_))
    }

    /// Returns a client of the present primary. By a fixed address it connects to nothing. The error describes every
    /// failure, without passwords.
    pub async fn client(&self) -> Result<Client, String> {
        match &self.place {
            Place::Fixed(client) => Ok(client.clone()),
            Place::Monitored(monitored) => {
                match tokio::time::timeout(self.call_timeout, self.search(monitored)).await {
                    Ok(found) => found,
                    Err(_) => Err(format!(
                        "no Sentinel led to the primary within {:?}",
                        self.call_timeout
                    )),
                }
            }
        }
    }

    /// Tries once whether the primary can be used, without any retry.
    pub async fn try_to_reach(&self) -> Result<(), String> {
        let client = self.client().await?;
        if !self.may_move() {
            error::try_to_connect(&client, self.connect_timeout, self.response_timeout).await?;
        }
        Ok(())
    }

    /// Asks each Sentinel. Returns why it does not lead to the primary, without passwords, for each that does not.
    pub async fn unusable_sentinels(&self) -> Vec<String> {
        let Place::Monitored(monitored) = &self.place else {
            return Vec::new();
        };
        let sentinels = monitored.sentinels.iter();
        let mut asked: FuturesUnordered<_> = sentinels
            .map(|sentinel| self.ask(sentinel, &monitored.target))
            .collect();
        let mut failures = Vec::new();
        while let Some(answer) = asked.next().await {
            if let Err(failure) = answer {
                failures.push(clean(&failure, LENGTH));
            }
        }
        failures.sort();
        failures
    }

    /// Asks all Sentinels at once, as some may be gone. The first that leads to a server that can be used counts.
    async fn search(&self, monitored: &Monitored) -> Result<Client, String> {
        let sentinels = monitored.sentinels.iter();
        let mut asked: FuturesUnordered<_> = sentinels
            .map(|sentinel| self.ask(sentinel, &monitored.target))
            .collect();
        let mut failures = Vec::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(primary) => {
                    monitored.report(&primary);
                    return Ok(primary);
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(clean(&failures.join("; "), LENGTH))
    }

    /// Asks one Sentinel, and connects to the server that it names: during a failover that is the one that is gone.
    async fn ask(&self, sentinel: &Client, target: &SentinelTarget) -> Result<Client, String> {
        let asked = sentinel.get_connection_info().addr();
        let failed = |failure: String| format!("Sentinel {asked}: {failure}");
        let (connect, response) = (self.connect_timeout, self.response_timeout);
        let mut connection = error::try_to_connect(sentinel, connect, response)
            .await
            .map_err(failed)?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&target.name);
        let answer: Option<(String, u16)> = question
            .query_async(&mut connection)
            .await
            .map_err(|error| failed(error::describe(&error)))?;
        let Some((host, port)) = answer else {
            let name = &target.name;
            return Err(failed(format!("it monitors no primary named {name:?}")));
        };
        let named = format!("{host}:{port}");
        let unusable =
            |failure: String| failed(format!("the primary that it names, {named}: {failure}"));
        let primary = Client::open(target.primary_at(host, port))
            .map_err(|error| unusable(error::describe(&error)))?;
        error::try_to_connect(&primary, connect, response)
            .await
            .map_err(unusable)?;
        Ok(primary)
    }
}

impl Monitored {
    /// Logs the address of the primary when it is another than before.
    fn report(&self, primary: &Client) {
        let address = primary.get_connection_info().addr().to_string();
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
