//! What checks have learnt of a connection, and the lists that show it.

use crate::store::bed::Bed;
use crate::store::fixtures::{context, sealed, succeeded};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use test_support::world::operator;
use verifyd::domain::access::Binding;
use verifyd::domain::completion::{CheckedScope, CheckedTarget, Completion};
use verifyd::domain::connection::ProviderConnection;
use verifyd::domain::connection_facts::{
    ConnectionFacts, CredentialExpiry, ExpirySource, KeptFacts,
};
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, RunId};
use verifyd::ports::overview::{
    ConnectionCursor, ConnectionFilter, ConnectionSort, ConnectionState,
};

fn end(days: i64) -> DateTime<Utc> {
    let now: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    now + TimeDelta::days(days)
}

fn facts(expires_at: Option<DateTime<Utc>>) -> ConnectionFacts {
    ConnectionFacts {
        owner_tenant_id: Some("11111111-0000-4000-8000-000000000001".into()),
        service_principal_id: Some("11111111-0000-4000-8000-000000000002".into()),
        entra_tenant_name: Some("Contoso ü".into()),
        expiry: Some(CredentialExpiry {
            expires_at,
            source: ExpirySource::Registration,
        }),
        ..ConnectionFacts::default()
    }
}

async fn add(bed: &Bed) -> ProviderConnection {
    let id = bed.connection_with(7, "payload").await;
    bed.store.connection(id).await.unwrap().unwrap().0
}

async fn keep(bed: &Bed, connection: &ProviderConnection, facts: ConnectionFacts) {
    let (_, credential) = bed.store.connection(connection.id).await.unwrap().unwrap();
    let changed_at = credential.and_then(|credential| credential.updated_at);
    let kept = KeptFacts::of(connection, changed_at, facts);
    bed.store.keep_facts(&kept).await.unwrap();
}

async fn kept(bed: &Bed, connection: &ProviderConnection) -> ConnectionFacts {
    let start = bed.store.starting_point(connection.id).await.unwrap();
    let start = start.unwrap();
    let changed_at = start.credential.and_then(|c| c.updated_at);
    let kept = start.facts;
    kept.map_or_else(ConnectionFacts::default, |kept| {
        kept.still_true(connection, changed_at)
    })
}

async fn state(bed: &Bed, id: ConnectionId) -> ConnectionState {
    let state = bed.store.connection_state(id, &Binding::EVERYTHING).await;
    state.unwrap().unwrap()
}

pub async fn what_was_learnt_is_kept_and_read_with_the_start_of_a_check(bed: &Bed) {
    let connection = add(bed).await;
    assert_eq!(kept(bed, &connection).await, ConnectionFacts::default());
    keep(bed, &connection, facts(Some(end(5)))).await;
    assert_eq!(kept(bed, &connection).await, facts(Some(end(5))));
    let shown = state(bed, connection.id).await.facts;
    let found_at = shown.credential_expiry_found_at;
    assert!(found_at.is_some());
    // Found again, it was found then; a new one is found now.
    let renamed = ConnectionFacts {
        entra_tenant_name: Some("Another".into()),
        ..facts(Some(end(5)))
    };
    keep(bed, &connection, renamed).await;
    let shown = state(bed, connection.id).await.facts;
    assert_eq!(shown.entra_tenant_name.as_deref(), Some("Another"));
    assert_eq!(shown.credential_expiry_found_at, found_at);
    keep(bed, &connection, ConnectionFacts::default()).await;
    assert_eq!(kept(bed, &connection).await, ConnectionFacts::default());
    let shown = state(bed, connection.id).await.facts;
    assert_eq!(shown.credential_expiry_found_at, None);
    // With a claim, too.
    keep(bed, &connection, facts(None)).await;
    let run = bed.queued_for(7, connection.id.0).await;
    let held = bed.claim(run, "w1").await;
    if let Some(start) = held.start {
        assert_eq!(start.facts.unwrap().facts, facts(None));
    }
}

