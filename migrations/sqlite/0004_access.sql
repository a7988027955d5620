-- Who may call the API and see the pages. Tokens and session cookies are stored as SHA-256 only.

CREATE TABLE verifyd_api_tokens (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL,
    token_hash   TEXT NOT NULL UNIQUE CHECK (length(token_hash) = 64),
    -- Names, sorted, joined by commas.
    scopes       TEXT NOT NULL,
    -- Both null: every workspace. A tenant only within its workspace.
    workspace_id INTEGER,
    tenant_id    INTEGER,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at   TEXT,
    revoked_at   TEXT,
    last_used_at TEXT,
    CONSTRAINT api_tokens_tenant_in_workspace CHECK (tenant_id IS NULL OR workspace_id IS NOT NULL)
) STRICT;

CREATE TABLE verifyd_page_sessions (
    session_hash TEXT NOT NULL PRIMARY KEY CHECK (length(session_hash) = 64),
    token_id     INTEGER NOT NULL REFERENCES verifyd_api_tokens (id) ON DELETE CASCADE,
    csrf         TEXT NOT NULL,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at   TEXT NOT NULL
) STRICT;
CREATE INDEX verifyd_page_sessions_expires_at ON verifyd_page_sessions (expires_at);
CREATE INDEX verifyd_page_sessions_token ON verifyd_page_sessions (token_id);

-- What was answered to a request with an idempotency key; without an answer it is being worked on.
CREATE TABLE verifyd_idempotency_keys (
    token_id        INTEGER NOT NULL REFERENCES verifyd_api_tokens (id) ON DELETE CASCADE,
    idempotency_key TEXT NOT NULL,
    request_hash    TEXT NOT NULL,
    reserved_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    response_status INTEGER,
    response_body   TEXT,
    PRIMARY KEY (token_id, idempotency_key)
) STRICT;
CREATE INDEX verifyd_idempotency_keys_reserved_at ON verifyd_idempotency_keys (reserved_at);
