//! Tokens, sessions of the pages, idempotency keys.

use super::{PostgresStore, seconds};
use crate::domain::TokenId;
use crate::domain::access::join_scopes;
use crate::ports::access::{AccessStore, NewToken, Reserved, SessionRecord, TokenRecord};
use crate::ports::store_error::StoreError;
use crate::store::access_rows::{KeyRow, SessionRow, TokenRow, UsedTokenRow, token_columns};
use crate::store::rows;
use crate::store::sql::sql;
use async_trait::async_trait;
use std::time::Duration;

const ADD: &str = sql!(
    "INSERT INTO verifyd.api_tokens AS t
        (name, token_hash, scopes, workspace_id, tenant_id, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING " token_columns!()
);

const TOKENS: &str = sql!("SELECT " token_columns!() " FROM verifyd.api_tokens t ORDER BY t.id");

const REVOKE: &str = "
    UPDATE verifyd.api_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL";

const END_SESSIONS: &str = "DELETE FROM verifyd.page_sessions WHERE token_id = $1";

macro_rules! valid {
    () => {
        "t.revoked_at IS NULL AND (t.expires_at IS NULL OR now() < t.expires_at)"
    };
}

macro_rules! use_is_old {
    () => {
        "(last_used_at IS NULL OR last_used_at < now() - interval '1 minute')"
    };
}

const BY_HASH: &str = sql!(
    "SELECT " token_columns!() ", " use_is_old!()
    " AS to_be_noted FROM verifyd.api_tokens t WHERE t.token_hash = $1 AND " valid!()
);

/// A request that finds the row locked skips it: another one records the same.
const NOTE_USE: &str = sql!(
    "UPDATE verifyd.api_tokens SET last_used_at = now() WHERE id = (
        SELECT id FROM verifyd.api_tokens WHERE id = $1 AND " use_is_old!() " FOR UPDATE SKIP LOCKED)"
);

/// A few at a time: each new session removes more than it adds.
const FORGET_SESSIONS: &str = "
    DELETE FROM verifyd.page_sessions WHERE session_hash IN (
        SELECT session_hash FROM verifyd.page_sessions WHERE expires_at <= now()
        ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)";

const OPEN_SESSION: &str = "
    INSERT INTO verifyd.page_sessions (session_hash, token_id, csrf, expires_at)
    VALUES ($1, $2, $3, now() + make_interval(secs => $4))";

const SESSION: &str = sql!(
    "SELECT " token_columns!() ", s.csrf, s.expires_at AS session_expires_at
     FROM verifyd.page_sessions s JOIN verifyd.api_tokens t ON t.id = s.token_id
     WHERE s.session_hash = $1 AND now() < s.expires_at AND " valid!()
);

const CLOSE_SESSION: &str = "DELETE FROM verifyd.page_sessions WHERE session_hash = $1";

const FORGET_KEYS: &str = "
    DELETE FROM verifyd.idempotency_keys WHERE (token_id, idempotency_key) IN (
        SELECT token_id, idempotency_key FROM verifyd.idempotency_keys
        WHERE reserved_at <= now() - make_interval(secs => $1)
        ORDER BY reserved_at LIMIT 100 FOR UPDATE SKIP LOCKED)";

/// `$4`: age after which a reservation without an answer may be taken over, `$5`: how long keys are kept.
const RESERVE: &str = "
    INSERT INTO verifyd.idempotency_keys AS k (token_id, idempotency_key, request_hash)
    VALUES ($1, $2, $3)
    ON CONFLICT (token_id, idempotency_key) DO UPDATE
    SET request_hash = excluded.request_hash, reserved_at = now(),
        response_status = NULL, response_body = NULL
    WHERE k.reserved_at <= now() - make_interval(secs => $5)
       OR (k.request_hash = excluded.request_hash AND k.response_status IS NULL
           AND k.reserved_at <= now() - make_interval(secs => $4))";

const KEY: &str = "
    SELECT request_hash, response_status, response_body FROM verifyd.idempotency_keys
    WHERE token_id = $1 AND idempotency_key = $2";

const ANSWER: &str = "
    UPDATE verifyd.idempotency_keys SET response_status = $3, response_body = $4
    WHERE token_id = $1 AND idempotency_key = $2 AND response_status IS NULL";

