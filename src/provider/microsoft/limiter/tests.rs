//! Tests of limiters, by a clock that only moves when all wait.

use super::*;
use crate::ports::budgets::ApplicationBudget;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::sleep;

const CLIENT: Uuid = Uuid::from_u128(1);

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A database with the budget of one application.
struct Database {
    began: Instant,
    replicas: u32,
    budget: Mutex<Option<Budget>>,
    is_away: AtomicBool,
    /// Whether it never answers.
    hangs: AtomicBool,
    asked: AtomicU32,
}

impl Database {
    fn of(replicas: u32) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            replicas,
            budget: Mutex::new(None),
            is_away: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            asked: AtomicU32::new(0),
        })
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// The limiters of another replica.
    fn limiters(self: &Arc<Self>) -> Limiters {
        let mut limiters = Limiters::new(seconds(5));
        limiters.share(Arc::clone(self) as Arc<dyn BudgetStore>);
        limiters
    }
}

#[async_trait]
impl BudgetStore for Database {
    async fn permits(
        &self,
        _key: &BudgetKey,
        request: &PermitRequest,
    ) -> Result<Option<Permits>, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".into()));
        }
        let now = DateTime::<Utc>::UNIX_EPOCH + self.began.elapsed();
        let mut budget = self.budget.lock();
        *budget = match request.throttling {
            Some(throttling) => Some(Budget::after(*budget, throttling, now)),
            None => budget.filter(|budget| !budget.is_over(now)),
        };
        let permits = budget
            .as_mut()
            .map(|budget| budget.take(request.wanted, self.replicas, now));
        Ok(permits)
    }

    async fn budgets(&self) -> Result<Vec<ApplicationBudget>, StoreError> {
        Ok(Vec::new())
    }
}

/// The requests of a new check of this tenant, in a directory of its own.
async fn requests(limiters: &Limiters, tenant: u32) -> Arc<LimitedRequests> {
    requests_of(limiters, tenant, false).await
}

/// The same, of a run that was released before.
async fn repeated(limiters: &Limiters, tenant: u32) -> Arc<LimitedRequests> {
    requests_of(limiters, tenant, true).await
}

async fn requests_of(limiters: &Limiters, tenant: u32, is_repeated: bool) -> Arc<LimitedRequests> {
    let directory = Uuid::from_u128(tenant.into());
    let check = WaitingCheck {
        id: Uuid::new_v4(),
        tenant: TenantId(tenant.into()),
        is_repeated,
    };
    let requests = limiters.requests("global", CLIENT, directory, check);
    Arc::new(requests.await)
}

/// When the run of a check that gets no permit comes again.
async fn reservation(requests: &LimitedRequests, deadline: Duration) -> Duration {
    let refused = requests.permit(Instant::now() + deadline).await;
    let fault = refused.expect_err("it gets no permit");
    assert_eq!(fault.reason, Reason::Throttled);
    let later = fault.later.unwrap();
    assert_eq!(later.cause, LaterCause::Budget);
    later.wait
}

/// Has the application throttled after 100 answers within six seconds, for four more: with one replica 420 requests a
/// minute are left, seven a second.
async fn throttle(requests: &LimitedRequests) {
    for _ in 0..100 {
        requests.answered();
        sleep(Duration::from_millis(60)).await;
    }
    requests.throttled(Some(ThrottleScope::Application), Some(seconds(4)));
}

/// Sends so many requests at once; each tells how long it has waited.
fn send(
    requests: &Arc<LimitedRequests>,
    count: usize,
    deadline: Duration,
) -> JoinSet<Result<Duration, Fault>> {
    let mut sent = JoinSet::new();
    let began = Instant::now();
    for _ in 0..count {
        let requests = Arc::clone(requests);
        sent.spawn(async move {
            requests.permit(began + deadline).await?;
            Ok(began.elapsed())
        });
    }
    sent
}

/// The waits of all requests, which must have got their permits, in order.
async fn waits(sent: JoinSet<Result<Duration, Fault>>) -> Vec<Duration> {
    let waits = sent.join_all().await.into_iter();
    let mut waits: Vec<Duration> = waits.map(Result::unwrap).collect();
    waits.sort_unstable();
    waits
}

