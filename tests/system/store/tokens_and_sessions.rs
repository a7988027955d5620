//! Tokens, sessions of the pages, idempotency keys.

use crate::store::bed::Bed;
use crate::store::fixtures::{at_once, bound};
use std::collections::HashSet;
use std::time::Duration;
use test_support::waiting::{until, within};
use test_support::world::operator;
use verifyd::domain::access::Scope;
use verifyd::domain::{RunId, TokenId, token};
use verifyd::ports::access::{AnswerSubject, NewToken, Person, Reserved, TokenRecord};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn new_token(name: &str, hash: &str) -> NewToken {
    NewToken {
        name: name.into(),
        hash: hash.into(),
        scopes: vec![Scope::Run, Scope::Read],
        binding: bound(3, Some(4)),
        expires_at: None,
    }
}

/// The hash of a token, as different as the text is.
fn hash(text: &str) -> String {
    token::sha256_hex(text)
}

async fn token(bed: &Bed, text: &str) -> TokenRecord {
    let new = new_token(text, &hash(text));
    bed.store.add_token(&new, operator()).await.unwrap()
}

/// The time of the database, moved by a number of seconds.
async fn expiring(bed: &Bed, text: &str, seconds: i64) -> TokenRecord {
    let created = token(bed, &format!("{text} clock")).await.created_at;
    let mut new = new_token(text, &hash(text));
    new.expires_at = Some(created + chrono::Duration::seconds(seconds));
    bed.store.add_token(&new, operator()).await.unwrap()
}

pub async fn a_token_is_found_by_its_hash_alone(bed: &Bed) {
    let added = token(bed, "one").await;
    assert_eq!(added.scopes, [Scope::Read, Scope::Run]);
    assert_eq!(added.binding, new_token("", "").binding);
    let found = bed.store.token_by_hash(&hash("one")).await.unwrap();
    let found = found.expect("it is valid");
    assert_eq!((found.id, found.name), (added.id, added.name));
    assert_eq!(found.scopes, added.scopes);
    assert_eq!(found.binding, added.binding);
    let unknown = bed.store.token_by_hash(&hash("two")).await.unwrap();
    assert_eq!(unknown, None);
    let again = bed
        .store
        .add_token(&new_token("other", &hash("one")), operator())
        .await;
    assert!(again.is_err(), "two tokens with one hash");
}

pub async fn a_revoked_token_is_worthless_and_its_sessions_end(bed: &Bed) {
    let (one, two) = (token(bed, "one").await, token(bed, "two").await);
    for (owner, session) in [(one.id, "s1"), (two.id, "s2")] {
        let session = hash(session);
        let opened = bed
            .store
            .open_session(owner, &session, "csrf", DAY, None, operator());
        opened.await.unwrap();
    }
    assert!(bed.store.revoke_token(one.id, operator()).await.unwrap());
    assert!(!bed.store.revoke_token(one.id, operator()).await.unwrap());
    assert!(
        !bed.store
            .revoke_token(TokenId(999), operator())
            .await
            .unwrap()
    );
    let by_hash = async |text: &str| bed.store.token_by_hash(&hash(text)).await.unwrap();
    assert_eq!(by_hash("one").await, None);
    assert!(by_hash("two").await.is_some());
    let session = async |text: &str| bed.store.session_by_hash(&hash(text)).await.unwrap();
    assert_eq!(session("s1").await, None);
    assert!(session("s2").await.is_some());
    let all = bed.store.tokens().await.unwrap();
    assert_eq!(
        all.iter().map(|t| t.id).collect::<Vec<_>>(),
        [one.id, two.id]
    );
    assert!(all[0].revoked_at.is_some() && all[1].revoked_at.is_none());
}

pub async fn a_token_expires_by_the_databases_clock(bed: &Bed) {
    expiring(bed, "later", 3600).await;
    expiring(bed, "over", -1).await;
    let later = bed.store.token_by_hash(&hash("later")).await.unwrap();
    assert!(later.is_some());
    let over = bed.store.token_by_hash(&hash("over")).await.unwrap();
    assert_eq!(over, None);
    assert_eq!(bed.store.tokens().await.unwrap().len(), 4);
}