pub async fn facts_of_what_is_another_now_do_not_count(bed: &Bed) {
    let connection = add(bed).await;
    keep(bed, &connection, facts(Some(end(5)))).await;
    let replaced = sealed(connection.id, "another payload");
    bed.set_credential(connection.id, "another payload").await;
    assert_eq!(kept(bed, &connection).await.expiry, None);
    let shown = state(bed, connection.id).await.facts;
    assert_eq!(shown.credential_expires_at, replaced.expires_at);
    assert_eq!(shown.credential_expiry_source, Some(ExpirySource::Recorded));
    assert_eq!(shown.credential_expiry_found_at, None);
    assert_eq!(shown.entra_tenant_name.as_deref(), Some("Contoso ü"));
    // Recorded later, for the same credential: what was found before does not count.
    keep(bed, &connection, facts(Some(end(5)))).await;
    let before = bed.store.connection(connection.id).await.unwrap().unwrap();
    let set = bed
        .store
        .set_credential_expiry(connection.id, end(9), operator());
    assert!(set.await.unwrap());
    let shown = state(bed, connection.id).await.facts;
    assert_eq!(shown.credential_expires_at, Some(end(9)));
    let after = bed.store.connection(connection.id).await.unwrap().unwrap();
    let (before, after) = (before.1.unwrap(), after.1.unwrap());
    assert_eq!(after.payload, before.payload);
    assert_eq!(after.updated_at, before.updated_at);
    assert_eq!(after.expiry.at(), Some(end(9)));
    let nobody = ConnectionId(connection.id.0 + 1000);
    let set = bed.store.set_credential_expiry(nobody, end(9), operator());
    assert!(!set.await.unwrap());
    // A check with the old credential ends only now.
    let late = KeptFacts::of(&connection, Some(end(0)), facts(Some(end(5))));
    bed.store.keep_facts(&late).await.unwrap();
    assert_eq!(kept(bed, &connection).await.expiry, None);
    bed.exec("UPDATE provider_connections SET entra_tenant_id = 'another'")
        .await;
    let shown = state(bed, connection.id).await.facts;
    assert_eq!(shown.entra_tenant_name, None);
}

async fn page(
    bed: &Bed,
    sort: ConnectionSort,
    after: Option<ConnectionCursor>,
    limit: u32,
) -> Vec<ConnectionState> {
    let filter = ConnectionFilter {
        sort,
        after,
        limit,
        ..ConnectionFilter::default()
    };
    bed.store.connection_states(&filter).await.unwrap()
}

/// All connections, as pages of this size list them.
async fn walk(bed: &Bed, sort: ConnectionSort, limit: u32) -> Vec<ConnectionId> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let next = page(bed, sort, after, limit).await;
        let Some(last) = next.last() else {
            return found;
        };
        // As it comes back from outside.
        let cursor = ConnectionCursor::at(last, sort).to_string();
        after = Some(cursor.parse().unwrap());
        found.extend(ids_of(&next));
        assert!(found.len() <= 100, "without end: {found:?}");
    }
}

fn ids_of(states: &[ConnectionState]) -> Vec<ConnectionId> {
    states.iter().map(|state| state.connection.id).collect()
}

pub async fn connections_are_sorted_by_expiry_page_by_page(bed: &Bed) {
    let mut ids = Vec::new();
    // In the order of their ids: late, never, as it is recorded (2030), soon, soon again, soonest.
    for expiry in [
        Some(Some(90)),
        Some(None),
        None,
        Some(Some(3)),
        Some(Some(3)),
        Some(Some(1)),
    ] {
        let connection = add(bed).await;
        if let Some(days) = expiry {
            keep(bed, &connection, facts(days.map(end))).await;
        }
        ids.push(connection.id);
    }
    let sorted = walk(bed, ConnectionSort::Expiry, 2).await;
    assert_eq!(sorted, [ids[5], ids[3], ids[4], ids[0], ids[2], ids[1]]);
    let second = ConnectionCursor::Id(ids[1]);
    assert_eq!(
        ids_of(&page(bed, ConnectionSort::Id, Some(second), 2).await),
        [ids[2], ids[3]]
    );
    // What a page ended with may expire at another time by now, or be gone: nothing is left out.
    let first = page(bed, ConnectionSort::Expiry, None, 2).await;
    let ended = ConnectionCursor::at(&first[1], ConnectionSort::Expiry);
    let replaced = first[1].connection.clone();
    keep(bed, &replaced, facts(Some(end(400)))).await;
    assert_eq!(
        ids_of(&page(bed, ConnectionSort::Expiry, Some(ended), 2).await),
        [ids[4], ids[0]]
    );
}

