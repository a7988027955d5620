//! Lists and details are read from a real replica of this database while it is near enough, and from the primary
//! otherwise.

use crate::scene::Scene;
use reqwest::header::{
    AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderMap, HeaderName, LOCATION, ORIGIN, SET_COOKIE,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};
use test_support::bench::{Bench, Daemon};
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::waiting::until;
use verifyd_simulator::SimulatorOptions;

const READ_URL: &str = "VERIFYD__DATABASE__READ_URL";

/// What is asked again and again is not what is limited here.
const NO_LIMIT: (&str, &str) = ("VERIFYD__HTTP__API__REQUESTS_PER_MINUTE", "1000000");

/// Someone who uses API and pages, and who has changed nothing.
struct Person {
    base: String,
    client: Client,
    /// The cookie of the session.
    session: String,
}

/// An answer that says 200.
struct Answer {
    /// How old its data may be, if a replica gave it.
    age: Option<u64>,
    text: String,
}

impl Answer {
    async fn of(answer: Response) -> Self {
        assert_eq!(answer.status(), 200, "{answer:?}");
        let age = answer.headers().get("x-data-age");
        Self {
            age: age.map(|age| age.to_str().unwrap().parse().unwrap()),
            text: answer.text().await.unwrap(),
        }
    }

    /// Whether the list of the API has this run.
    fn has(&self, run: i64) -> bool {
        let list: Value = serde_json::from_str(&self.text).unwrap();
        let mut items = list["items"].as_array().unwrap().iter();
        items.any(|item| item["operation_run_id"] == run)
    }
}

