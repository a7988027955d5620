//! What `inspect` proposes where other objects depend on a column that needs another type: what is printed works.

use crate::store::relation_kinds::{RUNS, mended, replaced};

/// What may depend on a column: the column, what is made, and what of it is named, in the order in which it is dropped.
const DEPENDENTS: &[(&str, &str, &str)] = &[
    (
        "workspace_id",
        "CREATE VIEW below AS SELECT workspace_id FROM operation_runs;
         CREATE VIEW above AS SELECT * FROM below",
        "view above, view below",
    ),
    (
        "workspace_id",
        "CREATE MATERIALIZED VIEW kept AS SELECT workspace_id FROM operation_runs;
         CREATE INDEX by_workspace ON kept (workspace_id)",
        "index by_workspace, materialized view kept",
    ),
    (
        "workspace_id",
        "CREATE TABLE other (o bigint);
         CREATE RULE seen AS ON INSERT TO other DO ALSO DELETE FROM operation_runs WHERE workspace_id = new.o",
        "rule seen on table other",
    ),
    (
        "workspace_id",
        "ALTER TABLE operation_runs ADD twice bigint GENERATED ALWAYS AS (workspace_id * 2) STORED;
         CREATE INDEX by_twice ON operation_runs (twice);
         CREATE VIEW of_twice AS SELECT twice FROM operation_runs",
        "index by_twice, view of_twice, column twice of table operation_runs",
    ),
    (
        "workspace_id",
        "CREATE FUNCTION newest() RETURNS bigint LANGUAGE sql
             BEGIN ATOMIC SELECT max(workspace_id)::bigint FROM operation_runs; END;
         CREATE VIEW of_function AS SELECT newest() AS newest;
         CREATE TABLE other (o bigint DEFAULT newest())",
        "default value for column o of table other, view of_function, function newest()",
    ),
    (
        "workspace_id",
        "CREATE PUBLICATION several FOR TABLE operation_runs (id, workspace_id)",
        "publication of table operation_runs in publication several",
    ),
    (
        "workspace_id",
        "CREATE PUBLICATION few FOR TABLE operation_runs WHERE (workspace_id > 1)",
        "publication of table operation_runs in publication few",
    ),
    (
        "workspace_id",
        "CREATE POLICY own ON operation_runs USING (workspace_id = 1); CREATE TABLE other (o bigint);
         CREATE POLICY seen ON other USING (EXISTS (SELECT FROM operation_runs WHERE workspace_id = o))",
        "policy own on table operation_runs, policy seen on table other",
    ),
    (
        "workspace_id",
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER guarded BEFORE UPDATE ON operation_runs FOR EACH ROW WHEN (new.workspace_id > 1)
             EXECUTE FUNCTION nothing();
         CREATE TRIGGER listed BEFORE UPDATE OF workspace_id ON operation_runs FOR EACH ROW
             EXECUTE FUNCTION nothing()",
        "trigger guarded on table operation_runs, trigger listed on table operation_runs",
    ),
    (
        "workspace_id",
        "CREATE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2';
         CREATE INDEX halves ON operation_runs (half(workspace_id))",
        "index halves",
    ),
    (
        "workspace_id",
        "CREATE INDEX bloom ON operation_runs USING brin (workspace_id int4_bloom_ops);
         CREATE INDEX of_next ON operation_runs USING brin ((workspace_id + 1) int4_bloom_ops)",
        "index bloom, index of_next",
    ),
    (
        "workspace_id",
        "ALTER TABLE operation_runs ADD CONSTRAINT apart
             EXCLUDE USING gist (int4range(workspace_id, workspace_id + 1) WITH &&)",
        "constraint apart on table operation_runs",
    ),
    (
        "workspace_id",
        "CREATE INDEX days ON operation_runs ((date '2020-01-01' + workspace_id));
         CREATE INDEX shifted ON operation_runs ((2 << workspace_id))",
        "index days, index shifted",
    ),
    (
        "workspace_id",
        "CREATE FUNCTION newest() RETURNS bigint LANGUAGE sql
             BEGIN ATOMIC SELECT max(workspace_id)::bigint FROM operation_runs; END;
         ALTER TABLE operation_runs ALTER workspace_id SET DEFAULT newest()",
        "default value for column workspace_id of table operation_runs, function newest()",
    ),
    // Two columns need another type.
    (
        "workspace_id",
        "CREATE PUBLICATION shared FOR TABLE operation_runs WHERE (workspace_id > 1 AND tenant_id > 1)",
        "publication of table operation_runs in publication shared",
    ),
    (
        "workspace_id",
        "CREATE POLICY hides ON operation_runs AS RESTRICTIVE USING (workspace_id = 1)",
        "policy hides on table operation_runs",
    ),
    (
        "context",
        "ALTER TABLE operation_runs ADD CONSTRAINT object CHECK (json_typeof(context) = 'object')",
        "constraint object on table operation_runs",
    ),
    (
        "status",
        "CREATE STATISTICS of_status ON (status < 'running'), id FROM operation_runs",
        "statistics object of_status",
    ),
    (
        "type",
        "CREATE INDEX by_type ON operation_runs (type varchar_pattern_ops);
         CREATE VIEW of_type AS SELECT type FROM operation_runs",
        "view of_type",
    ),
    (
        "created_at",
        "CREATE INDEX by_time ON operation_runs (created_at text_pattern_ops);
         CREATE INDEX in_c ON operation_runs (created_at COLLATE \"C\")",
        "index by_time, index in_c",
    ),
    (
        "tenant_id",
        "ALTER TABLE operation_runs ADD UNIQUE (tenant_id);
         CREATE TABLE other (tenant_id numeric CONSTRAINT of_runs REFERENCES operation_runs (tenant_id))",
        "constraint of_runs on table other",
    ),
    (
        "tenant_id",
        "CREATE TABLE other (id numeric PRIMARY KEY);
         ALTER TABLE operation_runs ADD CONSTRAINT of_other FOREIGN KEY (tenant_id) REFERENCES other",
        "constraint of_other on table operation_runs",
    ),
    // PostgreSQL rebuilds these.
    (
        "workspace_id",
        "CREATE INDEX several ON operation_runs (workspace_id) WHERE workspace_id > 1;
         CREATE STATISTICS pair ON workspace_id, id FROM operation_runs;
         CREATE TABLE other (id int PRIMARY KEY);
         ALTER TABLE operation_runs ADD CHECK (pg_column_size(workspace_id) > 0),
             ADD FOREIGN KEY (workspace_id) REFERENCES other",
        "",
    ),
];

#[tokio::test]
async fn what_is_proposed_works_whatever_depends_on_the_column() {
    let runs = RUNS
        .replace("workspace_id bigint", "workspace_id int")
        .replace("tenant_id bigint", "tenant_id numeric")
        .replace("type text", "type varchar(8)")
        .replace("status text", "status run_status")
        .replace(
            "created_at timestamptz NOT NULL DEFAULT now()",
            "created_at varchar(40)",
        );
    for (column, made, named) in DEPENDENTS {
        let by = format!("CREATE TYPE run_status AS ENUM ('queued', 'running'); {runs}; {made}");
        let bed = replaced(&["operation_runs"], &by).await;
        let [found, left] = mended(&bed).await;
        let subject = format!("operation_runs.{column}");
        let finding = found.iter().find(|finding| finding.subject == subject);
        let remedy = &finding.unwrap().remedy;
        let is_named = match *named {
            "" => remedy.starts_with("ALTER TABLE"),
            named => remedy.contains(&format!("({named}): BEGIN; ")),
        };
        assert!(is_named, "{made}: {remedy}");
        // What was dropped is lost only once somebody says so.
        let is_open = remedy.ends_with("\n-- create anew here what was dropped, and then COMMIT;");
        assert_eq!(is_open, !named.is_empty(), "{made}: {remedy}");
        let warns = remedy.contains("rows that a RESTRICTIVE policy hides become visible");
        assert_eq!(warns, made.contains("RESTRICTIVE"), "{made}: {remedy}");
        assert_eq!(left, [], "{made}");
    }
}

/// Above and below the table that the name leads to.
#[tokio::test]
async fn what_is_proposed_works_whatever_depends_on_an_inherited_column() {
    let root = RUNS.replace("operation_runs", "all_runs");
    let context = "context json NOT NULL DEFAULT '{}',";
    let inheriting = RUNS.replace(context, "");
    for (by, named) in [
        (
            format!(
                "{root} PARTITION BY RANGE (id);
                 CREATE TABLE operation_runs PARTITION OF all_runs FOR VALUES FROM (0) TO (MAXVALUE);
                 CREATE TABLE others PARTITION OF all_runs FOR VALUES FROM (MINVALUE) TO (0);
                 ALTER TABLE all_runs ADD CONSTRAINT object CHECK (json_typeof(context) = 'object');
                 CREATE INDEX kinds ON all_runs (json_typeof(context));
                 CREATE VIEW of_all AS SELECT context FROM all_runs;
                 CREATE VIEW of_others AS SELECT context FROM others;
                 CREATE VIEW of_part AS SELECT context FROM operation_runs"
            ),
            "constraint object on table all_runs, index kinds, view of_all, view of_others, view of_part",
        ),
        (
            format!(
                "CREATE TABLE base ({context} note text); {inheriting} INHERITS (base);
                 CREATE TABLE others () INHERITS (base);
                 CREATE VIEW of_base AS SELECT context FROM base;
                 CREATE VIEW of_others AS SELECT context FROM others"
            ),
            "view of_base, view of_others",
        ),
        (
            format!(
                "CREATE TABLE base ({context} CONSTRAINT object CHECK (json_typeof(context) = 'object'));
                 {inheriting} INHERITS (base);
                 CREATE TABLE alike (CONSTRAINT object CHECK (json_typeof(context) = 'object')) INHERITS (base)"
            ),
            "constraint object on table base, constraint object on table alike",
        ),
    ] {
        let bed = replaced(&["operation_runs"], &by).await;
        let [found, left] = mended(&bed).await;
        let subject = "operation_runs.context";
        let finding = found.iter().find(|finding| finding.subject == subject);
        let remedy = &finding.unwrap().remedy;
        assert!(remedy.contains(&format!("({named}): BEGIN; ")), "{remedy}");
        assert_eq!(left, []);
    }
}

/// The table of another application has a column of a view's row type, whose data no statement drops.
#[tokio::test]
async fn what_has_data_is_named_and_never_dropped() {
    let runs = RUNS.replace("workspace_id bigint", "workspace_id int");
    let by = format!(
        "{runs}; CREATE VIEW below AS SELECT workspace_id FROM operation_runs; CREATE TABLE other (o below)"
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let findings = bed.store.inspect().await.unwrap();
    let remedy = &findings[0].remedy;
    let first = "first drop or change what else uses the column (column o of table other): keep";
    assert!(remedy.starts_with(first), "{remedy}");
    assert!(!remedy.contains("DROP COLUMN"), "{remedy}");
}

/// Also where it is in another type, and in a view that has a row type of its own.
#[tokio::test]
async fn columns_of_the_row_type_are_named_and_never_dropped() {
    let runs = RUNS.replace("workspace_id bigint", "workspace_id int");
    let by = format!(
        "{runs}; CREATE TYPE pair AS (run operation_runs, n int);
         CREATE VIEW above AS SELECT NULL::operation_runs AS run;
         CREATE TABLE other (a operation_runs[], b pair, c above);
         CREATE MATERIALIZED VIEW kept AS SELECT NULL::operation_runs AS run"
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let findings = bed.store.inspect().await.unwrap();
    let remedy = &findings[0].remedy;
    let first = "first drop or change what else uses the column (column a of table other, column b of table other, \
                 column c of table other, column run of materialized view kept): ALTER TABLE";
    assert!(remedy.starts_with(first), "{remedy}");
    bed.exec("DROP TABLE other; DROP MATERIALIZED VIEW kept")
        .await;
    let [_, left] = mended(&bed).await;
    assert_eq!(left, []);
}