const POSTGRES_ENDS: &[&str] = &[
    "NULL",
    "infinity",
    "-infinity",
    "290000-01-01 00:00:00+00",
    "4713-01-01 00:00:00+00 BC",
    "0001-01-01 00:00:00+00",
    "1969-12-31 23:59:59.999999+00",
    "2030-01-02 03:04:05.678+00",
    "2030-01-02 03:04:05.678001+00",
    "2030-01-02 03:04:05.678999+00",
    "9999-12-31 23:59:59.999999+00",
];

/// Such as SQLite and Rust read differently, or only one of them reads.
const SQLITE_ENDS: &[&str] = &[
    "NULL",
    "",
    "now",
    "never",
    "2461000",
    "1893456000",
    "infinity",
    "-infinity",
    "99999-01-01",
    "2030-1-5",
    "2030-01-5 03:04:05",
    "2030-01-02  03:04",
    "2030-01-02T",
    "2030-01-02  ",
    "2030-02-30",
    " 2030-01-02",
    "2030-01-02T03:04:05.678Z",
    "9999-12-31 23:59:59+00",
];

const YEARS: &[&str] = &["0000", "0001", "1969", "2030", "9999"];
const DAYS: &[&str] = &[
    "01-01", "1-1", "01-2", "02-29", "02-30", "02-31", "06-31", "12-31", "13-01",
];
const TIMES: &[&str] = &[
    "",
    " 03:04",
    "T03:04:05.67849",
    "T03:04:05.6785",
    "T03:04:59.9999",
    " 03:04:60",
    " 23:59:60",
    "T23:59:59.999999",
    " 24:00:00",
    " 3:04",
    "T03:4:05",
    "T03:04:5",
    "t03:04:05",
    " T03:04:05",
];
const ZONES: &[&str] = &[
    "", "Z", "z", " Z", "\tz ", "  -02:00", "+00", "+00:00", "+0000", "+2:00", "-14:00", "+14:00",
    "+23:59",
];

/// What may stand in the column of a credential's end.
fn recorded_ends(is_postgres: bool) -> BoxedStrategy<String> {
    if is_postgres {
        return select(POSTGRES_ENDS).prop_map(str::to_owned).boxed();
    }
    let composed = (select(YEARS), select(DAYS), select(TIMES), select(ZONES));
    prop_oneof![
        select(SQLITE_ENDS).prop_map(str::to_owned),
        composed.prop_map(|(year, day, time, zone)| format!("{year}-{day}{time}{zone}")),
    ]
    .boxed()
}

/// Whether each connection is shown to expire after the one before, up to the milliseconds that SQLite knows, and those
/// without an end come last.
fn is_in_the_order_shown(listed: &[ConnectionState]) -> bool {
    let shown = |state: &ConnectionState| state.facts.credential_expires_at;
    listed
        .windows(2)
        .all(|pair| match (shown(&pair[0]), shown(&pair[1])) {
            (Some(first), Some(second)) => first <= second + TimeDelta::milliseconds(1),
            (None, Some(_)) => false,
            (_, None) => true,
        })
}