impl Person {
    async fn at(worker: &Daemon, token: &str) -> Self {
        let base = format!("http://{}", worker.listening);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers.insert(ORIGIN, base.parse().unwrap());
        let client = Client::builder().redirect(Policy::none());
        let mut person = Self {
            base,
            client: client.default_headers(headers).build().unwrap(),
            session: String::new(),
        };
        let form = [("token", token), ("next", "/")];
        let answer = person.post("/login", &form).await;
        person.session = cookies(&answer).swap_remove(0);
        person
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = request.header(COOKIE, &self.session).form(form);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 303, "{answer:?}");
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.get_with(path, COOKIE, &self.session).await
    }

    /// The same with this header. Without the session's cookie there are no pages.
    async fn get_with(&self, path: &str, header: HeaderName, value: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.base));
        let answer = request.header(header, value).send().await;
        Answer::of(answer.unwrap()).await
    }

    /// Asks until the replica answers what is wanted.
    async fn get_from_replica(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let mut last = None;
        until("the replica answers", async || {
            let answer = self.get(path).await;
            let is_wanted = answer.age.is_some() && wanted(&answer);
            last = Some(answer);
            is_wanted
        })
        .await;
        last.unwrap()
    }

    /// Waits until the replica is not read. A first request also asks the primary where the last look is old.
    async fn reads_primary(&self) {
        let mut in_a_row = 0;
        until("the primary answers", async || {
            in_a_row = match self.get("/v1/runs").await.age {
                None => in_a_row + 1,
                Some(_) => 0,
            };
            in_a_row == 50
        })
        .await;
    }

    /// What forms of this session carry.
    async fn csrf(&self) -> String {
        let page = self.get("/").await.text;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

/// Each without its attributes.
fn cookies(answer: &Response) -> Vec<String> {
    let all = answer.headers().get_all(SET_COOKIE).iter();
    let pairs = all.map(|set| set.to_str().unwrap().split(';').next().unwrap().to_owned());
    pairs.collect()
}

/// The sessions of verifyd on this server.
async fn sessions(server: &mut PgConnection) -> Vec<i32> {
    let sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'verifyd'";
    sqlx::query_scalar(sessions)
        .fetch_all(server)
        .await
        .unwrap()
}

/// The address of this database on a standby.
fn on(standby: &PrivatePostgres, database: &str) -> String {
    let mut url: url::Url = database.parse().unwrap();
    url.set_port(Some(standby.port())).unwrap();
    url.into()
}

/// Whether this worker has logged a line with this text.
fn says(worker: &Daemon, text: &str) -> bool {
    let lines = worker.lines.lock().unwrap();
    lines.iter().any(|line| line.contains(text))
}

/// Waits until the metrics of this worker have these lines. Nobody asks it for anything else.
async fn measures(worker: &Daemon, lines: &[&str]) {
    until("the metrics say so", async || {
        let (_, metrics) = worker.get("/metrics").await;
        let has = |line: &&str| metrics.lines().any(|there| there == *line);
        lines.iter().all(has)
    })
    .await;
}

const UNUSABLE: [&str; 2] = [
    "verifyd_replica_usable 0",
    "verifyd_replica_lag_seconds NaN",
];

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_details_are_read_from_a_replica_that_is_near_enough() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let mut standby = primary.standby();
    let url = on(&standby, &scene.bench.database.url());
    scene.bench.set(READ_URL, url);
    let token = scene.bench.token(&["read", "run", "admin"]);
    let worker = scene.bench.serve(&[NO_LIMIT]);
    scene.completes(1).await;
    let person = Person::at(&worker, &token).await;
    let csrf = person.csrf().await;
    person.get_from_replica("/v1/runs", |_| true).await;
    let new = person.get_with("/v1/runs", CACHE_CONTROL, "no-cache").await;
    assert_eq!(new.age, None);
    assert_eq!(person.get("/workers").await.age, None);
    let mut replica = PgConnection::connect(&standby.url()).await.unwrap();
    let before = sessions(&mut replica).await;
    for _ in 0..2 {
        person.get_from_replica("/v1/runs", |_| true).await;
    }
    let after = sessions(&mut replica).await;
    let is_kept = before.iter().any(|session| after.contains(session));
    assert!(is_kept, "{before:?} {after:?}");
    assert_eq!(scene.bench.examined("replica")["state"], "ok");
    measures(&worker, &["verifyd_replica_usable 1"]).await;

    // From now on the replica has nothing new.
    let pause = replica.execute("SELECT pg_wal_replay_pause()");
    pause.await.unwrap();
    let run = scene.record(1).await[0];
    let list = person.get_from_replica("/v1/runs", |_| true).await;
    assert!(!list.has(run), "{}", list.text);
    // Hence the primary is asked for what it does not find.
    assert_eq!(person.get(&format!("/v1/runs/{run}")).await.age, None);

    // Whoever has changed something finds it at once, others read what is older.
    let connection = scene.members.keys().next().unwrap();
    let check = format!("/connections/{connection}/check");
    let checked = person.post(&check, &[("csrf", &csrf)]).await;
    let link = format!("\"{}\"", checked.headers()[LOCATION].to_str().unwrap());
    let changed = cookies(&checked).join("; ");
    let own = format!("{}; {changed}", person.session);
    let says_age = |page: &Answer| page.text.contains("This page shows what was ");
    for _ in 0..3 {
        let old = person.get_from_replica("/runs", says_age).await;
        assert!(!old.text.contains(&link), "{link}: {}", old.text);
        assert!(old.age >= Some(5), "{:?}", old.age);
        // Right after it: the last look is not old.
        let new = person.get_with("/runs", COOKIE, &own).await;
        assert!(new.text.contains(&link), "{link}: {}", new.text);
        assert_eq!(new.age, None);
    }

    until("it lags by more than is read", async || {
        let lag = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp()) > 40";
        sqlx::query_scalar::<_, bool>(lag)
            .fetch_one(&mut replica)
            .await
            .unwrap()
    })
    .await;
    person.reads_primary().await;
    measures(&worker, &["verifyd_replica_usable 0"]).await;
    until("the log says why", async || {
        says(&worker, "it may be more than 30 s behind")
    })
    .await;
    assert_eq!(scene.bench.examined("replica")["state"], "warning");
    let resume = replica.execute("SELECT pg_wal_replay_resume()");
    resume.await.unwrap();
    person
        .get_from_replica("/v1/runs", |list| list.has(run))
        .await;

    drop(replica);
    standby.crash();
    measures(&worker, &UNUSABLE).await;
    person.reads_primary().await;
    assert_eq!(scene.bench.examined("replica")["state"], "warning");
    drop(scene);
}