#[test]
fn a_scope_is_read_as_graph_writes_it() {
    for (value, scope) in [
        (
            "Tenant_Application/ReadWrite/9a3d526c/0785ef7c",
            Some(ThrottleScope::Directory),
        ),
        ("Tenant/Read/9a3d526c", Some(ThrottleScope::Directory)),
        (
            "Application/ReadWrite/9a3d526c",
            Some(ThrottleScope::Application),
        ),
        (
            "Partition_Application_All",
            Some(ThrottleScope::Application),
        ),
        ("User/Read", None),
        ("", None),
    ] {
        assert_eq!(ThrottleScope::parse(value), scope, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_before_the_application_is_throttled() {
    let database = Database::of(1);
    let limiters = database.limiters();
    let of_one = requests(&limiters, 1).await;
    let of_other = requests(&limiters, 2).await;
    // One directory by itself, whether Graph says so or not.
    of_one.throttled(Some(ThrottleScope::Directory), Some(seconds(30)));
    of_other.throttled(Some(ThrottleScope::Directory), Some(seconds(30)));
    of_one.throttled(None, Some(seconds(30)));
    of_one.throttled(None, Some(seconds(30)));
    let waits = waits(send(&of_other, 1_000, seconds(60))).await;
    assert_eq!(waits.last(), Some(&Duration::ZERO));
    assert_eq!(database.asked(), 0);
    // Two at the same moment: the application's limit.
    of_other.throttled(None, Some(seconds(30)));
    assert!(of_one.permit(Instant::now() + seconds(20)).await.is_err());
    sleep(seconds(1)).await;
    assert_eq!(database.asked(), 1);
}

/// Whatever answers for it names the application's limit.
#[tokio::test(start_paused = true)]
async fn a_directory_that_alone_is_refused_again_holds_no_other_back() {
    let limiters = Database::of(1).limiters();
    let broken = requests(&limiters, 1).await;
    let healthy = requests(&limiters, 2).await;
    for _ in 0..3 {
        broken.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
    }
    assert!(healthy.permit(Instant::now() + seconds(20)).await.is_err());
    sleep(seconds(42)).await;
    let healthy = repeated(&limiters, 2).await;
    for _ in 0..10 {
        drop(waits(send(&healthy, 1, seconds(20))).await);
        healthy.answered();
        broken.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_application_sends_at_its_rate_after_the_pause() {
    let database = Database::of(1);
    let requests = requests(&database.limiters(), 1).await;
    requests.begin();
    throttle(&requests).await;
    let waits = waits(send(&requests, 70, seconds(600))).await;
    assert!(waits[0] >= seconds(4), "{waits:?}");
    let last = waits[69].as_secs_f64();
    assert!((12.0..15.0).contains(&last), "{waits:?}");
    // The permits of a second at a time.
    assert!(database.asked() <= 15, "{}", database.asked());
}

#[tokio::test(start_paused = true)]
async fn replicas_share_a_budget() {
    let database = Database::of(2);
    let first = requests(&database.limiters(), 1).await;
    let second = requests(&database.limiters(), 2).await;
    first.begin();
    second.begin();
    throttle(&first).await;
    // It has sent nothing, and takes as much as the other one now.
    second.throttled(Some(ThrottleScope::Application), Some(seconds(4)));
    let (first, second) = (
        send(&first, 35, seconds(600)),
        send(&second, 35, seconds(600)),
    );
    let (first, second) = tokio::join!(waits(first), waits(second));
    for waits in [&first, &second] {
        let last = waits[34].as_secs_f64();
        assert!((11.0..16.0).contains(&last), "{first:?} {second:?}");
    }
    // Half of the permits of a second at a time.
    assert!(database.asked() <= 40, "{}", database.asked());
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_a_thousand_checks_leaves_permits_to_another_one() {
    let limiters = Database::of(1).limiters();
    throttle(&*requests(&limiters, 1).await).await;
    let mut many = Vec::new();
    for _ in 0..1_000 {
        let check = requests(&limiters, 1).await;
        check.begin();
        many.push(send(&check, 1, seconds(600)));
    }
    let one = requests(&limiters, 2).await;
    one.begin();
    let waits = waits(send(&one, 1, seconds(600))).await;
    assert!(waits[0] < seconds(5), "{waits:?}");
    drop(many);
}

/// Neither a check that has begun nor another one keeps its slot.
#[tokio::test(start_paused = true)]
async fn a_long_pause_is_not_waited_for() {
    // No answer of the database ends a wait.
    let database = Database::of(1);
    database.is_away.store(true, Ordering::Relaxed);
    let limiters = database.limiters();
    let begun = requests(&limiters, 1).await;
    begun.begin();
    begun.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
    let began = Instant::now();
    assert_eq!(reservation(&begun, seconds(600)).await, seconds(40));
    // Not at the same moment.
    let next = reservation(&*requests(&limiters, 2).await, seconds(600)).await;
    assert!((seconds(41)..=seconds(48)).contains(&next), "{next:?}");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// Another replica may have learnt of the pause: this one has it from the database.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_long_pause_that_begins_meanwhile() {
    let database = Database::of(1);
    let limiters = database.limiters();
    throttle(&*requests(&limiters, 1).await).await;
    let other = requests(&database.limiters(), 2).await;
    for is_own in [true, false] {
        let begun = requests(&limiters, 1).await;
        begun.begin();
        let sent = send(&begun, 100, seconds(600));
        sleep(seconds(6)).await;
        if is_own {
            begun.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
        } else {
            other.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
        }
        let began = Instant::now();
        let ended = sent.join_all().await;
        assert!(began.elapsed() < seconds(2), "{is_own}");
        let refused = ended.iter().filter(|ended| ended.is_err()).count();
        assert!((1..100).contains(&refused), "{is_own}: {refused}");
        sleep(seconds(50)).await;
    }
}

/// One request a second is left, and somewhat more by now.
async fn with_the_lowest_rate() -> Limiters {
    let limiters = Database::of(1).limiters();
    let first = requests(&limiters, 1).await;
    first.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
    sleep(seconds(42)).await;
    limiters
}

#[tokio::test(start_paused = true)]
async fn a_check_waits_five_seconds_for_its_first_permit() {
    let database = Database::of(1);
    let limiters = database.limiters();
    throttle(&*requests(&limiters, 1).await).await;
    sleep(seconds(6)).await;
    // A check that has begun uses all permits, but each eighth.
    let begun = requests(&limiters, 1).await;
    begun.begin();
    let begun = send(&begun, 1_000, seconds(600));
    let mut first = JoinSet::new();
    for tenant in 10..30 {
        let requests = requests(&limiters, tenant).await;
        first.spawn(async move {
            let began = Instant::now();
            let permitted = requests.permit(began + seconds(30)).await;
            (permitted, began.elapsed())
        });
    }
    let ended = first.join_all().await;
    let waited = ended.iter().filter(|(_, waited)| *waited >= seconds(5));
    assert!(waited.count() >= 2, "{ended:?}");
    assert!(ended.iter().any(|(permitted, _)| permitted.is_ok()));
    let longest = ended.iter().map(|(_, waited)| *waited).max();
    assert!(longest < Some(seconds(6)), "{ended:?}");
    drop(begun);
}

/// Its run would be claimed and released again and again.
#[tokio::test(start_paused = true)]
async fn checks_that_many_are_before_come_again_one_after_another() {
    let limiters = with_the_lowest_rate().await;
    let began = Instant::now();
    let mut sent = Vec::new();
    for tenant in 10..22 {
        let requests = requests(&limiters, tenant).await;
        sent.push(send(&requests, 1, seconds(30)));
    }
    let mut reservations = Vec::new();
    for mut one in sent {
        if let Err(fault) = one.join_next().await.unwrap().unwrap() {
            reservations.push(fault.later.unwrap().wait);
        }
    }
    // The budget has permits for one of them.
    assert!(began.elapsed() < seconds(2), "{:?}", began.elapsed());
    let count = reservations.len();
    assert!((8..=11).contains(&count), "{reservations:?}");
    reservations.sort_unstable();
    for pair in reservations.windows(2) {
        let step = pair[1] - pair[0];
        let bounds = seconds(1)..=seconds(8);
        assert!(bounds.contains(&step), "{reservations:?}");
    }
}

/// Else runs of a module with many probes come again before the budget has permits for them.
#[tokio::test(start_paused = true)]
async fn reservations_are_as_far_apart_as_checks_make_requests() {
    let limiters = Database::of(1).limiters();
    for _ in 0..100 {
        let check = requests(&limiters, 1).await;
        drop(waits(send(&check, 20, seconds(30))).await);
        check.ended(Disposition::Finished);
    }
    // The first answer has cut these short.
    for _ in 0..50 {
        let check = requests(&limiters, 1).await;
        drop(waits(send(&check, 1, seconds(30))).await);
        check.ended(Disposition::Later(seconds(40)));
    }
    let throttled = requests(&limiters, 1).await;
    throttled.throttled(Some(ThrottleScope::Application), Some(seconds(40)));
    let mut reservations = Vec::new();
    for tenant in [2, 3] {
        let requests = requests(&limiters, tenant).await;
        reservations.push(reservation(&requests, seconds(600)).await);
    }
    // One request a second.
    let apart = reservations[1] - reservations[0];
    assert!((seconds(19)..=seconds(20)).contains(&apart), "{apart:?}");
}

#[tokio::test(start_paused = true)]
async fn the_next_check_of_a_tenant_comes_after_those_that_wait() {
    let limiters = with_the_lowest_rate().await;
    let begun = requests(&limiters, 1).await;
    begun.permit(Instant::now() + seconds(30)).await.unwrap();
    // Another tenant's check is released.
    let held = send(&begun, 100, seconds(20));
    reservation(&*requests(&limiters, 2).await, seconds(1)).await;
    drop(held);
    let began = Instant::now();
    reservation(&*requests(&limiters, 2).await, seconds(30)).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    // Neither the run that comes again nor a tenant that has no reservation is behind.
    for next in [repeated(&limiters, 2).await, requests(&limiters, 3).await] {
        next.permit(Instant::now() + seconds(30)).await.unwrap();
    }
}

/// Their slots are other applications' then.
#[tokio::test(start_paused = true)]
async fn no_more_checks_that_have_begun_wait_than_get_permits_soon() {
    let limiters = with_the_lowest_rate().await;
    let began = Instant::now();
    let mut checks = JoinSet::new();
    for tenant in 10..30 {
        let requests = requests(&limiters, tenant).await;
        requests.begin();
        checks.spawn(async move {
            for _ in 0..4 {
                requests.permit(began + seconds(30)).await?;
            }
            Ok::<_, Fault>(())
        });
    }
    let (mut ended, mut released) = (0, 0);
    while let Some(check) = checks.join_next().await {
        match check.unwrap() {
            Ok(()) => ended += 1,
            Err(_) => {
                released += 1;
                assert!(began.elapsed() < seconds(6), "{:?}", began.elapsed());
            }
        }
    }
    assert!(
        (3..=6).contains(&ended),
        "{ended} ended, {released} released"
    );
    assert!(began.elapsed() < seconds(27), "before their deadline");
}

/// The permits of the next 20 seconds are other replicas'. A run is claimed, and signs in, after its reservation.
#[tokio::test(start_paused = true)]
async fn a_check_comes_again_when_the_budget_has_permits() {
    for (late, is_valid) in [(seconds(3), true), (seconds(7), false)] {
        let database = Database::of(10);
        let limiters = database.limiters();
        let begun = requests(&limiters, 1).await;
        begun.begin();
        begun.throttled(Some(ThrottleScope::Application), None);
        sleep(seconds(2)).await;
        let others_take = |time: Duration| {
            if let Some(budget) = database.budget.lock().as_mut() {
                budget.taken_until += time;
            }
        };
        others_take(seconds(22));
        let sent = send(&begun, 1, seconds(600));
        sleep(seconds(1)).await;
        drop(sent);
        let wait = reservation(&*requests(&limiters, 2).await, seconds(30)).await;
        assert!(wait > seconds(15), "{wait:?}");
        others_take(seconds(10));
        sleep(wait + late).await;
        let again = repeated(&limiters, 2).await;
        let began = Instant::now();
        again.permit(began + seconds(30)).await.unwrap();
        assert_eq!(began.elapsed().is_zero(), is_valid, "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_has_begun_waits_until_its_deadline() {
    let limiters = with_the_lowest_rate().await;
    let requests = requests(&limiters, 1).await;
    requests.begin();
    let began = Instant::now();
    let ended = send(&requests, 100, seconds(30)).join_all().await;
    let permitted = ended.iter().filter(|ended| ended.is_ok()).count();
    assert!((35..60).contains(&permitted), "{permitted}");
    // It has some time left to say so.
    let spent = began.elapsed();
    assert!(spent >= seconds(29) && spent < seconds(30), "{spent:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_database_a_replica_goes_on_with_its_share() {
    let database = Database::of(2);
    let requests = requests(&database.limiters(), 1).await;
    requests.begin();
    throttle(&requests).await;
    drop(waits(send(&requests, 10, seconds(600))).await);
    database.is_away.store(true, Ordering::Relaxed);
    let alone = waits(send(&requests, 35, seconds(600))).await;
    // Half of seven a second, and a tenth more by now.
    let last = alone[34].as_secs_f64();
    assert!((7.0..12.0).contains(&last), "{alone:?}");
    database.is_away.store(false, Ordering::Relaxed);
    drop(waits(send(&requests, 10, seconds(600))).await);
}

/// It is not asked for every second's permits.
#[tokio::test(start_paused = true)]
async fn a_database_that_hangs_costs_a_replica_little_of_its_share() {
    let database = Database::of(2);
    let requests = requests(&database.limiters(), 1).await;
    requests.begin();
    throttle(&requests).await;
    drop(waits(send(&requests, 10, seconds(600))).await);
    database.hangs.store(true, Ordering::Relaxed);
    let before = database.asked();
    let alone = waits(send(&requests, 35, seconds(600))).await;
    let last = alone[34].as_secs_f64();
    assert!((9.0..16.0).contains(&last), "{alone:?}");
    assert!(database.asked() <= before + 2);
}

/// Also where the database is away from the start. It is told when it is back.
#[tokio::test(start_paused = true)]
async fn a_budget_that_was_not_recorded_limits_its_process_and_is_recorded_later() {
    let database = Database::of(1);
    database.is_away.store(true, Ordering::Relaxed);
    let requests = requests(&database.limiters(), 1).await;
    requests.begin();
    throttle(&requests).await;
    let alone = waits(send(&requests, 35, seconds(600))).await;
    assert!(alone[0] >= seconds(4), "{alone:?}");
    let last = alone[34].as_secs_f64();
    assert!((8.0..11.0).contains(&last), "{alone:?}");
    database.is_away.store(false, Ordering::Relaxed);
    sleep(2 * TIME_ALONE).await;
    let recorded = database.budget.lock().map(|budget| budget.per_minute);
    assert_eq!(recorded, Some(420));
}

/// While the next permit of this process is seconds away.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_recorded_at_once() {
    let database = Database::of(1);
    let begun = requests(&database.limiters(), 1).await;
    begun.begin();
    begun.throttled(Some(ThrottleScope::Application), None);
    sleep(seconds(3)).await;
    if let Some(budget) = database.budget.lock().as_mut() {
        budget.taken_until += seconds(60);
    }
    let sent = send(&begun, 5, seconds(600));
    sleep(seconds(1)).await;
    let before = database.budget.lock().map(|budget| budget.decreased_at);
    begun.throttled(Some(ThrottleScope::Application), None);
    sleep(seconds(1)).await;
    let after = database.budget.lock().map(|budget| budget.decreased_at);
    assert!(before < after, "{before:?} {after:?}");
    drop(sent);
}

#[tokio::test(start_paused = true)]
async fn a_budget_ends_where_nobody_is_throttled_any_more() {
    let database = Database::of(1);
    let requests = requests(&database.limiters(), 1).await;
    requests.begin();
    throttle(&requests).await;
    drop(waits(send(&requests, 10, seconds(600))).await);
    let limiter = requests.limiter.as_ref().unwrap();
    assert!(limiter.rates.lowest().is_some());
    let before = database.asked();
    // Nobody sends anything.
    sleep(seconds(700)).await;
    assert_eq!(limiter.rates.lowest(), None);
    let asked = database.asked();
    assert!((1..=12).contains(&(asked - before)), "{before} {asked}");
    let waited = waits(send(&requests, 1_000, seconds(600))).await;
    assert_eq!(waited.last(), Some(&Duration::ZERO));
    assert_eq!(database.asked(), asked);
}
