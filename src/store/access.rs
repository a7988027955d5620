//! Tokens, sessions of the pages, idempotency keys.

use super::acknowledgements::is_of_this_run;
use super::audit::{Owner, owner, owner_columns, owner_of_token, record};
use super::bounds::{is_impossible_time, time};
use super::dialect::{
    a_second_after, after, before, each, is_about, moment, now, own, postgres_only, run_type,
};
use super::from_row::from_row;
use super::rows::{self, name};
use super::sql::{both, sql_for};
use super::sql_store::{
    SqlConnection, SqlStore, execute, fetch_all, fetch_optional, transaction, within,
};
use super::statement::{Sql, earlier, later};
use crate::domain::access::{Binding, Scope, join_scopes};
use crate::domain::audit::{AuditAction, Change, Origin, second};
use crate::domain::{TenantId, TokenId, WorkspaceId};
use crate::ports::access::{
    AccessStore, AnswerSubject, NewToken, Person, Reserved, SessionRecord, TokenRecord,
};
use crate::ports::log_throttle::log_limited;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::time::Duration;

/// The columns of a [`TokenRow`], of `api_tokens`.
macro_rules! token_columns {
    ($db:ident $prefix:literal) => {
        concat!(
            $prefix,
            "id, ",
            $prefix,
            "name, ",
            $prefix,
            "scopes, ",
            $prefix,
            "workspace_id, ",
            $prefix,
            "tenant_id, ",
            $prefix,
            "created_at, ",
            $prefix,
            "expires_at, ",
            $prefix,
            "revoked_at, ",
            $prefix,
            "last_used_at"
        )
    };
}

macro_rules! valid {
    ($db:ident) => {
        sql_for!($db "t.revoked_at IS NULL AND (t.expires_at IS NULL OR " now!() " < t.expires_at)")
    };
}

