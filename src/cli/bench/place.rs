//! Where the measurement takes place: on the user's own servers, beside the user's data.

use crate::cli::output;
use crate::config::Settings;
use crate::credentials::KeyEntry;
use crate::domain::groups::{DEFAULT_GROUP, WorkspaceGroups};
use crate::queue::redis::{remove_queue, try_queue};
use crate::store::Private;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A database and a queue that nobody else uses, until [`Place::remove`].
#[derive(Debug)]
pub struct Place {
    /// The user's settings, leading to them.
    pub settings: Settings,
    database: Option<Private>,
    /// Of the embedded database.
    _folder: Option<TempDir>,
}

impl Place {
    /// Makes them. Nothing that the settings name is read or written, but the keys: there are fresh
    /// ones.
    pub async fn make(mut settings: Settings) -> anyhow::Result<Self> {
        let key = STANDARD.encode(rand::random::<[u8; 32]>());
        settings.credentials.keys = vec![KeyEntry::parse(&format!("bench:{key}"))];
        settings.credentials.keys_file = PathBuf::new();
        settings.credentials.laravel_keys = Vec::new();
        settings.worker.groups = WorkspaceGroups::default();
        settings.worker.group = DEFAULT_GROUP.to_owned();
        settings.redis.queue = format!("verifyd-bench-{:08x}", rand::random::<u32>());
        if settings.has_redis() {
            // Shows at once when it is not there, or not allowed.
            try_queue(&settings.redis)
                .await
                .with_context(|| queue_refused(&settings.redis.queue))?;
        }
        let (mut database, mut folder) = (None, None);
        if settings.is_embedded() {
            let made = beside(&settings)?;
            settings.credentials.key_file = made.path().join("bench.key");
            settings.database.url = SecretString::from(format!(
                "sqlite://{}",
                made.path().join("bench.db").display()
            ));
            folder = Some(made);
        } else {
            let made = Private::make(&settings.database).await.context(
                "no database can be made for the measurement on the server of database.url",
            )?;
            settings.database = made.settings().clone();
            for name in made.left_over().await.unwrap_or_default() {
                output::note(format!(
                    "The database {name} was left by a measurement that was killed: DROP DATABASE \
                     {name} removes it."
                ));
            }
            database = Some(made);
        }
        Ok(Self {
            settings,
            database,
            _folder: folder,
        })
    }

    /// Leaves nothing behind. Everything is tried, whatever fails.
    pub async fn remove(self) -> anyhow::Result<()> {
        let queue = match self.settings.has_redis() {
            true => remove_queue(&self.settings.redis).await.map(drop),
            false => Ok(()),
        };
        let database = match &self.database {
            Some(database) => database
                .remove()
                .await
                .with_context(|| format!("the database {} could not be removed", database.name())),
            None => Ok(()),
        };
        queue.with_context(|| {
            let queue = &self.settings.redis.queue;
            format!("the keys {queue}:* could not be removed from Redis")
        })?;
        database
    }
}

fn queue_refused(queue: &str) -> String {
    format!(
        "the queue {queue}, which would be made for the measurement, cannot be used (where rights \
         are missing: keys ~verifyd-bench-*, channels &tasks:verifyd-bench-* and \
         &verifyd-bench-*, and the commands that deploy/redis.acl gives to verifyd_serve)"
    )
}

/// A folder on the disk of the embedded database, so that this disk is measured.
fn beside(settings: &Settings) -> anyhow::Result<TempDir> {
    let near = settings
        .embedded_key_file()
        .and_then(|file| file.parent().map(Path::to_owned))
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| PathBuf::from("."));
    let near = std::path::absolute(&near)?;
    tempfile::Builder::new()
        .prefix(".verifyd-bench-")
        .tempdir_in(&near)
        .with_context(|| format!("no folder can be made in {}", near.display()))
}
