//! Tests how long calls may wait, and what they tell of their runs and tenants.

use super::*;
use crate::ports::store_error::{Code, Detail};
use futures::FutureExt as _;
use futures::future::join_all;
use futures::poll;
use tokio::time::sleep;

const TIMEOUT: Duration = Duration::from_secs(5);
const RUN: RunId = RunId(7);
const TENANT: Option<TenantId> = Some(TenantId(8));

/// A completion of [`RUN`], which is of no tenant.
const CALL: RunCall = RunCall {
    kind: CallKind::Completion,
    run: RUN,
    tenant: None,
    is_large: false,
};

fn cancelled() -> StoreError {
    StoreError::Contended(Detail::said("(SQLSTATE 57014)"))
}

fn is_refused(permit: Result<Permit, StoreError>) -> bool {
    matches!(permit, Err(StoreError::TooManyCalls))
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_permit_only_for_a_time() {
    let share = Share::new(0, TIMEOUT);
    let first = share.permit(Length::Short).await.unwrap();
    assert!(is_refused(share.permit(Length::Short).await));
    drop(first);
    let _again = share.permit(Length::Large).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_not_short_are_served_in_order() {
    for length in [Length::Long, Length::Large] {
        let share = Share::new(1, TIMEOUT).serving_in_order();
        let first = share.permit(Length::Long).await.unwrap();
        let mut second = pin!(share.permit(length));
        let waiting = tokio::time::timeout(9 * TIMEOUT, second.as_mut()).await;
        assert!(waiting.is_err(), "it is not refused");
        let mut third = pin!(share.permit(Length::Long));
        assert!(poll!(third.as_mut()).is_pending());
        drop(first);
        let second = second.await.unwrap();
        assert!(poll!(third.as_mut()).is_pending());
        assert!(is_refused(share.permit(Length::Short).await));
        drop(second);
        assert!(third.await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn large_calls_that_wait_for_each_other_take_no_connection() {
    let share = Share::new(4, TIMEOUT);
    let _large = share.permit(Length::Large).await.unwrap();
    let (others, long, small) = tokio::join!(
        join_all((0..9).map(|_| share.permit(Length::Large))),
        share.permit(Length::Long),
        share.permit(Length::Short)
    );
    assert!(others.into_iter().all(is_refused));
    assert!(long.is_ok() && small.is_ok());
}

#[tokio::test(start_paused = true)]
async fn long_calls_leave_connections_to_short_ones() {
    for (connections, most) in [(2, 1), (3, 1), (5, 2), (8, 4)] {
        let share = Share::new(connections, TIMEOUT);
        let long = (0..connections).map(|_| share.permit(Length::Long));
        let long = join_all(long).await;
        assert_eq!(long.iter().filter(|permit| permit.is_ok()).count(), most);
        assert!(share.permit(Length::Short).await.is_ok(), "{connections}");
    }
}

/// The answer of a call that the server cancels unless it is as long as this one, and the lengths of its tries.
async fn lengths_of_tries(share: &Share, enough: Length) -> (bool, Vec<Length>) {
    let lengths = Mutex::new(Vec::new());
    let call = |sent: CallTry| {
        lengths.lock().push(sent.length);
        std::future::ready(match sent.length == enough {
            true => Ok(()),
            false => Err(cancelled()),
        })
    };
    let is_answered = share.send(CALL, |()| true, call).await.is_ok();
    (is_answered, lengths.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_by_itself_until_a_call_gets_through() {
    use Length::{Large, Long, Short};
    let share = Share::new(3, TIMEOUT);
    assert!(!share.sends_by_itself(RUN));
    let tries = lengths_of_tries(&share, Short).await;
    assert_eq!(tries, (true, vec![Short]));
    assert!(!share.sends_by_itself(RUN));
    // None is enough.
    let tries = lengths_of_tries(&share, Large).await;
    assert_eq!(tries, (false, vec![Short, Long]));
    assert!(share.sends_by_itself(RUN));
    let tries = lengths_of_tries(&share, Long).await;
    assert_eq!(tries, (true, vec![Long]), "it is long from the beginning");
    assert!(!share.sends_by_itself(RUN));
    // Without an answer nothing is known of the run.
    let unanswered = |_| {
        let error = StoreError::Unavailable("no answer".into());
        std::future::ready(Err::<(), _>(error))
    };
    assert!(share.send(CALL, |()| true, unanswered).await.is_err());
    assert!(!share.sends_by_itself(RUN));
}

/// Or else it would be refused with others in each batch.
#[tokio::test(start_paused = true)]
async fn a_run_whose_row_a_trigger_keeps_goes_by_itself() {
    for (code, goes_by_itself) in [(Some(Code::Trigger), true), (None, false)] {
        let share = Share::new(3, TIMEOUT);
        let call = |_| {
            let why = Detail::new("kept", code.clone());
            std::future::ready(Err::<(), _>(StoreError::Refused(why)))
        };
        assert!(share.send(CALL, |()| true, call).await.is_err());
        assert_eq!(share.sends_by_itself(RUN), goes_by_itself);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_a_permit_is_not_forgotten() {
    let share = Share::new(1, TIMEOUT).serving_in_order();
    share.remember(RUN, Length::Long);
    let other = share.permit(Length::Long).await.unwrap();
    let (tries, ()) = tokio::join!(lengths_of_tries(&share, Length::Large), async {
        sleep(FORGET_AFTER).await;
        drop(other);
    });
    assert_eq!(tries, (false, vec![Length::Long]));
    assert!(share.sends_by_itself(RUN));
}

/// Or else runs that wait for their turn take the room of those that the server has cancelled.
#[tokio::test(start_paused = true)]
async fn a_run_whose_call_is_not_sent_is_not_remembered() {
    use Length::{Long, Short};
    let share = Share::new(1, TIMEOUT);
    let other = share.permit(Short).await.unwrap();
    assert_eq!(lengths_of_tries(&share, Short).await, (false, vec![]));
    assert!(!share.sends_by_itself(RUN));
    drop(other);
    // Its short try is cancelled, and its long one is not sent.
    let share = Share::new(3, TIMEOUT);
    let other = share.permit(Long).await.unwrap();
    assert_eq!(lengths_of_tries(&share, Long).await, (false, vec![Short]));
    drop(other);
    assert_eq!(lengths_of_tries(&share, Long).await, (true, vec![Long]));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_never_gets_through_is_forgotten() {
    let share = Share::new(3, TIMEOUT);
    lengths_of_tries(&share, Length::Large).await;
    tokio::time::advance(FORGET_AFTER).await;
    assert!(!share.sends_by_itself(RUN));
}

const SHORT: Duration = Duration::from_millis(SHORT_STATEMENT_MS as u64);

/// What a call meets.
#[derive(Clone, Copy)]
struct Meets {
    /// How long it waits for the lock of its run.
    lock: Duration,
    /// How long a rule has it wait then.
    rule: Duration,
    /// How long its statements travel.
    distance: Duration,
    /// Whether it writes.
    writes: bool,
}

const PASSES: Meets = Meets {
    lock: Duration::ZERO,
    rule: Duration::from_millis(100),
    distance: Duration::ZERO,
    writes: true,
};
const IS_FAR: Meets = Meets {
    distance: Duration::from_secs(1),
    ..PASSES
};
const WAITS: Meets = Meets {
    rule: Duration::from_secs(1),
    ..PASSES
};
/// It may have found its run locked, or completed.
const TELLS_NOTHING: Meets = Meets {
    writes: false,
    ..PASSES
};

/// A completion of this run and tenant.
fn of(run: i64, tenant: i64) -> RunCall {
    RunCall {
        run: RunId(run),
        tenant: Some(TenantId(tenant)),
        ..CALL
    }
}

/// The lengths of the tries of a call that the server cancels where it is short and takes too long.
async fn tries_of(share: &Share, call: RunCall, meets: Meets) -> Vec<Length> {
    let lengths = Mutex::new(Vec::new());
    let has_written = |has_written: &bool| *has_written;
    let answer = share.send(call, has_written, |sent| {
        lengths.lock().push(sent.length);
        async move {
            let limit = match sent.length {
                Length::Short => SHORT,
                _ => Duration::MAX,
            };
            let call = async {
                sleep(meets.lock).await;
                sent.record_lock();
                sleep(meets.rule).await;
                meets.writes
            };
            let answer = tokio::time::timeout(limit, call).await;
            sleep(meets.distance).await;
            answer.map_err(|_| cancelled())
        }
    });
    answer.await.unwrap();
    lengths.into_inner()
}

/// Has a short call of this tenant end, which had locked its run.
fn end(share: &Share, tenant: i64, has_written: Result<bool, &StoreError>) {
    let sent = CallTry::of(Length::Short);
    sent.record_lock();
    share.learn(of(1, tenant), &sent, has_written);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_waits_from_its_first_call_that_does_to_the_first_that_gets_through() {
    use Length::{Long, Short};
    let share = Share::new(3, TIMEOUT);
    let waits = || share.tenant_waits(CallKind::Completion, TENANT);
    let is_locked = Meets {
        lock: 2 * SHORT,
        ..PASSES
    };
    for (run, meets, tries, still_waits) in [
        (1, WAITS, vec![Short, Long], true),
        (2, TELLS_NOTHING, vec![Short], true),
        (3, PASSES, vec![Short], false),
        (4, PASSES, vec![Short], false),
        // Others have it wait for its lock.
        (5, is_locked, vec![Short, Long], false),
        // No statement of it takes long.
        (6, IS_FAR, vec![Short], false),
        (7, WAITS, vec![Short, Long], true),
        (8, IS_FAR, vec![Short], false),
        (9, WAITS, vec![Short, Long], true),
    ] {
        assert_eq!(tries_of(&share, of(run, 8), meets).await, tries, "{run}");
        assert_eq!(waits(), still_waits, "{run}");
    }
    // Neither another kind of call nor another tenant.
    assert!(!share.tenant_waits(CallKind::Release, TENANT));
    assert!(!share.tenant_waits(CallKind::Completion, None));
    assert_eq!(share.waiting_tenants(CallKind::Completion), [8]);
    assert!(share.waiting_tenants(CallKind::Release).is_empty());
    tokio::time::advance(FORGET_AFTER).await;
    assert!(!waits() && share.waiting_tenants(CallKind::Completion).is_empty());
}

/// It may have been as quick as it was before the rule was there.
#[tokio::test(start_paused = true)]
async fn a_quick_call_that_began_before_another_one_waited_tells_nothing() {
    let share = Share::new(3, TIMEOUT);
    let (waiting, quick) = (tries_of(&share, of(1, 8), WAITS), async {
        sleep(SHORT - PASSES.rule / 2).await;
        tries_of(&share, of(2, 8), PASSES).await;
        assert!(share.tenant_waits(CallKind::Completion, TENANT));
    });
    tokio::join!(waiting, quick);
}

/// Or else a call that gets the connection at once knows nothing of it.
#[tokio::test(start_paused = true)]
async fn a_call_is_learnt_from_before_its_connection_is_free() {
    let share = Share::new(3, TIMEOUT);
    let free = || share.limits[0].available_permits();
    let has_written = |_: &()| {
        assert_eq!(free(), 2);
        true
    };
    let call = |_| std::future::ready(Ok(()));
    share.send(of(1, 8), has_written, call).await.unwrap();
    assert_eq!(free(), 3);
}

/// Also while others have all connections for long calls.
#[tokio::test(start_paused = true)]
async fn short_calls_of_a_tenant_that_waits_go_one_after_the_other() {
    let share = Share::new(4, TIMEOUT);
    end(&share, 8, Err(&cancelled()));
    end(&share, 9, Err(&cancelled()));
    let _first = share.permit(Length::Long).await.unwrap();
    let _second = share.permit(Length::Long).await.unwrap();
    let began = Instant::now();
    let waiting = join_all((10..14).map(|run| tries_of(&share, of(run, 8), TELLS_NOTHING)));
    assert_eq!(waiting.await, vec![vec![Length::Short]; 4]);
    assert_eq!(began.elapsed(), 4 * TELLS_NOTHING.rule);
    // Only the first one is in turn: nothing holds the tenant any more.
    let began = Instant::now();
    let quick = join_all((20..60).map(|run| {
        let call = tries_of(&share, of(run, 9), PASSES);
        call.map(|_| began.elapsed())
    }));
    let quick = quick.await;
    let last = quick.into_iter().max().unwrap();
    assert!(last < TIMEOUT / 2, "{last:?}");
    assert_eq!(share.waiting_tenants(CallKind::Completion), [8]);
}

#[tokio::test(start_paused = true)]
async fn short_calls_of_a_tenant_that_waits_again_are_in_one_line() {
    let share = Share::new(8, TIMEOUT);
    let turn = |run| share.turn(of(run, 8), Instant::now() + TIMEOUT);
    end(&share, 8, Err(&cancelled()));
    let first = turn(1).await.unwrap();
    let mut second = pin!(turn(2));
    assert!(poll!(second.as_mut()).is_pending());
    end(&share, 8, Ok(true));
    end(&share, 8, Err(&cancelled()));
    let third = turn(3).await.unwrap();
    assert!(first.is_some() && third.is_some());
    drop(first);
    assert!(poll!(second.as_mut()).is_pending());
    drop(third);
    assert!(second.await.unwrap().is_some());
}

/// For its turn, and for the only connection.
#[tokio::test(start_paused = true)]
async fn short_calls_in_turn_are_served_in_order() {
    let share = Share::new(1, TIMEOUT).serving_in_order();
    end(&share, 8, Err(&cancelled()));
    let other = share.permit(Length::Long).await.unwrap();
    let calls = join_all((2..4).map(|run| tries_of(&share, of(run, 8), TELLS_NOTHING)));
    let (tries, ()) = tokio::join!(calls, async {
        sleep(3 * TIMEOUT).await;
        drop(other);
    });
    assert_eq!(tries, vec![vec![Length::Short]; 2]);
    // Its tenant waits no more once it is its turn.
    let other = share.permit(Length::Short).await.unwrap();
    let turn = share.turn(of(4, 8), Instant::now()).await.unwrap();
    let (tries, ()) = tokio::join!(tries_of(&share, of(5, 8), PASSES), async {
        sleep(3 * TIMEOUT).await;
        end(&share, 8, Ok(true));
        drop(turn);
        sleep(TIMEOUT / 2).await;
        drop(other);
    });
    assert_eq!(tries, [Length::Short]);
}

/// After how long a call is refused that the server would cancel, while something else happens.
async fn refused_after(share: &Share, meanwhile: impl Future<Output = ()>) -> Duration {
    let began = Instant::now();
    let refused = async {
        let call = |_| async {
            sleep(SHORT).await;
            Err::<(), _>(cancelled())
        };
        let answer = share.send(of(1, 8), |()| true, call).await;
        assert!(matches!(answer, Err(StoreError::TooManyCalls)));
        began.elapsed()
    };
    tokio::join!(refused, meanwhile).0
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_all_that_it_needs_only_for_a_time() {
    // For a connection, then for its turn.
    let share = Share::new(1, TIMEOUT);
    let other = share.permit(Length::Short).await.unwrap();
    let after = refused_after(&share, async {
        sleep(TIMEOUT / 2).await;
        end(&share, 8, Err(&cancelled()));
        let _turn = share.turn(of(2, 8), Instant::now()).await.unwrap();
        drop(other);
        sleep(TIMEOUT).await;
    });
    assert_eq!(after.await, TIMEOUT);
    // The other way round.
    let other = share.permit(Length::Short).await.unwrap();
    let turn = share.turn(of(2, 8), Instant::now()).await.unwrap();
    let after = refused_after(&share, async {
        sleep(TIMEOUT / 2).await;
        drop(turn);
        sleep(TIMEOUT).await;
        drop(other);
    });
    assert_eq!(after.await, TIMEOUT);
    // For a connection, then for one for a long call.
    let share = Share::new(3, TIMEOUT);
    let long = share.permit(Length::Long).await.unwrap();
    let short = join_all((0..2).map(|_| share.permit(Length::Short))).await;
    let after = refused_after(&share, async {
        sleep(TIMEOUT / 2).await;
        drop(short);
        sleep(TIMEOUT).await;
        drop(long);
    });
    assert_eq!(after.await, TIMEOUT + SHORT);
}

/// Also while others have all connections for long calls.
#[tokio::test(start_paused = true)]
async fn many_tenants_that_wait_leave_connections_to_others() {
    for connections in 3..=8 {
        let share = Share::new(connections, TIMEOUT);
        let tenants = 11..15;
        for tenant in tenants.clone() {
            end(&share, tenant, Err(&cancelled()));
        }
        let long = (0..connections).map(|_| share.permit(Length::Long));
        let _long = join_all(long).await;
        let calls = tenants.map(|tenant| tries_of(&share, of(tenant, tenant), WAITS));
        let mut waiting = pin!(join_all(calls));
        assert!(poll!(waiting.as_mut()).is_pending());
        let began = Instant::now();
        assert_eq!(tries_of(&share, of(20, 20), PASSES).await, [Length::Short]);
        assert_eq!(began.elapsed(), PASSES.rule, "{connections}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_stays_known_where_there_is_no_room_for_another_one() {
    let share = Share::new(3, TIMEOUT);
    let waits = |tenant| end(&share, tenant, Err(&cancelled()));
    (0..MAX_REMEMBERED as i64).for_each(waits);
    tokio::time::advance(FORGET_AFTER / 2).await;
    [0, -1].into_iter().for_each(waits);
    assert!(!share.tenant_waits(CallKind::Completion, Some(TenantId(-1))));
    tokio::time::advance(FORGET_AFTER / 2).await;
    assert_eq!(share.waiting_tenants(CallKind::Completion), [0]);
}

/// It takes long by itself.
#[tokio::test(start_paused = true)]
async fn a_large_call_tells_nothing_of_its_tenant() {
    let share = Share::new(3, TIMEOUT);
    let call = RunCall {
        is_large: true,
        ..of(1, 8)
    };
    assert_eq!(tries_of(&share, call, WAITS).await, [Length::Large]);
    assert!(!share.tenant_waits(CallKind::Completion, TENANT));
}
