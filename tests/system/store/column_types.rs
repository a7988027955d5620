//! What `inspect` proposes for columns of other types, other lengths and other ways to get a value.

use crate::store::bed::Bed;
use crate::store::fixtures::succeeded;
use crate::store::relation_kinds::{RUNS, mended, replaced, statement, subjects};
use verifyd::ports::store::SchemaFinding;

#[tokio::test]
async fn columns_without_room_for_what_is_written_are_widened() {
    let bed = Bed::postgres().await;
    bed.exec("DROP TABLE operation_runs").await;
    bed.exec(
        &RUNS
            .replace(
                "id bigserial",
                "id bigserial PRIMARY KEY, failure_summary jsonb",
            )
            .replace("context json ", "context jsonb ")
            .replace("type text", "type varchar(24)")
            .replace(
                "status text NOT NULL",
                "status varchar(8) NOT NULL DEFAULT 'queued'",
            )
            .replace("outcome text", "outcome char(9)"),
    )
    .await;
    bed.exec(
        "ALTER TABLE tenant_permissions ALTER COLUMN permission_key TYPE varchar(38);
         ALTER TABLE verifyd.workers ALTER COLUMN version TYPE varchar(255)",
    )
    .await;
    let [found, left] = mended(&bed).await;
    let fatal: Vec<SchemaFinding> = found.into_iter().filter(|f| f.fatal).collect();
    assert_eq!(
        subjects(&fatal),
        [
            "verifyd.workers.version",
            "operation_runs.type",
            "operation_runs.status",
            "tenant_permissions.permission_key",
        ]
    );
    assert_eq!(fatal[1].problem, "varchar(24) is too short, needed: text");
    assert_eq!(left, []);
}

