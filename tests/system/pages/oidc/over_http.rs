//! Without a browser: what is sent, what is accepted, what is refused, by a provider that is right or wrong.

use super::SECRET;
use super::fake::Fake;
use super::place::{place, place_with, request_id, signed_in, signed_out_here, value_of};
use crate::api::scene::{self, Scene};
use crate::pages::person::{Person, tenant};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::SET_COOKIE;
use serde_json::{Value, json};
use std::time::Instant;
use test_support::waiting::until;
use verifyd::config::Settings;
use verifyd::domain::access::Scope;
use verifyd::domain::audit::AuditAction;
use verifyd::domain::token::sha256_hex;
use verifyd::http::oidc::SignInError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_by_the_code_flow_with_pkce_and_is_named() {
    let place = place().await;
    let page = Person::at(&place.scene.base)
        .page("/login?next=/runs")
        .await;
    assert!(page.contains("href=\"/login/oidc?next=%2Fruns\""), "{page}");
    assert!(page.contains("name=\"token\""), "tokens remain");

    let away = place.begin("/runs").await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "verifyd"),
        ("redirect_uri", "http://127.0.0.1:9/login/callback"),
        ("scope", "openid profile"),
        ("code_challenge_method", "S256"),
        ("tenant", "1"),
    ] {
        assert_eq!(away.asked[name], value, "{name}");
    }
    let answer = place
        .answer_to(&away, &["readers", "unknown", "runners"])
        .await;
    let person = signed_in(&away, &answer);
    let request = request_id(&answer);
    assert!(answer.text().await.unwrap().contains("0;url=/runs"));

    let asked = place.fake.asked();
    assert_eq!(asked.form["grant_type"], "authorization_code");
    assert_eq!(asked.form["code"], "c0de");
    assert_eq!(
        asked.form["redirect_uri"],
        "http://127.0.0.1:9/login/callback"
    );
    let verifier = &asked.form["code_verifier"];
    let challenge = URL_SAFE_NO_PAD.encode(hex::decode(sha256_hex(verifier)).unwrap());
    assert_eq!(away.asked["code_challenge"], challenge);
    let secret = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect::<String>();
    let basic = STANDARD.encode(format!("verifyd:{secret}"));
    assert_eq!(asked.authorization, format!("Basic {basic}"));

    let name = "oidc: Kim Doe (4711)";
    assert!(person.page("/").await.contains(name));
    let created = place.entries(AuditAction::TokenCreated).await;
    assert_eq!(created[0].actor, name);
    let after = created[0].after.as_ref().unwrap();
    assert_eq!(after["scopes"], json!(["read", "run"]));
    assert_eq!(created[0].owner, tenant(1));
    assert_eq!(created[0].request_id, request);
    let signed = place.entries(AuditAction::SignedIn).await;
    assert_eq!(signed[0].request_id, request);
    assert_eq!((signed.len(), signed[0].actor.as_str()), (1, name));
    assert_eq!(signed[0].token_id.map(|id| id.0), created[0].object_id);

    // It is the same person next time, with what the groups give then.
    let away = place.begin("/").await;
    let answer = place.answer_to(&away, &["others"]).await;
    signed_in(&away, &answer);
    let changed = place.entries(AuditAction::TokenChanged).await;
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].object_id, created[0].object_id);
    assert_eq!(changed[0].before.as_ref().unwrap()["tenant_id"], 1);
    assert_eq!(changed[0].after.as_ref().unwrap()["workspace_id"], 2);

    // This provider has no page to sign out.
    signed_out_here(&person).await;
    assert_eq!(person.get("/").await.status(), 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_ends_a_sign_in_that_one_has_begun() {
    let place = place().await;
    let services = &place.scene.world.services;
    let other = scene::serve(services, place.scene.stop.clone()).await;
    let away = place.begin("/").await;
    let claims = place.fake.claims(away.nonce(), &["readers"]);
    place.fake.issues(&place.fake.signed(&claims));
    let mut there = Person::at(&other);
    there.cookie.clone_from(&away.person.cookie);
    let answer = there.get(&away.callback()).await;
    let person = signed_in(&away, &answer);
    assert_eq!(person.get("/").await.status(), 200);
}

/// A provider of the same site returns the browser with its session. Here one request is admitted at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_signed_in_may_sign_in_again() {
    let place = place_with(|settings| settings.database.max_connections = 1).await;
    let away = place.begin("/").await;
    let first = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    let mut away = place.begin("/").await;
    away.person.cookie = format!("{}; {}", away.person.cookie, first.cookie);
    let again = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    // The form leads on whoever is signed in. The second session takes the place of the first.
    assert_eq!(again.get("/login").await.status(), 303);
    assert_eq!(first.get("/login").await.status(), 200);
    signed_out_here(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_in_no_group_or_in_two_places_learns_which() {
    let place = place().await;
    for (groups, said) in [
        (&["strangers", "<b>"][..], &["strangers", "&#60;b&#62;"][..]),
        (&[][..], &["no claim", "groups"][..]),
        (
            &["readers", "others"][..],
            &["readers", "others", "different workspaces"][..],
        ),
        (&["runners"][..], &["may not read"][..]),
    ] {
        let away = place.begin("/").await;
        let answer = place.answer_to(&away, groups).await;
        assert_eq!(answer.status(), 403, "{groups:?}");
        assert_eq!(value_of(&answer, "verifyd_session"), None);
        let page = answer.text().await.unwrap();
        for said in said {
            assert!(page.contains(said), "{groups:?}: {said}\n{page}");
        }
        assert!(page.contains("name=\"token\""), "tokens remain");
    }
    let refused = place.entries(AuditAction::SignInRefused).await;
    assert_eq!(refused[0].actor, "oidc: Kim Doe (4711)");
    assert_eq!(refused[0].after.as_ref().unwrap()["cause"], "no_access");
    assert!(place.entries(AuditAction::TokenCreated).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_for_this_sign_in_is_refused() {
    let place = place().await;
    let stranger = Fake::start().await;
    let with = |claims: &Value, name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        place.fake.signed(&claims)
    };
    type Wrong<'a> = (&'a dyn Fn(&Value) -> String, &'a str);
    let wrong: [Wrong<'_>; 9] = [
        (&|claims| place.fake.unsigned(claims), "cannot be read"),
        (
            &|claims| place.fake.signed_with_the_public_key(claims),
            "is not signed by",
        ),
        (&|claims| stranger.signed(claims), "wrong signature"),
        (
            &|claims| with(claims, "iss", json!("https://evil.example")),
            "another issuer",
        ),
        (
            &|claims| with(claims, "aud", json!("other")),
            "another client",
        ),
        (
            &|claims| with(claims, "azp", json!("other")),
            "another client",
        ),
        (
            &|claims| with(claims, "exp", json!(1_000_000)),
            "has expired",
        ),
        (
            &|claims| with(claims, "nonce", json!("other")),
            "another sign-in",
        ),
        (&|claims| with(claims, "sub", json!("")), "no subject"),
    ];
    for (token, said) in wrong {
        let away = place.begin("/").await;
        let claims = place.fake.claims(away.nonce(), &["readers"]);
        let answer = place.answer(&away, &token(&claims)).await;
        assert_eq!(answer.status(), 401, "{said}");
        assert_eq!(value_of(&answer, "verifyd_session"), None, "{said}");
        let page = answer.text().await.unwrap();
        assert!(page.contains(said), "{said}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_belongs_to_its_browser_and_counts_once() {
    let place = place().await;
    let away = place.begin("/").await;
    let claims = place.fake.claims(away.nonce(), &["readers"]);
    place.fake.issues(&place.fake.signed(&claims));
    let refused = async |person: &Person, path: &str| {
        let answer = person.get(path).await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(value_of(&answer, "verifyd_session"), None);
        // The sign-in of another tab goes on.
        assert_eq!(value_of(&answer, "verifyd_login"), None);
        assert!(
            place.fake.asked().form.is_empty(),
            "{path}: the code was sent"
        );
    };
    // Without the cookie, or with that of another sign-in.
    let other = place.begin("/").await;
    refused(&Person::at(&place.scene.base), &away.callback()).await;
    refused(&other.person, &away.callback()).await;
    // A state that was changed, or is missing.
    let wrong = away.callback().replace("state=", "state=0");
    refused(&away.person, &wrong).await;
    refused(&away.person, "/login/callback?code=c0de").await;
    // A cookie that pretends to be younger.
    let mut forged = Person::at(&place.scene.base);
    let (name, value) = away.person.cookie.split_once('=').unwrap();
    let (begun, rest) = value.split_once('.').unwrap();
    let begun: i64 = begun.parse().unwrap();
    forged.cookie = format!("{name}={}.{rest}", begun + 1);
    refused(&forged, &away.callback()).await;
    // The code is bounded.
    let long = away.callback().replace("c0de", &"c".repeat(9000));
    refused(&away.person, &long).await;
    // The answer of another provider, whatever it says.
    for answer in ["code=c0de", "error=access_denied"] {
        let mixed_up = away.callback().replace("code=c0de", answer);
        let mixed_up = format!("{mixed_up}&iss=https%3A%2F%2Fevil.example");
        let answer = away.person.get(&mixed_up).await;
        assert_eq!(answer.status(), 401);
        assert!(answer.text().await.unwrap().contains("another issuer"));
        assert!(place.fake.asked().form.is_empty(), "the code was sent");
    }
    let denied = away.callback().replace("code=c0de", "error=access_denied");
    let answer = away.person.get(&denied).await;
    assert_eq!(answer.status(), 401);
    assert!(answer.text().await.unwrap().contains("access_denied"));

    let answer = away.person.get(&away.callback()).await;
    signed_in(&away, &answer);
    // The browser has no cookie any more; whoever kept it is refused by the provider.
    let mut later = Person::at(&place.scene.base);
    later.keep_cookie(&answer);
    let answer = later.get(&away.callback()).await;
    assert_eq!(answer.status(), 401);
    place.fake.answers(400, json!({ "error": "invalid_grant" }));
    let answer = away.person.get(&away.callback()).await;
    assert_eq!(answer.status(), 401);
    assert!(answer.text().await.unwrap().contains("invalid_grant"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_without_the_issuer_that_the_provider_promises_is_refused() {
    let place = place().await;
    place.fake.promises_iss();
    let away = place.begin("/").await;
    let claims = place.fake.claims(away.nonce(), &["readers"]);
    place.fake.issues(&place.fake.signed(&claims));
    for answer in ["code=c0de", "error=access_denied"] {
        let unnamed = away.callback().replace("code=c0de", answer);
        let answer = away.person.get(&unnamed).await;
        assert_eq!(answer.status(), 401, "{unnamed}");
        assert_eq!(value_of(&answer, "verifyd_session"), None);
        let page = answer.text().await.unwrap();
        assert!(page.contains("this answer has no iss"), "{page}");
        assert!(place.fake.asked().form.is_empty(), "the code was sent");
    }
    let named = format!("{}&iss={}", away.callback(), place.fake.issuer());
    signed_in(&away, &away.person.get(&named).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_hide_the_refusal_of_a_person() {
    let place = place().await;
    let nobody = Person::at(&place.scene.base);
    let away = place.begin("/").await;
    let answer = nobody.get("/login/callback?code=a&state=b").await;
    assert_eq!(answer.status(), 401);
    let answer = place.answer_to(&away, &["strangers"]).await;
    assert_eq!(answer.status(), 403);
    let refused = place.entries(AuditAction::SignInRefused).await;
    let actors: Vec<&str> = refused.iter().map(|entry| entry.actor.as_str()).collect();
    assert_eq!(actors, ["oidc: Kim Doe (4711)", "unknown"]);
    for entry in &refused {
        assert_eq!(entry.after.as_ref().unwrap()["others_without_an_entry"], 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_provider_does_not_accept_is_for_the_operator() {
    let place = place().await;
    for code in ["invalid_client", "unauthorized_client"] {
        let away = place.begin("/").await;
        place.fake.answers(401, json!({ "error": code }));
        let answer = away.person.get(&away.callback()).await;
        assert_eq!(answer.status(), 503, "{code}");
        let page = answer.text().await.unwrap();
        let said = format!("client_id or secret ({code}). Tell your operator");
        assert!(page.contains(&said), "{page}");
    }
    for has_blank in [false, true] {
        let code = "invalid_client".to_owned();
        let logged = SignInError::WrongClient { code, has_blank }.to_string();
        for key in ["http.oidc.client_id", "http.oidc.client_secret_file"] {
            assert!(logged.contains(key), "{logged}");
        }
        let is_named = logged.ends_with("begins or ends with a blank");
        assert_eq!(is_named, has_blank, "{logged}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_goes_on_at_a_path_of_this_host_only() {
    let place = place().await;
    for next in ["//evil.example", "https://evil.example", "/%5Cevil.example"] {
        let away = place.begin(next).await;
        let answer = place.answer_to(&away, &["readers"]).await;
        let page = answer.text().await.unwrap();
        assert!(
            page.contains("0;url=/\"") && !page.contains("evil"),
            "{next}: {page}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_looked_up_once_and_strange_ones_not_each_time() {
    let place = place().await;
    let away = place.begin("/").await;
    signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    assert_eq!(place.fake.keys_read(), 1);
    place.fake.rotate("second");
    let looked = Instant::now();
    let away = place.begin("/").await;
    signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    assert_eq!(place.fake.keys_read(), 2);
    let stranger = Fake::start().await;
    stranger.rotate("third");
    for _ in 0..3 {
        let away = place.begin("/").await;
        let claims = place.fake.claims(away.nonce(), &["readers"]);
        let answer = place.answer(&away, &stranger.signed(&claims)).await;
        assert_eq!(answer.status(), 401);
    }
    // On a machine that takes half a minute for each, each may look.
    let more = place.fake.keys_read() as u64 - 2;
    assert!(more <= looked.elapsed().as_secs() / 30, "{more}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_under_the_id_of_the_old_one_is_looked_up() {
    let place = place().await;
    let away = place.begin("/").await;
    signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    place.fake.rotate("first");
    let away = place.begin("/").await;
    signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    assert_eq!(place.fake.keys_read(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_provider_is_down_tokens_sign_in_and_readiness_stays() {
    let place = place().await;
    place.fake.set_down(true);
    let person = Person::at(&place.scene.base);
    let answer = person.get("/login/oidc").await;
    assert_eq!(answer.status(), 503);
    let page = answer.text().await.unwrap();
    assert!(page.contains("log in with an API token") && page.contains("name=\"token\""));
    let token = place.scene.person(&[Scope::Read], tenant(1));
    assert_eq!(token.await.get("/").await.status(), 200);
    let ready = person.get("/readyz").await.text().await.unwrap();
    assert!(!ready.contains("oidc"), "{ready}");
    // A look that failed is not repeated at once.
    place.fake.set_down(false);
    until("the provider is asked again", async || {
        person.get("/login/oidc").await.status() == 303
    })
    .await;
    // Down while somebody is there.
    let away = place.begin("/").await;
    place.fake.answers(503, Value::Null);
    let answer = away.person.get(&away.callback()).await;
    assert_eq!(answer.status(), 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_and_returns_count_as_attempts_to_log_in() {
    for path in ["/login/oidc", "/login/callback?code=a&state=b"] {
        let place =
            place_with(|settings| settings.http.api.anonymous_requests_per_minute = 6).await;
        let nobody = Person::at(&place.scene.base);
        let mut tried = 0;
        while nobody.get(path).await.status() != 429 {
            tried += 1;
            assert!(tried < 1_000, "{path}: nothing is refused");
        }
        // The page with the form is not held up.
        assert_eq!(nobody.get("/login").await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_way_to_log_in_leaves_the_others() {
    const ANSWERS: [u16; 3] = [401, 303, 401];
    for flooded in 0..ANSWERS.len() {
        let place = place_with(|settings| {
            settings.http.api.anonymous_requests_per_minute = 6;
            settings.http.api.requests_per_minute = 5;
        })
        .await;
        let nobody = Person::at(&place.scene.base);
        let attempt = async |way: usize| {
            let answer = match way {
                0 => nobody.log_in("vfd_wrong").await,
                1 => nobody.get("/login/oidc").await,
                _ => nobody.get("/login/callback?code=a&state=b").await,
            };
            answer.status().as_u16()
        };
        let (mut tried, mut refused) = (0, 0);
        while refused < 10 {
            refused += usize::from(attempt(flooded).await == 429);
            tried += 1;
            assert!(tried < 1_000, "{flooded}: nothing is refused");
        }
        for (way, answer) in ANSWERS.into_iter().enumerate() {
            if way != flooded {
                assert_eq!(attempt(way).await, answer, "{flooded}: {way}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_the_provider_leaves_out_are_not_taken_for_none() {
    let place = place().await;
    let away = place.begin("/").await;
    let mut claims = place.fake.claims(away.nonce(), &[]);
    claims.as_object_mut().unwrap().remove("groups");
    claims["_claim_names"] = json!({ "groups": "src1" });
    claims["_claim_sources"] = json!({ "src1": { "endpoint": "https://graph.example" } });
    let answer = place.answer(&away, &place.fake.signed(&claims)).await;
    assert_eq!(answer.status(), 403);
    let page = answer.text().await.unwrap();
    assert!(page.contains("too many values"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_https_only_this_host_sets_the_cookies_of_a_sign_in() {
    let https = |settings: &mut Settings| {
        settings.http.oidc.public_url = "https://verifyd.example".to_owned();
    };
    let place = place_with(https).await;
    let away = place.begin("/").await;
    let redirect_uri = "https://verifyd.example/login/callback";
    assert_eq!(away.asked["redirect_uri"], redirect_uri);
    let name = "__Host-verifyd_login";
    assert!(away.person.cookie.starts_with(&format!("{name}=")));
    // One that a neighbour has planted, or that came over http, has another name.
    let mut planted = Person::at(&place.scene.base);
    planted.cookie = away.person.cookie.replace(name, "verifyd_login");
    assert_eq!(planted.get(&away.callback()).await.status(), 401);
    assert!(place.fake.asked().form.is_empty(), "the code was sent");
    let answer = place.answer_to(&away, &["readers"]).await;
    assert_eq!(value_of(&answer, name).as_deref(), Some(""));
    for line in answer.headers().get_all(SET_COOKIE) {
        let line = line.to_str().unwrap();
        assert!(
            line.contains("; Path=/; ") && line.ends_with("; Secure"),
            "{line}"
        );
        assert!(
            line.contains("; HttpOnly; ") && !line.contains("Domain"),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_provider_there_is_no_such_page() {
    let scene = Scene::sqlite().await;
    let person = Person::at(&scene.base);
    assert!(!person.page("/login").await.contains("organization"));
    for path in ["/login/oidc", "/login/callback?code=a&state=b"] {
        assert_eq!(person.get(path).await.status(), 404, "{path}");
    }
}
