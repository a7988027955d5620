//! Who acknowledged and who withdrew, kept beside the name that the person gives.

use crate::store::acknowledgements::{BROKEN, accept, checked, through};
use crate::store::bed::Bed;
use std::time::Duration;
use verifyd::domain::RunId;
use verifyd::domain::access::Binding;
use verifyd::domain::acknowledgement::{Acknowledgement, Actor, Surface};
use verifyd::ports::acknowledgements::AcknowledgementFilter;
use verifyd::ports::store::PrunePolicy;

fn terminal() -> Actor {
    Actor {
        surface: Surface::Cli,
        token_id: None,
        name: "ops, uid 1000".into(),
    }
}

pub async fn who_did_it_is_kept_and_read_in_every_way(bed: &Bed) {
    let store = &bed.store;
    let run = checked(bed, 1, &[BROKEN]).await;
    let made = acknowledged(bed, run).await;
    assert_eq!(made.acknowledged_through, Some(through()));
    assert_eq!(made.acknowledged_by, "Ann", "what the person says stays");
    // Somebody else asks for the same: it stays with who made it.
    let mut again = accept(run, 1, BROKEN);
    again.through = terminal().into();
    let (found, created) = store.acknowledge(&again).await.unwrap().unwrap();
    assert_eq!((&found, created), (&made, false));
    let filter = AcknowledgementFilter {
        binding: Binding::EVERYTHING,
        limit: 10,
        ..AcknowledgementFilter::default()
    };
    let everywhere = async || {
        let one = store.acknowledgement(made.id).await.unwrap();
        let of_run = store.acknowledgements_of(run).await.unwrap();
        let listed = store.acknowledgements(&filter).await.unwrap();
        assert_eq!((of_run.len(), listed.len()), (1, 1));
        assert_eq!((&of_run, &listed), (&vec![one.clone().unwrap()], &of_run));
        one.unwrap()
    };
    assert_eq!(everywhere().await, made);
    let later = checked(bed, 1, &[BROKEN]).await;
    let inherited = store.acknowledgements_of(later).await.unwrap();
    assert_eq!(inherited, std::slice::from_ref(&made));

    let by = terminal();
    let withdrawn = store.withdraw(made.id, "Bob", &by.into()).await.unwrap();
    let withdrawn = withdrawn.unwrap();
    assert_eq!(withdrawn.withdrawn_through, Some(terminal()));
    assert_eq!(withdrawn.acknowledged_through, Some(through()));
    let again = store
        .withdraw(made.id, "Eve", &through().into())
        .await
        .unwrap();
    assert_eq!(again.unwrap(), withdrawn);
    assert_eq!(everywhere().await, withdrawn);
}

async fn acknowledged(bed: &Bed, run: RunId) -> Acknowledgement {
    let made = bed.store.acknowledge(&accept(run, 1, BROKEN)).await;
    made.unwrap().unwrap().0
}

pub async fn what_was_noted_for_an_earlier_row_of_the_id_does_not_count(bed: &Bed) {
    let run = checked(bed, 1, &[BROKEN]).await;
    let made = acknowledged(bed, run).await;
    // The table may be another application's, which empties it and begins to count anew.
    bed.exec(&format!(
        "DELETE FROM verification_check_acknowledgements; \
         INSERT INTO verification_check_acknowledgements \
             (id, operation_run_id, check_key, reason, acknowledged_by, acknowledged_at) \
         VALUES ({}, {run}, 'permissions.x', 'known', 'somebody', '2999-01-01T00:00:00.000Z')",
        made.id
    ))
    .await;
    let found = bed.store.acknowledgement(made.id).await.unwrap().unwrap();
    assert_eq!(found.acknowledged_by, "somebody");
    assert_eq!(found.acknowledged_through, None);
}

pub async fn it_goes_with_its_run(bed: &Bed) {
    let run = checked(bed, 1, &[BROKEN]).await;
    let made = acknowledged(bed, run).await;
    let withdrawn = bed.store.withdraw(made.id, "Bob", &terminal().into()).await;
    assert!(withdrawn.unwrap().is_some());
    checked(bed, 1, &[BROKEN]).await;
    let actors = bed.own("acknowledgement_actors");
    assert_eq!(bed.count(&actors).await, 2);
    bed.age_run(run, "completed_at", 11 * 24 * 3600).await;
    let policy = PrunePolicy {
        older_than: Duration::from_secs(10 * 24 * 3600),
        batch: 100,
    };
    let pruned = bed.store.prune(&policy, None).await.unwrap();
    assert_eq!((pruned.runs, pruned.acknowledgements), (1, 1));
    assert_eq!(bed.count(&actors).await, 0);
}