const RELEASE: &str = "
    DELETE FROM verifyd.idempotency_keys
    WHERE token_id = $1 AND idempotency_key = $2 AND response_status IS NULL";

#[async_trait]
impl AccessStore for PostgresStore {
    async fn add_token(&self, new: &NewToken) -> Result<TokenRecord, StoreError> {
        self.transaction(async |tx| {
            let row: TokenRow = self
                .rows(ADD)
                .bind(&new.name)
                .bind(&new.hash)
                .bind(join_scopes(&new.scopes))
                .bind(new.binding.workspace_id.map(|id| id.0))
                .bind(new.binding.tenant_id.map(|id| id.0))
                .bind(new.expires_at)
                .fetch_one(&mut *tx)
                .await?;
            row.try_into()
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let found: Vec<TokenRow> = self.fetch_all(self.rows(TOKENS)).await?;
        rows::all(found)
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool, StoreError> {
        self.transaction(async |tx| {
            let revoked = self.sql(REVOKE).bind(id.0).execute(&mut *tx).await?;
            self.sql(END_SESSIONS).bind(id.0).execute(&mut *tx).await?;
            Ok(revoked.rows_affected() == 1)
        })
        .await
    }

    async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.transaction(async |tx| {
            let found: Option<UsedTokenRow> = self
                .rows(BY_HASH)
                .bind(hash)
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(found) = found.as_ref().filter(|found| found.to_be_noted) {
                self.sql(NOTE_USE)
                    .bind(found.token.id)
                    .execute(&mut *tx)
                    .await?;
            }
            found.map(|found| found.token.try_into()).transpose()
        })
        .await
    }

    async fn open_session(
        &self,
        token: TokenId,
        session_hash: &str,
        csrf: &str,
        lifetime: Duration,
    ) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            self.sql(FORGET_SESSIONS).execute(&mut *tx).await?;
            self.sql(OPEN_SESSION)
                .bind(session_hash)
                .bind(token.0)
                .bind(csrf)
                .bind(seconds(lifetime))
                .execute(&mut *tx)
                .await?;
            Ok(())
        })
        .await
    }

    async fn session_by_hash(
        &self,
        session_hash: &str,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let found: Option<SessionRow> = self
            .fetch_optional(self.rows(SESSION).bind(session_hash))
            .await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn close_session(&self, session_hash: &str) -> Result<(), StoreError> {
        self.execute(self.sql(CLOSE_SESSION).bind(session_hash))
            .await?;
        Ok(())
    }

    async fn reserve_key(
        &self,
        token: TokenId,
        key: &str,
        request_hash: &str,
        abandoned_after: Duration,
        kept_for: Duration,
    ) -> Result<Reserved, StoreError> {
        self.transaction(async |tx| {
            let reserved = self
                .sql(RESERVE)
                .bind(token.0)
                .bind(key)
                .bind(request_hash)
                .bind(seconds(abandoned_after))
                .bind(seconds(kept_for))
                .execute(&mut *tx)
                .await?;
            let answer = if reserved.rows_affected() == 1 {
                self.sql(FORGET_KEYS)
                    .bind(seconds(kept_for))
                    .execute(&mut *tx)
                    .await?;
                Reserved::First
            } else {
                let found: Option<KeyRow> = self
                    .rows(KEY)
                    .bind(token.0)
                    .bind(key)
                    .fetch_optional(&mut *tx)
                    .await?;
                // Released in between: the caller tries again.
                found.map_or(Reserved::InProgress, |row| row.reserved(request_hash))
            };
            Ok(answer)
        })
        .await
    }

    async fn answer_key(
        &self,
        token: TokenId,
        key: &str,
        status: u16,
        body: &str,
    ) -> Result<(), StoreError> {
        let query = self
            .sql(ANSWER)
            .bind(token.0)
            .bind(key)
            .bind(i32::from(status))
            .bind(body);
        self.execute(query).await?;
        Ok(())
    }

    async fn release_key(&self, token: TokenId, key: &str) -> Result<(), StoreError> {
        self.execute(self.sql(RELEASE).bind(token.0).bind(key))
            .await?;
        Ok(())
    }
}