pub async fn whatever_is_recorded_each_connection_is_on_one_page(bed: &Bed) {
    let mut all = Vec::new();
    for found in [
        Some(None),
        Some(Some(end(3))),
        Some(Some(end(3))),
        Some(Some(end(3) + TimeDelta::microseconds(678_999))),
        None,
        None,
        None,
        None,
        None,
        None,
    ] {
        let connection = add(bed).await;
        if let Some(expires_at) = found {
            keep(bed, &connection, facts(expires_at)).await;
        }
        all.push(connection.id);
    }
    // Their rows cannot be used, and are listed all the same.
    let unusable = [-5, 0].map(ConnectionId);
    for id in unusable {
        bed.exec(&format!(
            "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status) \
             VALUES ({id}, 1, 7, 'microsoft', 'enabled')"
        ))
        .await;
    }
    let (recorded, mut runner) = (
        recorded_ends(bed.is_postgres()),
        TestRunner::deterministic(),
    );
    let every: Vec<ConnectionId> = unusable.into_iter().chain(all.clone()).collect();
    for limit in 1..=3 {
        assert_eq!(walk(bed, ConnectionSort::Id, limit).await, every);
    }
    for _ in 0..60 {
        let mut ends = Vec::new();
        for id in &all[4..] {
            let drawn = recorded.new_tree(&mut runner).unwrap().current();
            let value = match drawn.as_str() {
                "NULL" => drawn.clone(),
                text => format!("'{text}'"),
            };
            bed.exec(&format!(
                "UPDATE provider_credentials SET expires_at = {value} \
                 WHERE provider_connection_id = {id}"
            ))
            .await;
            ends.push(drawn);
        }
        let listed = page(bed, ConnectionSort::Expiry, None, 100).await;
        assert!(is_in_the_order_shown(&listed), "{ends:?}: {listed:?}");
        let whole = ids_of(&listed);
        let mut sorted = whole.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, every, "{ends:?}");
        for limit in 1..=3 {
            let walked = walk(bed, ConnectionSort::Expiry, limit).await;
            assert_eq!(walked, whole, "{limit}: {ends:?}");
        }
    }
}

fn named(name: &str) -> Completion {
    Completion {
        checked: Some(CheckedTarget {
            provider: "microsoft".into(),
            module: "core".into(),
            target_scope: Some(CheckedScope {
                entra_tenant_name: name.into(),
            }),
        }),
        ..succeeded()
    }
}

async fn completed(bed: &Bed, scope: Value) -> Value {
    let mut context = context(1);
    context["target_scope"] = scope;
    let runs = [
        bed.insert(RUN_TYPE, "queued", &context).await,
        bed.insert(RUN_TYPE, "queued", &context).await,
    ];
    // Two at once, so that both take the way of a batch.
    let (one, two) = futures::join!(bed.claim(runs[0], "w"), bed.claim(runs[1], "w"));
    let completion = named("Contoso \"ü\"");
    let (first, second) = futures::join!(
        bed.store.complete(&one, &completion),
        bed.store.complete(&two, &completion)
    );
    assert!(first.unwrap() && second.unwrap());
    let scope = |run: RunId| async move {
        let stored = bed.run(run).await;
        stored.context["target_scope"].clone()
    };
    let [one, two] = [scope(runs[0]).await, scope(runs[1]).await];
    assert_eq!(one, two);
    one
}

pub async fn the_directorys_name_is_added_where_the_producer_left_it_out(bed: &Bed) {
    let id = "11111111-2222-4333-8444-555555555555";
    assert_eq!(
        completed(bed, json!({"entra_tenant_id": id, "own": [1]})).await,
        json!({"entra_tenant_id": id, "own": [1], "entra_tenant_name": "Contoso \"ü\""})
    );
    // What a producer wrote is never overwritten, also when it makes no sense.
    for kept in [
        json!({"entra_tenant_id": id, "entra_tenant_name": "Own"}),
        json!({"entra_tenant_id": id, "entra_tenant_name": 12}),
        json!({"entra_tenant_id": id, "entra_tenant_name": null}),
        json!("a text"),
        json!([1]),
        json!(null),
    ] {
        assert_eq!(completed(bed, kept.clone()).await, kept);
    }
}
