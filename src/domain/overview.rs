//! Data about many connections and runs.

use super::connection::ProviderConnection;
use super::connection_facts::{CredentialExpiry, ExpirySource, KeptFacts};
use super::ids::{ConnectionId, RunId, TenantId, WorkspaceId};
use super::report::redact;
use super::run::{Outcome, RunStatus};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// Longest name that is shown, in characters.
pub const NAME_CHARS: usize = 200;

/// The latest report of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LatestReport {
    pub operation_run_id: RunId,
    pub fingerprint: String,
    pub overall: String,
    pub outcome: Outcome,
    pub completed_at: DateTime<Utc>,
}

/// A connection with its current state.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionState {
    pub connection: ProviderConnection,
    /// Why it cannot be used: the column, its value and what is allowed.
    pub problem: Option<String>,
    /// `None` when it was never checked.
    pub latest_report: Option<LatestReport>,
    /// A run of the connection that is queued or running.
    pub active_run_id: Option<RunId>,
    /// Facts that checks have found out.
    pub facts: KnownFacts,
    /// Its place in the order of expiry.
    pub expiry_key: ExpiryKey,
}

/// The place of a connection in the order of expiry, as the database computes it: about the microseconds since 1970.
/// Paging compares it with nothing else, so a time may be shown that databases read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiryKey(pub i64);

impl ExpiryKey {
    /// Of what never expires, or of which it is unknown.
    pub const NEVER: Self = Self(i64::MAX);
}

impl ConnectionState {
    /// Returns the name that people know the connection by: its own, or else the directory's.
    pub fn name(&self) -> Option<String> {
        let names = [&self.connection.display_name, &self.facts.entra_tenant_name];
        let names = names.into_iter().filter_map(|name| name.as_deref());
        let name = names.map(str::trim).find(|name| !name.is_empty())?;
        Some(redact::clean(name, NAME_CHARS))
    }
}

/// Facts about a connection that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownFacts {
    /// Name of the directory.
    pub entra_tenant_name: Option<String>,
    /// When the credential expires. `None` with a source: never; without one: unknown.
    pub credential_expires_at: Option<DateTime<Utc>>,
    pub credential_expiry_source: Option<ExpirySource>,
    pub credential_expiry_found_at: Option<DateTime<Utc>>,
}

impl KnownFacts {
    /// Returns the facts that still apply to the connection.
    pub fn of(connection: &ProviderConnection, kept: Option<KeptFacts>) -> Self {
        let Some(kept) = kept else {
            return Self::default();
        };
        let (changed, found_at) = (kept.credential_changed_at, kept.expiry_found_at);
        let facts = kept.still_true(connection, changed);
        Self {
            entra_tenant_name: facts.entra_tenant_name,
            credential_expires_at: facts.expiry.and_then(|expiry| expiry.expires_at),
            credential_expiry_source: facts.expiry.map(|expiry| expiry.source),
            credential_expiry_found_at: facts.expiry.and(found_at),
        }
    }

    /// Adds the recorded expiry where no check has found one.
    pub fn or_recorded(self, recorded: Option<CredentialExpiry>) -> Self {
        match (self.credential_expiry_source, recorded) {
            (None, Some(recorded)) => Self {
                credential_expires_at: recorded.expires_at,
                credential_expiry_source: Some(recorded.source),
                ..self
            },
            _ => self,
        }
    }
}

/// One run in the list of a connection's last runs.
#[derive(Clone, Debug, PartialEq)]
pub struct TrendPoint {
    pub connection_id: ConnectionId,
    pub operation_run_id: RunId,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    /// `summary.overall` of the report, as it was stored.
    pub overall: Option<String>,
    pub completed_at: Option<DateTime<Utc>>,
}

/// Numbers of connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    pub total: u64,
    pub disabled: u64,
    /// Connections whose row contains an invalid value.
    pub unusable: u64,
    /// Enabled connections by the result of their latest report.
    pub ready: u64,
    pub needs_attention: u64,
    pub blocked: u64,
    /// Connections whose latest run failed. They are also counted by their latest report.
    pub failed: u64,
    pub never_checked: u64,
}

/// Runs completed within one slice of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HistorySlice {
    pub from: DateTime<Utc>,
    pub succeeded: u64,
    pub failed: u64,
    pub blocked: u64,
}

