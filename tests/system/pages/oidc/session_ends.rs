//! How a session ends: who signs out, loses the right to be there, or stays for too long.

use super::place::{place, place_with, request_id, sign_out, signed_in, signed_out_here, value_of};
use crate::api::scene;
use crate::pages::person::{Person, tenant};
use reqwest::header::SET_COOKIE;
use std::time::Duration;
use verifyd::config::Settings;
use verifyd::domain::access::Scope;
use verifyd::domain::audit::AuditAction;
use verifyd::http::api::Switch;

/// The policy of the pages lets no form lead to another host, so a page leads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_signs_out_signs_out_at_the_provider_that_signed_them_in() {
    let place = place().await;
    place.fake.ends_sessions();
    let away = place.begin("/").await;
    let person = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    let answer = sign_out(&person).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(value_of(&answer, "verifyd_session").as_deref(), Some(""));
    let page = answer.text().await.unwrap();
    let to = format!(
        "0;url={}/end?tenant=1&#38;client_id=verifyd&#38;post_logout_redirect_uri=http%3A%2F%2F127.0.0.1%3A9%2Flogin\"",
        place.fake.issuer()
    );
    assert!(page.contains(&to), "{page}");
    assert_eq!(person.get("/").await.status(), 303);
    assert_eq!(place.entries(AuditAction::SignedOut).await.len(), 1);

    // Whoever has logged in with a token is nobody there.
    signed_out_here(&place.scene.person(&[Scope::Read], tenant(1)).await).await;
    // On a replica that knows nothing of the provider, which is down.
    let away = place.begin("/").await;
    let person = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    place.fake.set_down(true);
    let services = &place.scene.world.services;
    let other = scene::serve(services, place.scene.stop.clone()).await;
    let mut there = Person::at(&other);
    there.cookie.clone_from(&person.cookie);
    signed_out_here(&there).await;

    let off = |settings: &mut Settings| settings.http.oidc.sign_out_at_provider = Switch::Off;
    let place = place_with(off).await;
    place.fake.ends_sessions();
    let away = place.begin("/").await;
    let person = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    signed_out_here(&person).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_whose_token_was_revoked_stays_out() {
    let place = place().await;
    let away = place.begin("/").await;
    let person = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    let store = &place.scene.world.services.store;
    let tokens = store.tokens().await.unwrap();
    let token = tokens
        .iter()
        .find(|token| token.name.starts_with("oidc: "))
        .unwrap();
    let by = test_support::world::operator();
    assert!(store.revoke_token(token.id, by).await.unwrap());
    assert_eq!(person.get("/").await.status(), 303);
    let away = place.begin("/").await;
    let answer = place.answer_to(&away, &["readers"]).await;
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_in_no_group_any_more_loses_earlier_sessions() {
    let place = place().await;
    let away = place.begin("/").await;
    let person = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    assert_eq!(person.get("/").await.status(), 200);
    let away = place.begin("/").await;
    let answer = place.answer_to(&away, &["strangers"]).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(person.get("/").await.status(), 303);
    let refused = place.entries(AuditAction::SignInRefused).await;
    assert_eq!(refused[0].request_id, request_id(&answer));
    let changed = place.entries(AuditAction::TokenChanged).await;
    assert_eq!(changed[0].request_id, request_id(&answer));
    assert_eq!(
        (changed.len(), changed[0].actor.as_str()),
        (1, "oidc: Kim Doe (4711)")
    );
    // It is no revocation.
    let away = place.begin("/").await;
    let person = signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    assert_eq!(person.get("/").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_lifetime() {
    let lifetime = Duration::from_secs(7200);
    let place = place_with(|settings| settings.pages.session_lifetime = lifetime).await;
    let away = place.begin("/").await;
    let answer = place.answer_to(&away, &["readers"]).await;
    let set = answer.headers().get_all(SET_COOKIE).iter();
    let session = set
        .map(|line| line.to_str().unwrap())
        .find(|line| line.starts_with("verifyd_session="))
        .unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Max-Age=7200"] {
        assert!(session.contains(part), "{session}");
    }
    let tokens = place.scene.world.services.store.tokens().await.unwrap();
    let token = tokens
        .iter()
        .find(|token| token.name.starts_with("oidc: "))
        .unwrap();
    let ends_after = token.expires_at.unwrap() - token.created_at;
    assert!((ends_after.num_seconds() - 7200).abs() <= 1, "{ends_after}");
}