pub async fn the_use_of_a_token_is_noted_once_a_minute(bed: &Bed) {
    let added = token(bed, "one").await;
    assert_eq!(added.last_used_at, None);
    let last_used = async || bed.store.tokens().await.unwrap()[0].last_used_at;
    let use_it = async || bed.store.token_by_hash(&hash("one")).await.unwrap();
    // A busy machine may take too long for it.
    until("the use is noted", async || {
        use_it().await;
        last_used().await.is_some()
    })
    .await;
    let first = last_used().await.unwrap();
    use_it().await;
    assert_eq!(last_used().await, Some(first), "noted twice in a minute");
    let tokens = bed.own("api_tokens");
    bed.age(&tokens, "last_used_at", "1 = 1", 61).await;
    until("the use is noted again", async || {
        use_it().await;
        last_used().await >= Some(first)
    })
    .await;
}

/// Of SQLite the whole file is locked at last, for as long as the test likes.
pub async fn a_token_whose_use_cannot_be_noted_is_valid(bed: &Bed) {
    let added = token(bed, "one").await;
    let tokens = bed.own("api_tokens");
    bed.exec(&match bed.is_postgres() {
        true => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE ''read-only'' USING errcode = ''25006''; END'; \
             CREATE TRIGGER refuse BEFORE UPDATE ON {tokens} FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
        false => format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON {tokens} BEGIN SELECT RAISE(ABORT, 'full'); END"
        ),
    })
    .await;
    let find = async || bed.store.token_by_hash(&hash("one")).await.unwrap();
    assert_eq!(find().await.map(|found| found.id), Some(added.id));
    let lock = bed.lock_run(RunId(1)).await;
    let found = within("the request goes on", find()).await;
    assert_eq!(found.map(|found| found.id), Some(added.id));
    lock.release().await;
    assert_eq!(bed.store.tokens().await.unwrap()[0].last_used_at, None);
    bed.exec(&match bed.is_postgres() {
        true => format!("DROP TRIGGER refuse ON {tokens}"),
        false => "DROP TRIGGER refuse".to_owned(),
    })
    .await;
    until("the use is noted", async || {
        find().await;
        bed.store.tokens().await.unwrap()[0].last_used_at.is_some()
    })
    .await;
}

/// Somebody whom a provider has signed in.
fn person(name: &str, scopes: &[Scope], tenant: i64) -> Person {
    Person {
        name: name.into(),
        hash: hash("oidc\nhttps://login.example\n4711"),
        scopes: scopes.to_vec(),
        binding: bound(3, Some(tenant)),
    }
}

pub async fn a_person_is_one_token_that_changes_with_each_sign_in_and_ends(bed: &Bed) {
    let store = &bed.store;
    let admit = async |person: &Person, lifetime| {
        let admitted = store.admit_person(person, lifetime, operator());
        admitted.await.unwrap()
    };
    let kim = person("oidc: Kim (4711)", &[Scope::Run, Scope::Read], 4);
    let first = admit(&kim, DAY).await.expect("it is new");
    assert_eq!(first.name, kim.name);
    assert_eq!(first.scopes, [Scope::Read, Scope::Run]);
    assert_eq!(first.binding, kim.binding);
    let session = hash("session");
    let opened = store.open_session(first.id, &session, "csrf", DAY, None, operator());
    opened.await.unwrap();

    let changed = person("oidc: Kim Doe (4711)", &[Scope::Read], 5);
    let second = admit(&changed, MINUTE).await.expect("it is valid");
    assert_eq!((second.id, second.created_at), (first.id, first.created_at));
    assert!(second.expires_at < first.expires_at);
    let found = store.session_by_hash(&session).await.unwrap().unwrap();
    assert_eq!(found.token.name, changed.name);
    assert_eq!(found.token.scopes, changed.scopes);
    assert_eq!(found.token.binding, changed.binding);
    assert!(found.token.last_used_at.is_some());
    assert_eq!(store.tokens().await.unwrap().len(), 1);

    // Whatever is left of a session ends with it.
    bed.age(&bed.own("api_tokens"), "expires_at", "1 = 1", 61)
        .await;
    assert_eq!(store.session_by_hash(&session).await.unwrap(), None);
    admit(&kim, DAY).await.expect("it may sign in again");

    // Without access any more, and with it again: a session of before stays at its end.
    let session = hash("another session");
    let opened = store.open_session(first.id, &session, "csrf", DAY, None, operator());
    opened.await.unwrap();
    assert!(
        !store
            .dismiss_person(&hash("a stranger"), operator())
            .await
            .unwrap()
    );
    assert!(store.session_by_hash(&session).await.unwrap().is_some());
    assert!(store.dismiss_person(&kim.hash, operator()).await.unwrap());
    assert!(!store.dismiss_person(&kim.hash, operator()).await.unwrap());
    assert_eq!(store.session_by_hash(&session).await.unwrap(), None);
    admit(&kim, DAY).await.expect("it may sign in again");
    assert_eq!(store.session_by_hash(&session).await.unwrap(), None);

    assert!(store.revoke_token(first.id, operator()).await.unwrap());
    assert_eq!(admit(&kim, DAY).await, None);
    assert_eq!(store.session_by_hash(&session).await.unwrap(), None);
    let kept = &store.tokens().await.unwrap()[0];
    assert!(kept.revoked_at.is_some());
}

