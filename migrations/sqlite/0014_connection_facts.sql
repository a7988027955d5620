-- What checks learn of a connection: see migrations/postgres.
CREATE TABLE verifyd_connection_facts (
    connection_id         INTEGER PRIMARY KEY,
    tenant_id             INTEGER NOT NULL,
    entra_tenant_id       TEXT NOT NULL,
    client_id             TEXT NOT NULL,
    -- The directory that owns the application, and its service principal in the customer's.
    owner_tenant_id       TEXT,
    service_principal_id  TEXT,
    entra_tenant_name     TEXT,
    -- The credential that the expiry belongs to: when it was last replaced.
    credential_changed_at TEXT,
    -- NULL with a source: it never expires. NULL without one: unknown.
    credential_expires_at TEXT,
    expiry_source         TEXT,
    expiry_found_at       TEXT,
    found_at              TEXT NOT NULL,
    CHECK ((expiry_source IS NULL) = (expiry_found_at IS NULL)
           AND (expiry_source IS NOT NULL OR credential_expires_at IS NULL))
);
CREATE INDEX verifyd_connection_facts_expires
    ON verifyd_connection_facts (credential_expires_at, connection_id);
