//! On PostgreSQL and Redis: on verifyd's own tables, and on another application's.

use crate::hostile_producer::scene::Scene;
use crate::hostile_producer::shapes::{self, Database, Mistake};
use crate::hostile_producer::{Draw, hints, rounds};
use proptest::prelude::*;
use proptest::sample::select;

/// Rows of a round that is drawn.
const ROWS: usize = 60;

/// Right rows of each round.
const RIGHT: usize = 9;

/// Entries of a round that are no hints, or hints for what a producer has no business with.
const ENTRIES: usize = 60;

/// Rows that can never be claimed, before ten that can.
const NEVER: usize = 200;

/// A text of this many bytes, which PostgreSQL makes and stores compressed.
fn large(megabytes: usize) -> Mistake {
    Mistake::Column(
        "context",
        format!(
            "jsonb_build_object('provider', 'microsoft', 'module', 'health_check',
                 'provider_connection_id', 1, 'padding', repeat('x', {megabytes} * 1024 * 1024))"
        ),
    )
}

/// What only the owner of the table can write.
fn foreign_columns() -> impl Strategy<Value = Mistake> {
    let text = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<String>>();
    let times = || {
        let mut times = Database::Postgres.times();
        times.push("NULL".into());
        select(times)
    };
    prop_oneof![
        select(text(&[
            "'pending'",
            "'failed'",
            "'succeeded'",
            "''",
            "'blocked'"
        ]))
        .prop_map(|o| Mistake::Column("outcome", o)),
        select(text(&[
            "'completed'",
            "'running'",
            "'cancelled'",
            "NULL",
            "''",
            "'queued '"
        ]))
        .prop_map(|s| Mistake::Column("status", s)),
        select(text(&[
            "NULL",
            "'{}'",
            "'12'",
            "'\"x\"'",
            "'[null, 1, {}]'",
            "'[1e400]'"
        ]))
        .prop_map(|s| Mistake::Column("failure_summary", s)),
        times().prop_map(|t| Mistake::Column("started_at", t)),
        times().prop_map(|t| Mistake::Column("completed_at", t)),
        times().prop_map(|t| Mistake::Column("created_at", t)),
        select(text(&["NULL", "'provider.connection.check'"]))
            .prop_map(|t| Mistake::Column("type", t)),
        Just(Mistake::Column("context", "NULL".into())),
        select(text(&[
            "9223372036854775807",
            "-9223372036854775808",
            "0",
            "-1"
        ]))
        .prop_map(|id| Mistake::Column("id", id)),
    ]
}

/// One round: hostile rows, right ones behind them, hints of all kinds; then everything is looked at.
async fn round(scene: &mut Scene, draw: &mut Draw, mistakes: &[Vec<Mistake>]) {
    for (number, mistakes) in mistakes.iter().enumerate() {
        scene.hostile(number, mistakes).await;
    }
    scene.note_what_is_left_alone().await;
    let right = scene.right(RIGHT).await;
    hints::hostile(&scene.redis, draw, ENTRIES, &right).await;
    scene.round_ends_well().await;
    assert!(!scene.visitor.acknowledgements.is_empty());
    hints::all_is_taken(&scene.redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_producer_writes_into_verifyd_s_tables_and_queue() {
    let mut draw = Draw::new("hostile producer, own tables");
    let mut scene = Scene::own_tables().await;
    let catalogue = shapes::catalogue(Database::Postgres);
    round(&mut scene, &mut draw, &catalogue).await;
    assert!(scene.refused < catalogue.len() / 2, "{}", scene.refused);
    for _ in 1..rounds() {
        let drawn = draw.some(ROWS, &shapes::mistakes(Database::Postgres));
        round(&mut scene, &mut draw, &drawn).await;
    }
    // What is large, with right rows behind it.
    for megabytes in [200, 50] {
        scene.hostile(0, &[large(megabytes)]).await;
    }
    hints::huge(&scene.redis).await;
    scene.right(RIGHT).await;
    scene.round_ends_well().await;
    hints::all_is_taken(&scene.redis).await;
    // And with a queue that is none any more.
    hints::spoil(&scene.redis).await;
    scene.right(RIGHT).await;
    scene.round_ends_well().await;
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_another_application_writes_into_its_own_table() {
    let mut draw = Draw::new("hostile producer, another application's table");
    let mut scene = Scene::beside_another_application().await;
    // Two that are large and would be claimed first, then as many that can never be.
    for megabytes in [200, 50] {
        assert!(scene.hostile(0, &[large(megabytes)]).await.is_some());
    }
    let pending = [Mistake::Column("outcome", "'pending'".into())];
    for number in 0..NEVER {
        assert!(scene.hostile(number, &pending).await.is_some());
    }
    scene.note_what_is_left_alone().await;
    // Nobody sends hints for these, and nothing notifies: the sweep has to find them behind the others.
    scene.right(RIGHT).await;
    scene.round_ends_well().await;
    for _ in 0..rounds() {
        let mut drawn = draw.some(ROWS / 2, &shapes::mistakes(Database::Postgres));
        let mistakes = (
            shapes::mistakes(Database::Postgres),
            prop::collection::vec(foreign_columns(), 1..4),
        )
            .prop_map(|(ours, theirs)| match ours.len() {
                1 => theirs,
                _ => [ours, theirs].concat(),
            });
        drawn.extend(draw.some(ROWS, &mistakes));
        round(&mut scene, &mut draw, &drawn).await;
    }
    scene.ends().await;
}
