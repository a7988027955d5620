-- What sign-in with OpenID Connect (http.oidc) needs beside postgres-grants.sql, which is applied before: the daemon
-- records each person who signs in as a token. So its role can then make tokens, and change what others may do and until
-- when; it can neither take the text of one over nor lift a revocation. Apply it as the owner of verifyd's tables:
--
--     psql --single-transaction -v ON_ERROR_STOP=1 -f postgres-grants-oidc.sql "$DATABASE_URL"
--
-- To take it back: REVOKE INSERT, UPDATE ON verifyd.api_tokens FROM verifyd_serve, then postgres-grants.sql again.
GRANT INSERT (name, token_hash, scopes, workspace_id, tenant_id, expires_at),
      UPDATE (name, scopes, workspace_id, tenant_id, expires_at)
    ON verifyd.api_tokens TO verifyd_serve;
