-- What checks learn of a connection: one row for each, written when something of it is new. It says what it is true
-- of (tenant, directory, application, credential), since an id may be given again and a connection changed.
CREATE TABLE verifyd.connection_facts (
    connection_id         bigint PRIMARY KEY,
    tenant_id             bigint NOT NULL,
    entra_tenant_id       text NOT NULL,
    client_id             text NOT NULL,
    -- The directory that owns the application, and its service principal in the customer's.
    owner_tenant_id       text,
    service_principal_id  text,
    entra_tenant_name     text,
    -- The credential that the expiry belongs to: when it was last replaced.
    credential_changed_at timestamptz,
    -- NULL with a source: it never expires. NULL without one: unknown.
    credential_expires_at timestamptz,
    expiry_source         text,
    expiry_found_at       timestamptz,
    found_at              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT connection_facts_expiry CHECK (
        (expiry_source IS NULL) = (expiry_found_at IS NULL)
        AND (expiry_source IS NOT NULL OR credential_expires_at IS NULL))
);
CREATE INDEX connection_facts_expires
    ON verifyd.connection_facts (credential_expires_at, connection_id);