/// An empty text, and a default of one, where NULL is not allowed.
#[tokio::test]
async fn texts_that_are_empty_become_objects_where_nothing_may_be_null() {
    let by = RUNS.replace(
        "context json NOT NULL DEFAULT '{}'",
        "context text NOT NULL DEFAULT '', failure_summary text NOT NULL DEFAULT ''",
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let insert = "INSERT INTO operation_runs (workspace_id, tenant_id, type, status) VALUES (1, 7, 'x', 'x')";
    bed.exec(insert).await;
    let [_, left] = mended(&bed).await;
    assert_eq!(left, []);
    bed.exec(insert).await;
    let objects =
        "SELECT count(*) FROM operation_runs WHERE context = '{}' AND failure_summary = '[]'";
    assert_eq!(bed.number(objects).await, 2);
}

/// Most values fit, so that `serve` works.
#[tokio::test]
async fn columns_without_room_for_the_longest_values_are_warned_of() {
    let bed = Bed::postgres().await;
    bed.exec(
        "ALTER TABLE tenant_permissions ALTER COLUMN permission_key TYPE varchar(156);
         ALTER TABLE verification_check_acknowledgements ALTER COLUMN check_key TYPE varchar(119),
             ALTER COLUMN reason_code TYPE varchar(28)",
    )
    .await;
    let [found, left] = mended(&bed).await;
    let said: Vec<String> = found
        .iter()
        .map(|f| format!("{} {}: {}", f.fatal, f.subject, f.problem))
        .collect();
    let table = "verification_check_acknowledgements";
    let too_short = |length: u32| {
        format!("varchar({length}) is too short, needed: text for the longest values")
    };
    assert_eq!(
        said,
        [
            format!(
                "false tenant_permissions.permission_key: {}",
                too_short(156)
            ),
            format!("false {table}.check_key: {}", too_short(119)),
            format!("false {table}.reason_code: {}", too_short(28)),
        ]
    );
    assert_eq!(left, []);
    bed.exec(
        "ALTER TABLE tenant_permissions ALTER COLUMN permission_key TYPE varchar(157);
         ALTER TABLE verification_check_acknowledgements ALTER COLUMN check_key TYPE varchar(120),
             ALTER COLUMN reason_code TYPE varchar(29)",
    )
    .await;
    assert_eq!(bed.store.inspect().await.unwrap(), []);
}

#[tokio::test]
async fn numbers_of_any_unit_become_times() {
    let at = 1_700_000_000_i64;
    for of in ["bigint", "numeric", "double precision"] {
        let created_at = "created_at timestamptz NOT NULL DEFAULT now()";
        let by = RUNS.replace(created_at, &format!("created_at {of}"));
        let bed = replaced(&["operation_runs"], &by).await;
        for factor in [1, 1_000, 1_000_000] {
            bed.exec(&format!(
                "INSERT INTO operation_runs (workspace_id, type, status, created_at) \
                 VALUES (1, 'x', 'x', {})",
                at * factor
            ))
            .await;
        }
        let [_, left] = mended(&bed).await;
        assert_eq!(left, [], "{of}");
        let same =
            format!("SELECT count(*) FROM operation_runs WHERE created_at = to_timestamp({at})");
        assert_eq!(bed.number(&same).await, 3, "{of}");
    }
}

#[tokio::test]
async fn texts_and_dates_become_times_of_utc_in_any_session() {
    let created_at = "created_at timestamptz NOT NULL DEFAULT now()";
    let texts = [
        "2024-01-01",
        "2024-01-01 00:00",
        "2024-01-01 12:00 AM",
        "2024-01-01 00:00:00.000",
        "2024-01-01T00:00:00Z",
        "2024-01-01 02:00:00+02",
        "2024-01-01 00:00:00 UTC",
        "2024-01-01 09:00+09",
        "20240101T090000+0900",
        "Sun Dec 31 19:00:00 2023 EST",
    ];
    for (of, values) in [("text", &texts[..]), ("date", &texts[..1])] {
        let by = RUNS
            .replace(created_at, &format!("created_at {of}"))
            .replace("tenant_id bigint", "tenant_id text");
        let bed = replaced(&["operation_runs"], &by).await;
        for value in values {
            bed.exec(&format!(
                "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, created_at) \
                 VALUES (1, '', 'x', 'x', '{value}')"
            ))
            .await;
        }
        let mut expected = i64::try_from(values.len()).unwrap();
        if of == "text" {
            expected += 1;
            bed.exec("INSERT INTO operation_runs (workspace_id, tenant_id, type, status, created_at) VALUES (1, '7', 'x', 'x', '')")
                .await;
        }
        let findings = bed.store.inspect().await.unwrap();
        for subject in ["operation_runs.created_at", "operation_runs.tenant_id"] {
            let finding = findings.iter().find(|f| f.subject == subject).unwrap();
            let change = statement(&finding.remedy).unwrap();
            bed.exec(&format!("SET TimeZone = 'Asia/Tokyo'; {change}"))
                .await;
        }
        let same = "SELECT count(*) FROM operation_runs WHERE coalesce(created_at, '2024-01-01 00:00:00+00') \
                    = '2024-01-01 00:00:00+00' AND coalesce(tenant_id, 7) = 7";
        assert_eq!(bed.number(same).await, expected, "{of}");
    }
}

/// Beside texts of dates, also those without separators.
#[tokio::test]
async fn texts_that_are_seconds_become_times() {
    let by = RUNS.replace(
        "created_at timestamptz NOT NULL DEFAULT now()",
        "created_at text",
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let texts = [
        "1704067200",
        " 1704067200.0",
        "1704067200000",
        "1704067200000000",
        "2024-01-01",
        "20240101",
    ];
    for text in texts {
        bed.exec(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, created_at) \
             VALUES (1, 7, 'x', 'x', '{text}')"
        ))
        .await;
    }
    let findings = bed.store.inspect().await.unwrap();
    let mut findings = findings.iter();
    let finding = findings.find(|f| f.subject == "operation_runs.created_at");
    let remedy = &finding.unwrap().remedy;
    let of_seconds = "to_timestamp(nullif(btrim(created_at), '')::double precision /";
    assert!(remedy.contains(of_seconds), "{remedy}");
    let change = statement(remedy).unwrap();
    bed.exec(&format!("SET TimeZone = 'Asia/Tokyo'; {change}"))
        .await;
    let same = "SELECT count(*) FROM operation_runs WHERE created_at = '2024-01-01 00:00:00+00'";
    let expected = i64::try_from(texts.len()).unwrap();
    assert_eq!(bed.number(same).await, expected);
}

#[tokio::test]
async fn a_generated_column_that_is_written_loses_its_expression() {
    let bed = Bed::postgres().await;
    bed.exec(
        "ALTER TABLE operation_runs DROP COLUMN failure_summary,
             ADD COLUMN failure_summary jsonb GENERATED ALWAYS AS (context -> 'failures') STORED;
         ALTER TABLE tenant_permissions DROP COLUMN details,
             ADD COLUMN details jsonb GENERATED ALWAYS AS ('{}') STORED",
    )
    .await;
    let [found, left] = mended(&bed).await;
    let remedies: Vec<&str> = found.iter().map(|f| f.remedy.as_str()).collect();
    assert_eq!(
        remedies,
        [
            "from then on rows of others have no value in it that they do not give: \
             ALTER TABLE operation_runs ALTER COLUMN failure_summary DROP EXPRESSION;",
            "from then on rows of others have no value in it that they do not give: \
             ALTER TABLE tenant_permissions ALTER COLUMN details DROP EXPRESSION;",
        ]
    );
    assert!(found.iter().all(|finding| finding.fatal), "{found:?}");
    assert_eq!(left, []);
    bed.completed(&succeeded()).await;
}

/// Others leave the column out, so that its values still come from the sequence.
#[tokio::test]
async fn an_identity_column_that_is_written_stays_one() {
    let bed = Bed::postgres().await;
    bed.exec(
        "ALTER TABLE operation_runs ALTER COLUMN workspace_id ADD GENERATED ALWAYS AS IDENTITY",
    )
    .await;
    let [found, left] = mended(&bed).await;
    assert_eq!(subjects(&found), ["operation_runs.workspace_id"]);
    assert_eq!(left, []);
    bed.recorded(1).await;
    bed.exec("INSERT INTO operation_runs (type, status) VALUES ('x', 'x')")
        .await;
}

