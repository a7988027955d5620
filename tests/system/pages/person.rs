//! People who use the pages, and what tests of the pages ask of the scene.

use crate::api::scene::{ALL, Scene, bound};
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};
use verifyd::domain::access::{Binding, Scope};
use verifyd::domain::acknowledgement::{Actor, Surface};
use verifyd::domain::{ConnectionId, RunId};
use verifyd::operations::acknowledge::{Request, acknowledge};
use verifyd::operations::{CheckRequest, start_check};

/// Someone with a browser, but no more than its cookie.
pub struct Person {
    base: String,
    client: Client,
    pub cookie: String,
}

impl Scene {
    /// On the embedded database, with a worker that completes what is recorded.
    pub async fn at_work() -> Self {
        let scene = Self::sqlite().await;
        scene.work();
        scene
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

    /// Checks a connection, and waits for the end.
    pub async fn check(&self, id: ConnectionId) -> RunId {
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
            }
            .into(),
            expires_at: None,
        };
        acknowledge(self.world.services.store.as_ref(), &request, now)
            .await
            .unwrap();
    }

    /// Someone who has logged in with a token of these scopes.
    pub async fn person(&self, scopes: &[Scope], binding: Binding) -> Person {
        let token = self.world.token("ops", scopes, binding).await;
        Person::logged_in(&self.base, &token).await
    }

    pub async fn operator(&self) -> Person {
        self.person(ALL, Binding::EVERYTHING).await
    }

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

    pub fn base(&self) -> &str {
        &self.base
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
