//! Whatever stands in a path, a query, a header, a form or a body: an answer that is no failure.

use crate::api::scene::{DOCUMENT, Scene, operations, with_id};
use crate::api::slow_peers::{begun, rest};
use crate::pages::person::Person;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, COOKIE, ORIGIN};

/// Percent-encoded, as they stand in an address or a form.
fn values() -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        "%00",
        "a%00b",
        "%FF%FE",
        "%C3%28",
        "%ED%A0%80",
        "%F0%9F%92%A9",
        "%E2%80%AE",
        "%0D%0A",
        "%7F",
        "%",
        "%zz",
        "'",
        "%22%3B--",
        "%25",
        "_",
        "%5C",
        "%5C%5C%25",
        "..%2F..",
        "*",
        "-1",
        "0",
        "00001",
        "%2B1",
        "1.0",
        "1e3",
        "1e400",
        "NaN",
        "Infinity",
        "true",
        "null",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "2026-12-31",
        "%2B262142-12-31",
        "9999-12-31",
        "10000-01-01",
        "infinity",
        "queued",
        "ready",
        "%EF%BB%BF1",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push("9".repeat(400));
    all.push("a".repeat(8_000));
    all.push("%F0%9F%92%A9".repeat(600));
    all
}

/// Bodies as they may come: by themselves, and as the value of each member.
fn bodies() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        "{",
        "[]",
        "null",
        "0",
        "\"\"",
        "{}",
        "{\"\":1}",
        "{\"\\u0000\":\"\\u0000\"}",
        "{\"a\":1e400}",
        "{\"a\":\"\\ud800\"}",
        "\u{feff}{}",
        "{}{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    all.push(vec![0xff, 0xfe, 0x00]);
    all.push(b"{\"a\":\"\xff\"}".to_vec());
    all.push(format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes());
    all.push(vec![b' '; 70_000]);
    let names = [
        "module",
        "onboarding_session_id",
        "check_key",
        "reason",
        "acknowledged_by",
        "expires_at",
        "withdrawn_by",
    ];
    let values = [
        "null",
        "0",
        "-1",
        "1e400",
        "1e-400",
        "9223372036854775808",
        "1.5",
        "true",
        "[]",
        "{}",
        "\"\"",
        "\"\\u0000\"",
        "\"a\\u0000b\"",
        "\"\\u202e\"",
        "\"\\ud800\"",
        "\"\u{10ffff}\"",
        "\"+262142-12-31T23:59:59Z\"",
        "\"9999-12-31T23:59:59.999999999Z\"",
        "\"infinity\"",
    ];
    for name in names {
        for value in values {
            let more = "\"check_key\":\"a.b\",\"reason\":\"x\"";
            all.push(format!("{{\"{name}\":{value}}}").into_bytes());
            all.push(format!("{{{more},\"{name}\":{value}}}").into_bytes());
        }
        all.push(format!("{{\"{name}\":\"{}\"}}", "é".repeat(20_000)).into_bytes());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_of_the_api_is_a_failure() {
    for scene in [Scene::postgres().await, Scene::sqlite().await] {
        let token = scene.master().await;
        scene.healthy(1).await;
        let mut tried = 0;
        for (method, template, _) in operations() {
            let operation = &DOCUMENT["paths"][&template][method.as_str().to_ascii_lowercase()];
            let fill = |id: &str| with_id(&template, id);
            let mut paths: Vec<String> = Vec::new();
            let declared = operation["parameters"].as_array().into_iter().flatten();
            let declared = declared.filter(|p| p["in"] == "query");
            let names = declared.map(|p| p["name"].as_str().unwrap());
            let names: Vec<&str> = names.chain(["", "unknown", "%00"]).collect();
            for value in values() {
                if template.contains('{') && !value.is_empty() {
                    paths.push(fill(&value));
                }
                paths.extend(
                    names
                        .iter()
                        .map(|name| format!("{}?{name}={value}", fill("1"))),
                );
            }
            for path in paths {
                tried += 1;
                let url = format!("{}{path}", scene.base);
                // The client refuses or mends what a browser would not send; the server sees the rest.
                let Ok(url) = reqwest::Url::parse(&url) else {
                    continue;
                };
                let request = scene.request_to(method.clone(), url).bearer_auth(&token);
                let answer = request.send().await.unwrap();
                assert!(
                    answer.status().as_u16() < 500,
                    "{method} {path}: {answer:?}"
                );
            }
            if method != Method::POST {
                continue;
            }
            for body in bodies() {
                for kind in [
                    "application/json",
                    "text/plain",
                    "application/json; charset=utf-16",
                ] {
                    tried += 1;
                    let request = scene
                        .request(method.clone(), &fill("1"))
                        .bearer_auth(&token)
                        .header(CONTENT_TYPE, kind)
                        .body(body.clone());
                    let answer = request.send().await.unwrap();
                    let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                    assert!(
                        answer.status().as_u16() < 500,
                        "{method} {template}: {text}"
                    );
                }
            }
        }
        assert!(tried > 1_000, "only {tried} requests");
        for key in ["", " ", "é", "a\tb", &"k".repeat(10_000)] {
            let request = scene.request(Method::POST, "/v1/connections/1/checks");
            let request = request.bearer_auth(&token).header("idempotency-key", key);
            let answer = request.send().await.unwrap();
            assert!(answer.status().as_u16() < 500, "{key}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_of_a_page_is_a_failure() {
    for scene in [Scene::postgres().await, Scene::sqlite().await] {
        let token = scene.master().await;
        scene.healthy(1).await;
        let person = Person::logged_in(&scene.base, &token).await;
        let csrf = person.csrf().await;

        let queries = [
            ("/", &["days", "x"][..]),
            ("/connections", &["state", "name", "tenant", "after"]),
            ("/connections/1", &["x"]),
            ("/runs", &["state", "connection", "tenant", "before"]),
            ("/runs/1", &["x"]),
            ("/workers", &["x"]),
            ("/audit", &["action", "actor", "connection", "before"]),
            ("/login", &["next"]),
        ];
        for value in values() {
            let mut paths = Vec::new();
            for (path, names) in queries {
                paths.extend(names.iter().map(|name| format!("{path}?{name}={value}")));
            }
            for path in ["/connections/", "/runs/", "/live/runs/", "/assets/", "/"] {
                paths.push(format!("{path}{value}"));
            }
            paths.push(format!("/runs/{value}/run.json"));
            for path in paths {
                // A stream of events has no end.
                let answer = person.get(&path).await;
                assert!(answer.status().as_u16() < 500, "GET {path}: {answer:?}");
            }
            let forms = [
                ("/connections/1/check".to_owned(), &[][..]),
                (
                    "/runs/1/acknowledgements".to_owned(),
                    &["check_key", "reason", "by", "until"],
                ),
                ("/runs/1/acknowledgements/1/withdraw".to_owned(), &[]),
                (format!("/runs/1/acknowledgements/{value}/withdraw"), &[]),
                (format!("/connections/{value}/check"), &[]),
                ("/login".to_owned(), &["token", "next"]),
            ];
            for (path, names) in forms {
                for name in names.iter().chain(&["csrf", "unknown"]) {
                    let mut form = format!("csrf={csrf}&check_key=a.b&reason=x&token=x");
                    form = form.replace(&format!("{name}="), &format!("{name}_="));
                    form.push_str(&format!("&{name}={value}"));
                    let request = person
                        .request(Method::POST, &path)
                        .header(ORIGIN, &scene.base)
                        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                        .body(form.clone());
                    let answer = request.send().await.unwrap();
                    assert!(
                        answer.status().as_u16() < 500,
                        "POST {path} {form}: {answer:?}"
                    );
                }
            }
        }
        for wrong in [
            "verifyd_session=%00",
            "verifyd_session=\u{e9}",
            "verifyd_session",
            ";;;=",
        ] {
            let request = Person::at(&scene.base).request(Method::GET, "/");
            let answer = request.header(COOKIE, wrong).send().await.unwrap();
            assert!(answer.status().as_u16() < 500, "{wrong}");
        }
        let named = person.get("/connections?name=%00").await;
        assert_eq!(named.status(), 422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_a_proxy_may_read_otherwise_ends_its_connection() {
    let scene = Scene::sqlite().await;
    let next = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    // Also where it is asked for what needs no token.
    for path in ["/v1/runs", "/healthz", "/login"] {
        for hosts in ["", "Host: x\r\nHost: x\r\n", "Host: x, y\r\n"] {
            let head = format!("GET {path} HTTP/1.1\r\n{hosts}\r\n{next}");
            let answer = rest(begun(&scene, &head).await).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{hosts}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
            let is_problem = answer.contains("urn:verifyd:problem:invalid-header");
            assert_eq!(is_problem, path == "/v1/runs", "{answer}");
        }
    }
    let answer = rest(begun(&scene, "GET /healthz HTTP/1.0\r\n\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // By Content-Length the second request is a part of the first one's body.
    for length in ["Content-Length: 6\r\n", ""] {
        let head = format!(
            "POST /login HTTP/1.1\r\nHost: x\r\n{length}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}"
        );
        let answer = rest(begun(&scene, &head).await).await;
        assert!(answer.contains("connection: close"), "{length}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    // A coding that nobody undoes.
    for codings in [
        "gzip, chunked",
        "chunked, chunked",
        "x\r\nTransfer-Encoding: chunked",
    ] {
        for path in ["/v1/runs", "/login"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {codings}\r\n\r\n0\r\n\r\n{next}"
            );
            let answer = rest(begun(&scene, &head).await).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{codings}: {answer}");
            assert!(answer.contains("Transfer-Encoding"), "{codings}: {answer}");
            let problem = "is repeated or names another coding";
            assert!(answer.contains(problem), "{codings}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        }
    }
}
