//! When an acknowledgement was made, expires and was withdrawn.

use crate::store::acknowledgements::{BESIDE, BROKEN, accepted, checked, now, of, withdrawn};
use crate::store::bed::Bed;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use verifyd::domain::AcknowledgementId;
use verifyd::ports::acknowledgements::AcknowledgementFilter;

pub async fn it_does_not_outlive_its_expiry_or_its_withdrawal(bed: &Bed) {
    let first = checked(bed, 1, &[BROKEN, BESIDE]).await;
    let expiring = accepted(bed, first, 1, BROKEN).await;
    let revoked = accepted(bed, first, 1, BESIDE).await;
    let second = checked(bed, 1, &[BROKEN, BESIDE]).await;
    assert_eq!(of(&bed.store, second).await, [expiring, revoked]);
    let completed_at = bed.run(second).await.completed_at;
    let expiry = completed_at.unwrap() + TimeDelta::milliseconds(1);
    bed.exec(&format!(
        "UPDATE verification_check_acknowledgements SET expires_at = '{}' WHERE id = {expiring}",
        expiry.to_rfc3339()
    ))
    .await;
    let taken_back = withdrawn(bed, revoked, "Bob").await.unwrap();
    assert!(taken_back.withdrawn_at.is_some());
    assert_eq!(taken_back.withdrawn_by.as_deref(), Some("Bob"));
    assert_eq!(withdrawn(bed, revoked, "Eve").await, Some(taken_back));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let third = checked(bed, 1, &[BROKEN, BESIDE]).await;
    assert_eq!(of(&bed.store, third).await, []);
    // What was accepted then, was accepted then.
    assert_eq!(of(&bed.store, second).await, [expiring, revoked]);
    assert_eq!(of(&bed.store, first).await, [expiring, revoked]);
    // An expired one makes room for another one on the same run.
    let anew = accepted(bed, first, 1, BROKEN).await;
    assert_eq!(of(&bed.store, third).await, [anew]);
    assert_eq!(withdrawn(bed, AcknowledgementId(999), "Bob").await, None);
}

/// As another application may write them: `infinity` is the usual word for never, and what is no time is past.
pub async fn a_time_of_any_form_means_the_same_everywhere(bed: &Bed) {
    let first = checked(bed, 1, &[BROKEN]).await;
    let ack = accepted(bed, first, 1, BROKEN).await;
    let second = checked(bed, 1, &[BROKEN]).await;
    let set = async |column: &str, time: &str| {
        bed.exec(&format!(
            "UPDATE verification_check_acknowledgements SET {column} = '{time}' WHERE id = {ack}"
        ))
        .await;
    };
    let listed = async |active_only: bool| {
        let filter = AcknowledgementFilter {
            active_only,
            limit: 10,
            ..AcknowledgementFilter::default()
        };
        let found = bed.store.acknowledgements(&filter).await.unwrap();
        found.iter().map(|a| a.id).collect::<Vec<_>>()
    };
    if !bed.is_postgres() {
        // As a build before migration 20 recorded the time of a run that another application completed.
        bed.exec(
            "UPDATE verifyd_carried_acknowledgements \
             SET from_completed_at = replace(from_completed_at, 'T', ' ')",
        )
        .await;
        assert_eq!(of(&bed.store, first).await, [ack]);
        assert_eq!(of(&bed.store, second).await, [ack]);
    }
    let ends: &[(&str, bool)] = match bed.is_postgres() {
        true => &[
            ("infinity", true),
            ("290000-01-01", true),
            ("2999-01-05 00:00:00+02", true),
            ("2001-01-05", false),
            ("4713-01-01 BC", false),
            ("-infinity", false),
        ],
        false => &[
            ("infinity", true),
            ("+infinity ", true),
            ("99999-01-01", true),
            ("9999-12-31T23:59:59-02:00", true),
            ("9999-12-31T23:59:59.999Z", true),
            ("2999-01-05T00:00:00+02:00", true),
            ("2999-01-05 00:00", true),
            ("2001-01-05", false),
            ("2999-1-5", false),
            ("99999-1-5", false),
            ("2999-01-05T00:00:00+0200", false),
            // Days since 4714 BC to SQLite, in the year 9999; and seconds since 1970.
            ("5373000", false),
            ("32503680000", false),
            ("now", false),
            ("", false),
            (" infinity", false),
            ("-infinity", false),
            ("never", false),
        ],
    };
    for (time, is_active) in ends {
        set("expires_at", time).await;
        let read = bed.store.acknowledgement(ack).await.unwrap().unwrap();
        assert_eq!(read.is_active(now()), *is_active, "{time}");
        let is_shown = |at: DateTime<Utc>| at > DateTime::UNIX_EPOCH;
        assert!(read.expires_at.is_none_or(is_shown), "{time}: {read:?}");
        let active = match is_active {
            true => vec![ack],
            false => Vec::new(),
        };
        assert_eq!(listed(true).await, active, "{time}");
        assert_eq!(of(&bed.store, second).await, active, "{time}");
        assert_eq!(of(&bed.store, first).await, [ack], "{time}");
    }
    // The last of them is past: a later run ends it for good.
    let third = checked(bed, 1, &[BROKEN]).await;
    set("expires_at", "2999-01-05").await;
    assert_eq!(of(&bed.store, third).await, []);
    assert_eq!(listed(true).await, [ack]);
    // One that was made at no time is not one of an earlier run.
    let made: &[&str] = match bed.is_postgres() {
        true => &["infinity", "-infinity", "290000-01-01", "4713-01-01 BC"],
        false => &[
            "infinity",
            "-infinity",
            "never",
            "",
            "2030-1-5",
            "2461000",
            "12:00",
            "2030-01-05T00:00:00+0200",
        ],
    };
    for time in made {
        set("acknowledged_at", time).await;
        let read = bed.store.acknowledgement(ack).await.unwrap().unwrap();
        assert_eq!(read.acknowledged_at, None, "{time}");
        assert_eq!(listed(false).await, [ack], "{time}");
        assert_eq!(listed(true).await, [ack], "{time}");
        assert_eq!(of(&bed.store, first).await, [ack], "{time}");
    }
    set("withdrawn_at", "infinity").await;
    let read = bed.store.acknowledgement(ack).await.unwrap().unwrap();
    assert_eq!((read.is_withdrawn, read.withdrawn_at), (true, None));
    assert_eq!(listed(true).await, []);
    set("acknowledged_at", "2001-01-05").await;
    assert_eq!(listed(false).await, []);
    // Nor is there any of a run that is not completed.
    let queued = bed.queued_for(7, 1).await;
    bed.exec(&format!(
        "UPDATE verification_check_acknowledgements SET operation_run_id = {queued} \
         WHERE id = {ack}"
    ))
    .await;
    set("acknowledged_at", "infinity").await;
    assert_eq!(listed(false).await, []);
}