pub async fn first_sign_ins_of_a_person_at_once_are_one_creation(bed: &Bed) {
    let stores = std::slice::from_ref(&bed.store);
    let admitted = at_once(stores, 20, |store, _| async move {
        let kim = person("oidc: Kim (4711)", &[Scope::Read], 4);
        store.admit_person(&kim, DAY, operator()).await.unwrap()
    })
    .await;
    let ids = admitted.iter().map(|token| token.as_ref().unwrap().id);
    assert_eq!(ids.collect::<HashSet<_>>().len(), 1);
    assert_eq!(bed.count(&bed.own("audit_entries")).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_whom_another_replica_is_recording_is_not_created_twice() {
    let bed = Bed::postgres().await;
    let kim = person("oidc: Kim (4711)", &[Scope::Read], 4);
    let mut other = bed.pg().begin().await.unwrap();
    sqlx::query(
        "INSERT INTO verifyd.api_tokens (name, token_hash, scopes, workspace_id, tenant_id)
         VALUES ($1, $2, 'read', 3, 4)",
    )
    .bind(&kim.name)
    .bind(&kim.hash)
    .execute(&mut *other)
    .await
    .unwrap();
    let recording = async {
        bed.somebody_waits_for_a_lock().await;
        other.commit().await.unwrap();
    };
    let admit = bed.store.admit_person(&kim, DAY, operator());
    let (admitted, ()) = tokio::join!(admit, recording);
    assert!(admitted.unwrap().unwrap().expires_at.is_some());
    assert_eq!(bed.count("verifyd.api_tokens").await, 1);
    // The other one has the entry; nothing has changed since.
    assert_eq!(bed.count("verifyd.audit_entries").await, 0);
}

/// Two sign-ins, or one and a revocation, would otherwise wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_that_waits_for_a_session_locks_no_other_one() {
    let bed = Bed::postgres().await;
    let one = token(&bed, "one").await;
    let open = async |session: &str, replaced: Option<&str>| {
        let (session, replaced) = (hash(session), replaced.map(hash));
        let opened = bed.store.open_session(
            one.id,
            &session,
            "csrf",
            DAY,
            replaced.as_deref(),
            operator(),
        );
        opened.await.unwrap();
    };
    open("over", None).await;
    open("replaced", None).await;
    let (table, over) = ("verifyd.page_sessions", hash("over"));
    let over = format!("session_hash = '{over}'");
    bed.age(table, "expires_at", &over, 2 * 24 * 3600).await;
    let mut other = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT FROM verifyd.page_sessions WHERE session_hash = $1 FOR UPDATE")
        .bind(hash("replaced"))
        .execute(&mut *other)
        .await
        .unwrap();
    let looking = async {
        bed.somebody_waits_for_a_lock().await;
        let free = format!(
            "SELECT count(*) FROM (SELECT FROM {table} WHERE {over} FOR UPDATE SKIP LOCKED) AS free"
        );
        let free = bed.number(&free).await;
        other.rollback().await.unwrap();
        free
    };
    let ((), free) = tokio::join!(open("new", Some("replaced")), looking);
    assert_eq!(free, 1);
    assert_eq!(bed.count(table).await, 1);
}

pub async fn a_session_lives_as_long_as_it_and_its_token(bed: &Bed) {
    let one = token(bed, "one").await;
    let soon = expiring(bed, "soon", 3600).await;
    let open = async |owner, session: &str| {
        let hash = hash(session);
        let opened = bed
            .store
            .open_session(owner, &hash, session, DAY, None, operator());
        opened.await.unwrap();
    };
    let find = async |session: &str| bed.store.session_by_hash(&hash(session)).await.unwrap();
    open(one.id, "s1").await;
    open(soon.id, "s2").await;
    let found = find("s1").await.expect("it is open");
    assert_eq!((found.token.id, found.csrf.as_str()), (one.id, "s1"));
    assert!(found.expires_at > found.token.created_at);
    let tokens = bed.own("api_tokens");
    bed.age(&tokens, "expires_at", "expires_at IS NOT NULL", 3601)
        .await;
    assert_eq!(find("s2").await, None, "its token has expired");
    let sessions = bed.own("page_sessions");
    bed.age(&sessions, "expires_at", "1 = 1", 25 * 3600).await;
    assert_eq!(find("s1").await, None, "it has expired");
    // The next one clears them away.
    open(one.id, "s3").await;
    assert_eq!(bed.count(&sessions).await, 1);
    bed.store
        .close_session(&hash("s3"), operator())
        .await
        .unwrap();
    assert_eq!(find("s3").await, None);
}

/// The token of somebody who sends idempotency keys.
pub async fn key_owner(bed: &Bed) -> TokenId {
    token(bed, "one").await.id
}

pub async fn reserve(bed: &Bed, owner: TokenId, key: &str, request: &str) -> Reserved {
    let reserved = bed.store.reserve_key(owner, key, request, MINUTE, DAY);
    reserved.await.unwrap()
}

pub async fn a_key_is_answered_once(bed: &Bed) {
    let (one, two) = (token(bed, "one").await.id, token(bed, "two").await.id);
    assert_eq!(reserve(bed, one, "k", "a").await, Reserved::First);
    assert_eq!(reserve(bed, one, "k", "a").await, Reserved::InProgress);
    assert_eq!(reserve(bed, one, "k", "b").await, Reserved::Mismatch);
    // Another token's key is another key.
    assert_eq!(reserve(bed, two, "k", "b").await, Reserved::First);
    let store = &bed.store;
    let subject = AnswerSubject::Run(bed.queued().await);
    for (status, body) in [(201, "{}"), (500, "no")] {
        let kept = store.answer_key(one, "k", status, body, subject).await;
        kept.unwrap();
    }
    let answered = Reserved::Answered {
        status: 201,
        body: "{}".into(),
    };
    assert_eq!(reserve(bed, one, "k", "a").await, answered);
    assert_eq!(reserve(bed, one, "k", "b").await, Reserved::Mismatch);
    store.release_key(one, "k").await.unwrap();
    assert_eq!(reserve(bed, one, "k", "a").await, answered);
    store.release_key(two, "k").await.unwrap();
    assert_eq!(reserve(bed, two, "k", "c").await, Reserved::First);
}

pub async fn an_abandoned_key_is_taken_over_by_the_same_request_only(bed: &Bed) {
    let one = token(bed, "one").await.id;
    assert_eq!(reserve(bed, one, "k", "a").await, Reserved::First);
    let keys = bed.own("idempotency_keys");
    bed.age(&keys, "reserved_at", "1 = 1", 61).await;
    assert_eq!(reserve(bed, one, "k", "b").await, Reserved::Mismatch);
    assert_eq!(reserve(bed, one, "k", "a").await, Reserved::First);
    assert_eq!(reserve(bed, one, "k", "a").await, Reserved::InProgress);
}

pub async fn keys_are_forgotten_in_chunks(bed: &Bed) {
    let one = token(bed, "one").await.id;
    let subject = AnswerSubject::Run(bed.queued().await);
    for n in 0..150 {
        let key = format!("k{n}");
        assert_eq!(reserve(bed, one, &key, "a").await, Reserved::First);
        let kept = bed.store.answer_key(one, &key, 200, "old", subject).await;
        kept.unwrap();
    }
    let keys = bed.own("idempotency_keys");
    bed.age(&keys, "reserved_at", "1 = 1", 24 * 3600 + 1).await;
    // One that is over may be used anew, for another request.
    assert_eq!(reserve(bed, one, "k0", "b").await, Reserved::First);
    assert_eq!(bed.count(&keys).await, 50);
    assert_eq!(reserve(bed, one, "new", "a").await, Reserved::First);
    assert_eq!(bed.count(&keys).await, 2);
}

pub async fn a_key_under_many_callers_is_first_once(bed: &Bed) {
    let one = token(bed, "one").await.id;
    let stores = std::slice::from_ref(&bed.store);
    let answers = at_once(stores, 20, |store, _| async move {
        let reserved = store.reserve_key(one, "k", "a", MINUTE, DAY);
        reserved.await.unwrap()
    })
    .await;
    let count = |wanted| answers.iter().filter(|a| **a == wanted).count();
    let counts = (count(Reserved::First), count(Reserved::InProgress));
    assert_eq!(counts, (1, 19), "{answers:?}");
}