#[tokio::test]
async fn ids_without_a_default_go_on_behind_those_that_are_there() {
    const ALL: &str = "FOR VALUES FROM (MINVALUE) TO (MAXVALUE)";
    let runs = RUNS.replace("id bigserial", "id bigint NOT NULL");
    let root = runs.replace("operation_runs", "all_runs");
    for by in [
        runs.clone(),
        format!("{runs}; CREATE SEQUENCE \"left_over's\" OWNED BY operation_runs.id"),
        format!(
            "{runs} PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF operation_runs {ALL}"
        ),
        format!(
            "{root} PARTITION BY RANGE (id); CREATE TABLE operation_runs PARTITION OF all_runs {ALL}"
        ),
    ] {
        let bed = replaced(&["operation_runs"], &by).await;
        let insert = "INSERT INTO operation_runs (id, workspace_id, type, status) VALUES";
        bed.exec(&format!("{insert} (7, 1, 'x', 'x')")).await;
        let [found, left] = mended(&bed).await;
        let of_id = found.iter().find(|f| f.subject == "operation_runs.id");
        assert!(!of_id.unwrap().fatal, "{found:?}");
        assert_eq!(left, [], "{by}");
        let insert = insert.replace("(id, ", "(");
        bed.exec(&format!("{insert} (1, 'x', 'x')")).await;
        let next = "SELECT max(id) FROM operation_runs";
        assert_eq!(bed.number(next).await, 8, "{by}");
    }
}

/// Ids of rows that were deleted are not given again.
#[tokio::test]
async fn a_sequence_that_is_ahead_of_the_rows_stays_ahead() {
    let by = RUNS.replace("id bigserial", "id bigint NOT NULL")
        + "; CREATE SEQUENCE left_over START WITH 100 OWNED BY operation_runs.id";
    let bed = replaced(&["operation_runs"], &by).await;
    let insert = "INSERT INTO operation_runs (id, workspace_id, type, status) VALUES";
    bed.exec(&format!("{insert} (7, 1, 'x', 'x')")).await;
    let [_, left] = mended(&bed).await;
    assert_eq!(left, []);
    let insert = insert.replace("(id, ", "(");
    bed.exec(&format!("{insert} (1, 'x', 'x')")).await;
    let next = "SELECT max(id) FROM operation_runs";
    assert!(bed.number(next).await >= 100);
}

#[tokio::test]
async fn that_a_generated_column_cannot_be_converted_is_said() {
    let bed = Bed::postgres().await;
    bed.exec(
        "ALTER TABLE provider_connections DROP COLUMN module,
             ADD COLUMN module int GENERATED ALWAYS AS (1) STORED",
    )
    .await;
    let [_, left] = mended(&bed).await;
    assert_eq!(subjects(&left), ["provider_connections.module"]);
    let remedy = &left[0].remedy;
    assert!(remedy.starts_with("drop the column module"), "{remedy}");
}

#[tokio::test]
async fn what_no_cast_leads_to_is_said() {
    let runs = RUNS.replace("id bigserial", "id run_id").replace(
        "created_at timestamptz NOT NULL DEFAULT now()",
        "created_at time",
    );
    let by = format!("CREATE DOMAIN some_id AS uuid; CREATE DOMAIN run_id AS some_id; {runs}");
    let bed = replaced(&["operation_runs"], &by).await;
    let [_, left] = mended(&bed).await;
    assert_eq!(
        subjects(&left),
        ["operation_runs.id", "operation_runs.created_at"]
    );
    for finding in left {
        assert!(finding.remedy.starts_with("no statement"), "{finding:?}");
    }
}

#[tokio::test]
async fn a_default_gets_the_type_of_its_column() {
    for column in [
        "varchar(30) NOT NULL DEFAULT CURRENT_TIMESTAMP::text",
        "bigint NOT NULL DEFAULT extract(epoch FROM now())",
        "bigint NOT NULL DEFAULT extract(epoch FROM now()) * 1000",
        "date DEFAULT CURRENT_DATE",
    ] {
        let created_at = "created_at timestamptz NOT NULL DEFAULT now()";
        let by = RUNS.replace(created_at, &format!("created_at {column}"));
        let bed = replaced(&["operation_runs"], &by).await;
        let [found, left] = mended(&bed).await;
        assert_eq!(found.len(), 6, "{found:?}");
        assert_eq!(left, [], "{column}");
        bed.exec("INSERT INTO operation_runs (workspace_id, type, status) VALUES (1, 'x', 'x')")
            .await;
        let recent =
            "SELECT count(*) FROM operation_runs WHERE created_at > now() - interval '2 days'";
        assert_eq!(bed.number(recent).await, 1, "{column}");
    }
}