/// Throughput and latency of recently completed runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Oldest first, gaps included.
    pub slices: Vec<HistorySlice>,
    /// Number of runs that were read.
    pub runs: u64,
    /// Whether the limit was reached, so that older runs of the period are missing.
    pub truncated: bool,
    /// Milliseconds from recording to completion: 50th, 95th and 99th percentile. `None` without runs.
    pub latency_ms: Option<[f64; 3]>,
}

/// A queued run that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingRun {
    pub operation_run_id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    pub tenant_id: Option<TenantId>,
    /// Time for which it has been due.
    pub waiting_seconds: f64,
}

impl History {
    /// Divides the runs completed between `now - period` and `now` into slices of equal length.
    pub fn of(
        runs: &[CompletedRun],
        now: DateTime<Utc>,
        period: Duration,
        slices: u32,
        truncated: bool,
    ) -> Self {
        let slices = slices.max(1);
        let slice = period / slices;
        let from = now - period;
        let mut history = Self {
            slices: (0..slices)
                .map(|i| HistorySlice {
                    from: from + slice * i,
                    succeeded: 0,
                    failed: 0,
                    blocked: 0,
                })
                .collect(),
            runs: 0,
            truncated,
            latency_ms: None,
        };
        let mut latencies = Vec::with_capacity(runs.len());
        for run in runs {
            let Ok(age) = (run.completed_at - from).to_std() else {
                continue;
            };
            // A run that was completed at `now` belongs to the last slice.
            let index = (age.as_nanos() / slice.as_nanos().max(1)) as usize;
            let Some(cell) = history.slices.get_mut(index.min(slices as usize - 1)) else {
                continue;
            };
            match run.outcome {
                Outcome::Succeeded => cell.succeeded += 1,
                Outcome::Failed => cell.failed += 1,
                Outcome::Blocked => cell.blocked += 1,
            }
            history.runs += 1;
            // The application's clock may be ahead of the database's.
            if let Some(created) = run.created_at {
                let ms = (run.completed_at - created).num_microseconds();
                latencies.push(ms.unwrap_or(i64::MAX).max(0) as f64 / 1_000.0);
            }
        }
        latencies.sort_by(f64::total_cmp);
        history.latency_ms =
            (!latencies.is_empty()).then(|| [0.5, 0.95, 0.99].map(|p| percentile(&latencies, p)));
        history
    }
}

/// Returns the percentile by nearest rank: one of the values, never an interpolation.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// A completed run, as [`History`] needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompletedRun {
    pub outcome: Outcome,
    pub created_at: Option<DateTime<Utc>>,
    pub completed_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn run(outcome: Outcome, now: DateTime<Utc>, age: i64, took_ms: i64) -> CompletedRun {
        let completed_at = now - TimeDelta::seconds(age);
        CompletedRun {
            outcome,
            created_at: Some(completed_at - TimeDelta::milliseconds(took_ms)),
            completed_at,
        }
    }

    #[test]
    fn runs_fall_into_their_slices() {
        let now: DateTime<Utc> = "2026-01-02T03:00:00Z".parse().unwrap();
        let runs = [
            run(Outcome::Succeeded, now, 0, 100),
            run(Outcome::Failed, now, 3_599, 200),
            run(Outcome::Blocked, now, 3_601, 300),
            run(Outcome::Succeeded, now, 7_200, 400),
            run(Outcome::Succeeded, now, 7_201, 9_000),
        ];
        let history = History::of(&runs, now, Duration::from_secs(7_200), 2, false);
        assert_eq!(history.runs, 4);
        assert_eq!(history.slices.len(), 2);
        let cells: Vec<_> = history
            .slices
            .iter()
            .map(|s| (s.succeeded, s.failed, s.blocked))
            .collect();
        assert_eq!(cells, [(1, 0, 1), (1, 1, 0)]);
        assert_eq!(history.latency_ms, Some([200.0, 400.0, 400.0]));
    }

    #[test]
    fn without_runs_there_is_no_latency() {
        let history = History::of(&[], DateTime::UNIX_EPOCH, Duration::from_secs(60), 6, true);
        assert_eq!(history.latency_ms, None);
        assert_eq!(history.slices.len(), 6);
        assert!(history.truncated);
    }

    #[test]
    fn percentiles_are_ranks() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.5), 50.0);
        assert_eq!(percentile(&hundred, 0.95), 95.0);
        assert_eq!(percentile(&hundred, 0.99), 99.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }
}
