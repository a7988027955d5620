//! What each of several hosts is, and which of those that accept writes is a former primary: a standby that is promoted
//! begins a later timeline.

use super::timeouts::TIMELINE;
use crate::ports::probe::HostRole;
use crate::ports::store_error::Detail;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for the other hosts once one accepts writes: one that is gone says nothing.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(3);

/// The latest timeline of a database cluster that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    pub cluster: i64,
    pub number: i64,
}

impl Timeline {
    /// Whether the other server was promoted later. Those of two clusters cannot be compared.
    fn is_before(self, other: Self) -> bool {
        self.cluster == other.cluster && self.number < other.number
    }
}

/// What a host says of itself.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub role: HostRole,
    /// `None`: of a standby, or not known.
    pub timeline: Option<Timeline>,
}

impl Found {
    pub fn unreachable(why: Detail) -> Self {
        Self {
            role: HostRole::Unreachable(why),
            timeline: None,
        }
    }
}

/// The timeline of a server that is no standby. `None`: it tells none, as a service that keeps its log itself.
pub(super) async fn timeline_of(connection: &mut PgConnection) -> Option<Timeline> {
    let row = sqlx::raw_sql(TIMELINE).fetch_one(connection).await.ok()?;
    Some(Timeline {
        cluster: row.try_get(0).ok()?,
        number: row.try_get(1).ok()?,
    })
}

/// Waits for what each host says of itself, and tells former primaries from the present one. `chosen`: the timeline of
/// the host that was chosen last.
pub(super) async fn collect_answers<A: Future<Output = (usize, Found)>>(
    mut answers: FuturesUnordered<A>,
    chosen: Option<Timeline>,
    timeout: Duration,
) -> Vec<Found> {
    let mut found = vec![Found::unreachable("no answer in time".into()); answers.len()];
    let mut until = Instant::now() + timeout;
    while let Ok(Some((index, answer))) = tokio::time::timeout_at(until, answers.next()).await {
        if answer.role == HostRole::Primary && !is_former(answer.timeline, chosen) {
            until = until.min(Instant::now() + OTHERS_TIMEOUT);
        }
        found[index] = answer;
    }
    mark_former(&mut found, chosen);
    found
}

/// Whether the host that was chosen last was promoted later than this one.
pub(super) fn is_former(own: Option<Timeline>, chosen: Option<Timeline>) -> bool {
    matches!((own, chosen), (Some(own), Some(chosen)) if own.is_before(chosen))
}

/// Tells former primaries from the present one: another host, or the one that was chosen last, was promoted later.
fn mark_former(found: &mut [Found], chosen: Option<Timeline>) {
    let hosts = found.iter().filter_map(|host| host.timeline);
    let known: Vec<Timeline> = hosts.chain(chosen).collect();
    for host in found {
        let is_before = |own: Timeline| known.iter().any(|other| own.is_before(*other));
        if host.role == HostRole::Primary && host.timeline.is_some_and(is_before) {
            host.role = HostRole::FormerPrimary;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_a_former_one_once_another_was_promoted_later() {
        use HostRole::{FormerPrimary, Primary, ReadOnly, Standby};
        let of = |cluster, number| Some(Timeline { cluster, number });
        for (chosen, hosts, wanted) in [
            (
                None,
                [(Primary, of(7, 1)), (Standby, None)],
                [Primary, Standby],
            ),
            (
                None,
                [(Primary, of(7, 1)), (Primary, of(7, 2))],
                [FormerPrimary, Primary],
            ),
            (
                of(7, 3),
                [(Primary, of(7, 1)), (Primary, of(7, 2))],
                [FormerPrimary, FormerPrimary],
            ),
            (
                of(7, 2),
                [(Primary, of(7, 2)), (Primary, of(7, 2))],
                [Primary, Primary],
            ),
            (
                None,
                [(Primary, of(7, 1)), (ReadOnly, of(7, 2))],
                [FormerPrimary, ReadOnly],
            ),
            // Of another cluster, and of one that tells nothing.
            (
                of(8, 3),
                [(Primary, of(7, 1)), (Primary, None)],
                [Primary, Primary],
            ),
        ] {
            let mut found = hosts.map(|(role, timeline)| Found { role, timeline });
            mark_former(&mut found, chosen);
            assert_eq!(found.map(|host| host.role), wanted, "{chosen:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_known_as_former_leaves_the_others_their_time() {
        use HostRole::{FormerPrimary, Primary, Unreachable};
        let of = |number| Timeline { cluster: 7, number };
        let primary = |seconds: u64, index: usize, number: i64| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let timeline = Some(of(number));
            let role = Primary;
            (index, Found { role, timeline })
        };
        for (chosen, wanted) in [
            (None, [Primary, Unreachable("no answer in time".into())]),
            (Some(of(2)), [FormerPrimary, Primary]),
        ] {
            let answers = [primary(0, 0, 1), primary(4, 1, 2)];
            let answers: FuturesUnordered<_> = answers.into_iter().collect();
            let found = collect_answers(answers, chosen, Duration::from_secs(5)).await;
            let roles: Vec<HostRole> = found.into_iter().map(|host| host.role).collect();
            assert_eq!(roles, wanted, "{chosen:?}");
        }
    }
}