/// Rows of others are shown to nobody, and a run that is not there is not missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_database_is_not_read() {
    let mut primary = PrivatePostgres::start();
    let mut other = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let token = scene.bench.token(&["read"]);
    let mut followers = Vec::new();
    for server in [&mut primary, &mut other] {
        let database = TestDatabase::create_on(&server.url()).await;
        let foreign = Bench::on(database, SimulatorOptions::default()).await;
        let connection = foreign.healthy(1);
        let run = foreign.record(&[connection], 1).await[0];
        let standby = server.standby();
        // It has heartbeats, too.
        let working = foreign.serve(&[]);
        let url = on(&standby, &foreign.database.url());
        let worker = scene.bench.serve(&[NO_LIMIT, (READ_URL, &url)]);
        let person = Person::at(&worker, &token).await;
        followers.push(((foreign, working, standby), url, worker, person, run));
    }
    for (_, url, worker, person, run) in &followers {
        until("the log says why", async || {
            let list = person.get("/v1/runs").await;
            assert_eq!(list.age, None);
            assert!(!list.has(*run), "{}", list.text);
            says(worker, "it has no heartbeat of this process")
        })
        .await;
        measures(worker, &UNUSABLE).await;
        scene.bench.set(READ_URL, url.as_str());
        let line = scene.bench.examined("replica");
        assert_eq!(line["state"], "warning");
        let found = line["found"].as_str().unwrap();
        assert!(found.contains("it has no heartbeat"), "{found}");
    }
    drop(scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_is_not_read() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let standby = primary.standby();
    let url = on(&standby, &scene.bench.database.url());
    scene.bench.set(READ_URL, url);
    let token = scene.bench.token(&["read"]);
    let worker = scene.bench.serve(&[NO_LIMIT]);
    let person = Person::at(&worker, &token).await;
    person.get_from_replica("/v1/runs", |_| true).await;

    let mut promoted = PgConnection::connect(&standby.url()).await.unwrap();
    let promote = promoted.execute("SELECT pg_promote()");
    promote.await.unwrap();
    measures(&worker, &UNUSABLE).await;
    let run = scene.record(1).await[0];
    let list = person.get("/v1/runs").await;
    assert_eq!(list.age, None);
    assert!(list.has(run), "{}", list.text);
    until("the log says why", async || {
        says(&worker, "it accepts writes")
    })
    .await;
    let line = scene.bench.examined("replica");
    let found = line["found"].as_str().unwrap();
    assert!(found.contains("it accepts writes"), "{found}");
    drop(scene);
}

/// First it refuses a look, then only a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_refuses_the_role_is_not_read() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    scene.bench.execute("CREATE ROLE looker LOGIN").await;
    let standby = primary.standby();
    let url = on(&standby, &scene.bench.url_of("looker"));
    scene.bench.set(READ_URL, url);
    let token = scene.bench.token(&["read"]);
    let worker = scene.bench.serve(&[NO_LIMIT]);
    let person = Person::at(&worker, &token).await;
    until("the log says why", async || {
        assert_eq!(person.get("/v1/runs").await.age, None);
        says(&worker, "permission denied for schema verifyd")
    })
    .await;
    measures(&worker, &UNUSABLE).await;
    assert_eq!(scene.bench.examined("replica")["state"], "warning");

    let grants =
        "GRANT USAGE ON SCHEMA verifyd TO looker; GRANT SELECT ON verifyd.workers TO looker";
    scene.bench.execute(grants).await;
    until("the log says why", async || {
        for path in ["/v1/runs", "/runs"] {
            assert_eq!(person.get(path).await.age, None);
        }
        says(&worker, "permission denied for table")
    })
    .await;
    measures(&worker, &UNUSABLE).await;
    // Every request was answered.
    for failure in ["a request failed", "a page could not be read"] {
        assert!(!says(&worker, failure), "{failure}");
    }
    drop(scene);
}
