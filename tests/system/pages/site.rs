//! A site of one's own: embedded database, simulator, a worker, and the pages of it.

use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};
use test_support::world::{World, bound};
use tokio_util::sync::CancellationToken;
use verifyd::config::Settings;
use verifyd::domain::access::{Binding, Scope};
use verifyd::domain::acknowledgement::{Actor, Surface};
use verifyd::domain::{ConnectionId, RunId};
use verifyd::http::{api, pages};
use verifyd::operations::acknowledge::{Request, acknowledge};
use verifyd::operations::{CheckRequest, start_check};
use verifyd_simulator::Scenario;

pub const EVERYTHING: [Scope; 3] = [Scope::Read, Scope::Run, Scope::Admin];

pub struct Site {
    pub world: World,
    pub base: String,
    pub stopping: CancellationToken,
    stop: CancellationToken,
}

/// Someone with a browser, but no more than its cookie.
pub struct Person {
    base: String,
    client: Client,
    pub cookie: String,
}

impl Site {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let world = World::with(|settings| {
            settings.pages.live.look = std::time::Duration::from_millis(100);
            // Whoever tests the limits sets them.
            settings.pages.requests_per_minute = 1_000_000;
            settings.pages.logins_per_minute = 1_000_000;
            settings.http.api.anonymous_requests_per_minute = 1_000_000;
            change(settings);
        })
        .await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stopping = CancellationToken::new();
        let stop = CancellationToken::new();
        let services = &world.services;
        let router = pages::router(services.pages(stopping.clone()))
            .merge(api::router(services.api().expect("the API is on")));
        let settings = &services.settings.http;
        tokio::spawn(verifyd::http::serve(
            listener,
            router,
            settings,
            stop.clone(),
        ));
        Self {
            world,
            base,
            stopping,
            stop,
        }
    }

    /// With a worker that completes what is recorded.
    pub async fn at_work() -> Self {
        let site = Self::new().await;
        let services = &site.world.services;
        let worker = services.worker();
        tokio::spawn(worker.run(site.stop.clone()));
        site
    }

    /// A connection that the simulator treats as this scenario says.
    pub async fn connection(&self, tenant: i64, scenario: Scenario) -> ConnectionId {
        let number = u32::try_from(tenant).unwrap();
        self.world
            .connection(
                tenant,
                &scenario.tenant_id(number),
                scenario.expectation().module,
            )
            .await
    }

    pub async fn submit(&self, id: ConnectionId) -> RunId {
        let services = &self.world.services;
        let queue = services.queue.as_ref();
        let (store, providers) = (services.store.as_ref(), &services.providers);
        start_check(store, Some(queue), providers, &CheckRequest::of(id))
            .await
            .unwrap()
            .recorded
            .run_id
    }

    pub async fn checked(&self, id: ConnectionId) -> RunId {
        let run = self.submit(id).await;
        self.world.completed(run).await;
        run
    }

    pub async fn accept(&self, run: RunId, check_key: &str, reason: &str) {
        let now = self.world.services.clock.now();
        let request = Request {
            run,
            reach: Binding::EVERYTHING,
            check_key: check_key.into(),
            reason: reason.into(),
            by: Some("Kim".into()),
            through: Actor {
                surface: Surface::Pages,
                token_id: None,
                name: "ops".into(),
            },
            expires_at: None,
        };
        acknowledge(self.world.services.store.as_ref(), &request, now)
            .await
            .unwrap();
    }

    pub async fn token(&self, name: &str, scopes: &[Scope], binding: Binding) -> String {
        self.world.token(name, scopes, binding).await
    }

    pub async fn nobody(&self) -> Person {
        Person::at(&self.base)
    }

    /// Someone who has logged in with a token of these scopes.
    pub async fn person(&self, scopes: &[Scope], binding: Binding) -> Person {
        let token = self.token("ops", scopes, binding).await;
        Person::logged_in(&self.base, &token).await
    }

    pub async fn operator(&self) -> Person {
        self.person(&EVERYTHING, Binding::EVERYTHING).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.stop.cancel();
    }
}

pub fn tenant(tenant: i64) -> Binding {
    bound(1, Some(tenant))
}

impl Person {
    pub fn at(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            client: Client::builder().redirect(Policy::none()).build().unwrap(),
            cookie: String::new(),
        }
    }

    pub async fn logged_in(base: &str, token: &str) -> Self {
        let mut person = Self::at(base);
        let answer = person.log_in(token).await;
        assert_eq!((answer.status().as_u16(), location(&answer)), (303, "/"));
        person.keep_cookie(&answer);
        person
    }

    pub fn keep_cookie(&mut self, answer: &Response) {
        let set = answer.headers()[SET_COOKIE].to_str().unwrap();
        self.cookie = set.split(';').next().unwrap().to_owned();
    }

    pub async fn log_in(&self, token: &str) -> Response {
        self.post("/login", &[("token", token), ("next", "/")])
            .await
    }

    /// A request with the cookie of this session.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match self.cookie.as_str() {
            "" => request,
            cookie => request.header(COOKIE, cookie),
        }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        form: &[(&str, &str)],
    ) -> Response {
        let mut request = self.request(method.clone(), path).headers(headers);
        if method == Method::POST {
            request = request.form(form);
        }
        request.send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, HeaderMap::new(), &[]).await
    }

    /// As a browser sends a form of a page of ours.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert("origin", self.base.parse().unwrap());
        self.send(Method::POST, path, headers, form).await
    }

    pub async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    }

    /// What forms of this session carry.
    pub async fn csrf(&self) -> String {
        let page = self.page("/").await;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

pub fn location(answer: &Response) -> &str {
    answer.headers()[LOCATION].to_str().unwrap()
}

impl Site {
    /// Key of the first check of a run that failed or warns.
    pub async fn first_problem(&self, run: RunId) -> String {
        let run = self.world.run(run).await;
        let view = verifyd::view::RunView::of(&run, &[], self.world.services.clock.now());
        match view.report {
            verifyd::view::report::ReportState::Readable { report } => {
                report.problems[0].check.key.clone()
            }
            other => panic!("{other:?}"),
        }
    }
}