const ADD: Sql = both!(
    "INSERT INTO " own!(api_tokens) "
        (name, token_hash, scopes, workspace_id, tenant_id, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING " token_columns!("")
);

const PERSON: Sql = both!(
    "SELECT " token_columns!("t.") " FROM " own!(api_tokens) " t WHERE t.token_hash = $1"
    postgres_only!(" FOR UPDATE")
);

/// Waits for another sign-in that is recording the person, and then adds nothing.
const ADD_PERSON: Sql = both!(
    "INSERT INTO " own!(api_tokens) "
        (name, token_hash, scopes, workspace_id, tenant_id, expires_at)
     VALUES ($1, $2, $3, $4, $5, " after!("$6") ")
     ON CONFLICT (token_hash) DO NOTHING RETURNING " token_columns!("")
);

const CHANGE_PERSON: Sql = both!(
    "UPDATE " own!(api_tokens) " SET name = $1, scopes = $3, workspace_id = $4, tenant_id = $5,
         expires_at = " after!("$6") "
     WHERE token_hash = $2 AND revoked_at IS NULL RETURNING " token_columns!("")
);

const DISMISS: Sql = both!(
    "UPDATE " own!(api_tokens) " AS t SET expires_at = " now!()
    " WHERE t.token_hash = $1 AND " valid!() " RETURNING " token_columns!("")
);

const TOKENS: Sql =
    both!("SELECT " token_columns!("t.") " FROM " own!(api_tokens) " t ORDER BY t.id");

const REVOKE: Sql = both!(
    "UPDATE " own!(api_tokens) " SET revoked_at = " now!() " WHERE id = $1 AND revoked_at IS NULL
     RETURNING " owner_columns!()
);

const END_SESSIONS: Sql = both!("DELETE FROM " own!(page_sessions) " WHERE token_id = $1");

macro_rules! use_is_old {
    ($db:ident) => {
        sql_for!(
            $db "(last_used_at IS NULL OR last_used_at < "
            each!("now() - interval '1 minute'", "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-60 seconds')") ")"
        )
    };
}

const BY_HASH: Sql = both!(
    "SELECT " token_columns!("t.") ", " use_is_old!() " AS to_be_noted FROM " own!(api_tokens)
    " t WHERE t.token_hash = $1 AND " valid!()
);

/// A request that finds the row locked skips it: another one records the same.
const NOTE_USE: Sql = both!(
    "UPDATE " own!(api_tokens) " SET last_used_at = " now!() " WHERE id = (
        SELECT id FROM " own!(api_tokens) " WHERE id = $1 AND " use_is_old!()
    postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

/// How long a request waits for [`NOTE_USE`], such as for a lock of the file.
const NOTE_TIMEOUT: Duration = Duration::from_secs(5);

/// A few at a time: each new session removes more than it adds.
const FORGET_SESSIONS: Sql = both!(
    "DELETE FROM " own!(page_sessions) " WHERE session_hash IN (
        SELECT session_hash FROM " own!(page_sessions) " WHERE expires_at <= " now!()
    " ORDER BY expires_at LIMIT 100" postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

const OPEN_SESSION: Sql = both!(
    "INSERT INTO " own!(page_sessions) " (session_hash, token_id, csrf, expires_at)
     VALUES ($1, $2, $3, " after!("$4") ")"
);

const SESSION: Sql = both!(
    "SELECT " token_columns!("t.") ", s.csrf, s.expires_at AS session_expires_at FROM "
    own!(page_sessions) " s JOIN " own!(api_tokens) " t ON t.id = s.token_id
     WHERE s.session_hash = $1 AND " now!() " < s.expires_at AND " valid!()
);

const CLOSE_SESSION: Sql =
    both!("DELETE FROM " own!(page_sessions) " WHERE session_hash = $1 RETURNING token_id");

const FORGET_KEYS: Sql = both!(
    "DELETE FROM " own!(idempotency_keys) " WHERE (token_id, idempotency_key) IN (
        SELECT token_id, idempotency_key FROM " own!(idempotency_keys) " WHERE reserved_at <= "
    before!("$1") " ORDER BY reserved_at LIMIT 100" postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

/// As it was before it was answered.
macro_rules! unanswered {
    ($db:ident) => {
        sql_for!(
            $db "reserved_at = " now!() ", response_status = NULL, response_body = NULL,
                subject = NULL, subject_id = NULL, subject_at = NULL"
        )
    };
}

/// `$4`: age after which a reservation without an answer may be taken over, `$5`: how long keys are kept. A key
/// that is there is locked, also where it is not reserved.
const RESERVE: Sql = both!(
    "INSERT INTO " own!(idempotency_keys) " AS k (token_id, idempotency_key, request_hash)
     VALUES ($1, $2, $3)
     ON CONFLICT (token_id, idempotency_key) DO UPDATE
     SET request_hash = excluded.request_hash, " unanswered!() "
     WHERE k.reserved_at <= " before!("$5")
    " OR (k.request_hash = excluded.request_hash AND k.response_status IS NULL
          AND k.reserved_at <= " before!("$4") ")"
);

/// Whether the row with this time of creation is the one that the key `k` was answered about.
macro_rules! is_subject {
    ($db:ident $created_at:literal) => {
        sql_for!(
            $db "(" is_about!($created_at, "k.subject_at") " OR k.subject_at IS NULL AND ("
            time!($created_at) ") IS NULL)"
        )
    };
}

/// Begins after the key was locked, so it sees the row that the answer is about.
const KEY: Sql = both!(
    "SELECT k.request_hash, k.response_status, k.response_body, CASE k.subject
        WHEN 'run' THEN NOT EXISTS (SELECT 1 FROM operation_runs r
            WHERE r.id = k.subject_id AND r.type = " run_type!() " AND " is_subject!("r.created_at")
    ")  WHEN 'acknowledgement' THEN NOT EXISTS (SELECT 1 FROM verification_check_acknowledgements a
            JOIN operation_runs r ON r.id = a.operation_run_id AND r.type = " run_type!() " AND "
    is_of_this_run!() " WHERE a.id = k.subject_id AND " is_subject!("a.acknowledged_at")
    ")  ELSE false END AS is_gone
     FROM " own!(idempotency_keys) " k WHERE k.token_id = $1 AND k.idempotency_key = $2"
);

const RESERVE_AGAIN: Sql = both!(
    "UPDATE " own!(idempotency_keys) " SET " unanswered!()
    " WHERE token_id = $1 AND idempotency_key = $2"
);

/// `$5`, `$6`: the row that it is about.
const ANSWER: Sql = both!(
    "UPDATE " own!(idempotency_keys) " SET response_status = $3, response_body = $4,
        subject = $5, subject_id = $6, subject_at = CASE $5 WHEN 'run'
            THEN (SELECT max(" time!("r.created_at") ") FROM operation_runs r WHERE r.id = $6)
            ELSE (SELECT " time!("a.acknowledged_at")
    "             FROM verification_check_acknowledgements a WHERE a.id = $6) END
     WHERE token_id = $1 AND idempotency_key = $2 AND response_status IS NULL"
);

const RELEASE: Sql = both!(
    "DELETE FROM " own!(idempotency_keys)
    " WHERE token_id = $1 AND idempotency_key = $2 AND response_status IS NULL"
);

#[async_trait]
impl<S: SqlStore> AccessStore for S {
    async fn add_token(&self, new: &NewToken, by: &Origin) -> Result<TokenRecord, StoreError> {
        let add = ADD
            .bind(&new.name)
            .bind(&new.hash)
            .bind(join_scopes(&new.scopes))
            .bind(new.binding.workspace_id.map(|id| id.0))
            .bind(new.binding.tenant_id.map(|id| id.0))
            .bind(new.expires_at);
        transaction(self, async |tx| {
            let row: TokenRow = add.fetch_one(tx).await?;
            let change = Change::new(AuditAction::TokenCreated, row.id, new.binding);
            let change = change.after(json!({
                "name": new.name,
                "scopes": new.scopes,
                "expires_at": new.expires_at.map(second),
            }));
            record(tx, &change, by).await?;
            TokenRecord::try_from(row)
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        rows::all(fetch_all::<TokenRow>(self, TOKENS).await?)
    }

    async fn revoke_token(&self, id: TokenId, by: &Origin) -> Result<bool, StoreError> {
        transaction(self, async |tx| {
            let revoked: Option<Owner> = REVOKE.bind(id.0).fetch_optional(tx).await?;
            END_SESSIONS.bind(id.0).execute(tx).await?;
            let Some(revoked) = revoked else {
                return Ok(false);
            };
            let change = Change::new(AuditAction::TokenRevoked, id.0, owner(revoked));
            record(tx, &change, by).await?;
            Ok(true)
        })
        .await
    }

    async fn admit_person(
        &self,
        person: &Person,
        lifetime: Duration,
        by: &Origin,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let with_person = |sql: Sql| {
            sql.bind(&person.name)
                .bind(&person.hash)
                .bind(join_scopes(&person.scopes))
                .bind(person.binding.workspace_id.map(|id| id.0))
                .bind(person.binding.tenant_id.map(|id| id.0))
                .bind(later(lifetime))
        };
        let (add, change) = (with_person(ADD_PERSON), with_person(CHANGE_PERSON));
        transaction(self, async |tx| {
            let added: Option<TokenRow> = add.fetch_optional(tx).await?;
            let (before, row) = match added {
                Some(row) => (None, Some(row)),
                None => {
                    let before: Option<TokenRow> =
                        PERSON.bind(&person.hash).fetch_optional(tx).await?;
                    (before, change.fetch_optional(tx).await?)
                }
            };
            let before = before.map(TokenRecord::try_from).transpose()?;
            let Some(row) = row else {
                return Ok(None);
            };
            let admitted = TokenRecord::try_from(row)?;
            NOTE_USE.bind(admitted.id.0).execute(tx).await?;
            let after = facts(&admitted);
            let change = match before.as_ref().map(facts) {
                None => Some((AuditAction::TokenCreated, None)),
                Some(before) if before != after => Some((AuditAction::TokenChanged, Some(before))),
                Some(_) => None,
            };
            if let Some((action, before)) = change {
                let change = Change::new(action, admitted.id.0, admitted.binding).after(after);
                record(tx, &Change { before, ..change }, by).await?;
            }
            Ok(Some(admitted))
        })
        .await
    }

    async fn dismiss_person(&self, hash: &str, by: &Origin) -> Result<bool, StoreError> {
        let dismiss = DISMISS.bind(hash);
        transaction(self, async |tx| {
            let row: Option<TokenRow> = dismiss.fetch_optional(tx).await?;
            let Some(row) = row else {
                return Ok(false);
            };
            let dismissed = TokenRecord::try_from(row)?;
            END_SESSIONS.bind(dismissed.id.0).execute(tx).await?;
            let (id, bound) = (dismissed.id.0, dismissed.binding);
            let change = Change::new(AuditAction::TokenChanged, id, bound);
            let ended = json!({ "expires_at": dismissed.expires_at.map(second) });
            record(tx, &change.after(ended), by).await?;
            Ok(true)
        })
        .await
    }

    async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRecord>, StoreError> {
        let found: Option<UsedTokenRow> = fetch_optional(self, BY_HASH.bind(hash)).await?;
        if let Some(found) = found.as_ref().filter(|found| found.to_be_noted) {
            note_use(self, found.token.id).await;
        }
        found.map(|found| found.token.try_into()).transpose()
    }

    async fn open_session(
        &self,
        token: TokenId,
        session_hash: &str,
        csrf: &str,
        lifetime: Duration,
        replaced: Option<&str>,
        by: &Origin,
    ) -> Result<(), StoreError> {
        let open = OPEN_SESSION
            .bind(session_hash)
            .bind(token.0)
            .bind(csrf)
            .bind(later(lifetime));
        transaction(self, async |tx| {
            // Waits for whoever has locked the session, so before this locks any other one.
            if let Some(replaced) = replaced {
                CLOSE_SESSION.bind(replaced).execute(tx).await?;
            }
            FORGET_SESSIONS.execute(tx).await?;
            open.execute(tx).await?;
            record_session(tx, AuditAction::SignedIn, token, by).await
        })
        .await
    }

    async fn session_by_hash(
        &self,
        session_hash: &str,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let found: Option<SessionRow> = fetch_optional(self, SESSION.bind(session_hash)).await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn close_session(&self, session_hash: &str, by: &Origin) -> Result<(), StoreError> {
        transaction(self, async |tx| {
            let close = CLOSE_SESSION.bind(session_hash);
            let closed: Option<(i64,)> = close.fetch_optional(tx).await?;
            match closed {
                Some((token,)) => {
                    record_session(tx, AuditAction::SignedOut, TokenId(token), by).await
                }
                None => Ok(()),
            }
        })
        .await
    }

    async fn reserve_key(
        &self,
        token: TokenId,
        key: &str,
        request_hash: &str,
        abandoned_after: Duration,
        kept_for: Duration,
    ) -> Result<Reserved, StoreError> {
        let reserve = RESERVE
            .bind(token.0)
            .bind(key)
            .bind(request_hash)
            .bind(earlier(abandoned_after))
            .bind(earlier(kept_for));
        transaction(self, async |tx| {
            if reserve.execute(tx).await? == 1 {
                FORGET_KEYS.bind(earlier(kept_for)).execute(tx).await?;
                return Ok(Reserved::First);
            }
            let found: Option<KeyRow> = KEY.bind(token.0).bind(key).fetch_optional(tx).await?;
            // Released in between: the caller tries again.
            let Some(row) = found else {
                return Ok(Reserved::InProgress);
            };
            if row.is_gone && row.request_hash == request_hash {
                let again = RESERVE_AGAIN.bind(token.0).bind(key);
                again.execute(tx).await?;
                return Ok(Reserved::First);
            }
            Ok(row.reserved(request_hash))
        })
        .await
    }

    async fn answer_key(
        &self,
        token: TokenId,
        key: &str,
        status: u16,
        body: &str,
        subject: AnswerSubject,
    ) -> Result<(), StoreError> {
        let (subject, id) = match subject {
            AnswerSubject::Run(id) => ("run", id.0),
            AnswerSubject::Acknowledgement(id) => ("acknowledgement", id.0),
        };
        let answer = ANSWER.bind(token.0).bind(key).bind(status).bind(body);
        execute(self, answer.bind(subject).bind(id)).await?;
        Ok(())
    }

    async fn release_key(&self, token: TokenId, key: &str) -> Result<(), StoreError> {
        execute(self, RELEASE.bind(token.0).bind(key)).await?;
        Ok(())
    }
}

/// Records the use of the token. A database that only reads, or whose disk is full or locked, refuses no request by that.
async fn note_use(store: &impl SqlStore, token: i64) {
    let note = execute(store, NOTE_USE.bind(token));
    if let Err(error) = within(Some(NOTE_TIMEOUT), note).await {
        log_limited!(warn, token, %error, "the use of the token is not recorded; its request goes on");
    }
}

/// What an entry keeps of a person's token. It ends with the sessions, so its end is left out.
fn facts(token: &TokenRecord) -> Value {
    json!({
        "name": token.name,
        "scopes": token.scopes,
        "workspace_id": token.binding.workspace_id,
        "tenant_id": token.binding.tenant_id,
    })
}

async fn record_session(
    tx: &mut dyn SqlConnection,
    action: AuditAction,
    token: TokenId,
    by: &Origin,
) -> Result<(), StoreError> {
    let bound = owner_of_token(tx, token).await?;
    record(tx, &Change::new(action, token.0, bound), by).await
}

from_row! {
    /// `api_tokens`, without the hash.
    #[derive(Debug)]
    struct TokenRow {
        id: i64,
        name: String,
        scopes: String,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        created_at: DateTime<Utc>,
        expires_at: Option<DateTime<Utc>>,
        revoked_at: Option<DateTime<Utc>>,
        last_used_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<TokenRow> for TokenRecord {
    type Error = StoreError;
    fn try_from(row: TokenRow) -> Result<Self, StoreError> {
        let scopes = row.scopes.split(',').filter(|text| !text.is_empty());
        Ok(Self {
            id: TokenId(row.id),
            scopes: scopes
                .map(|text| name::<Scope>("api_tokens", "scopes", row.id, text))
                .collect::<Result<_, _>>()?,
            name: row.name,
            binding: Binding {
                workspace_id: row.workspace_id.map(WorkspaceId),
                tenant_id: row.tenant_id.map(TenantId),
            },
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        })
    }
}

from_row! {
    /// A valid token, and whether its use has to be recorded.
    #[derive(Debug)]
    struct UsedTokenRow {
        to_be_noted: bool;
        token: TokenRow
    }
}

from_row! {
    /// `page_sessions` with its token.
    #[derive(Debug)]
    struct SessionRow {
        csrf: String,
        session_expires_at: DateTime<Utc>;
        token: TokenRow
    }
}

impl TryFrom<SessionRow> for SessionRecord {
    type Error = StoreError;
    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        Ok(Self {
            token: row.token.try_into()?,
            csrf: row.csrf,
            expires_at: row.session_expires_at,
        })
    }
}

from_row! {
    /// `idempotency_keys`, and whether the row that the answer is about is gone.
    #[derive(Debug)]
    struct KeyRow {
        request_hash: String,
        response_status: Option<i32>,
        response_body: Option<String>,
        is_gone: bool,
    }
}

impl KeyRow {
    /// Returns what this key means for a request with this hash.
    fn reserved(self, request_hash: &str) -> Reserved {
        if self.request_hash != request_hash {
            return Reserved::Mismatch;
        }
        match (self.response_status, self.response_body) {
            (Some(status), Some(body)) => match u16::try_from(status) {
                Ok(status) => Reserved::Answered { status, body },
                Err(_) => Reserved::InProgress,
            },
            _ => Reserved::InProgress,
        }
    }
}
