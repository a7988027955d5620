-- Who acknowledged and who withdrew, by what verifyd knows: the token, or the user of the command line.
-- `acknowledged_by` is what a person says. The acknowledgements themselves may be another
-- application's table, so this is one of verifyd's own.
CREATE TABLE verifyd.acknowledgement_actors (
    acknowledgement_id bigint NOT NULL,
    operation_run_id   bigint NOT NULL,
    action             text NOT NULL CHECK (action IN ('acknowledged', 'withdrawn')),
    -- The time in the acknowledgement's row: what was noted for an earlier row of the same id does
    -- not count.
    at                 timestamptz NOT NULL,
    surface            text NOT NULL CHECK (surface IN ('api', 'pages', 'cli')),
    token_id           bigint,
    name               text NOT NULL,
    PRIMARY KEY (acknowledgement_id, action, at)
);
CREATE INDEX acknowledgement_actors_run ON verifyd.acknowledgement_actors (operation_run_id);
