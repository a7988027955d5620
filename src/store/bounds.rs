//! Which values of columns that another application writes may be computed with and loaded: one rule for
//! times, sizes and texts, as SQL.
//!
//! A `jsonb` value is stored compressed, up to 255 times smaller than it is, and a number in it up to ten
//! thousand times shorter than its text. So a size is tested in steps, each of which makes the next one
//! cheap: the stored size (nothing is read), the unpacked size (`#> '{}'` is the value itself, unpacked),
//! the texts of the numbers, and at last the length of the text. In SQLite `octet_length` of a column does
//! not read its content.
//!
//! Nothing tells the unpacked size before a value is unpacked. A claim unpacks one context at a time; a list
//! unpacks many, so it stops in time (`is_listed!`).

/// Whether a text of SQLite is a time of the years 1 to 9999: one that `Time::of_sqlite` reads. SQLite's own functions
/// read more: `now`, a time without a day, a number.
macro_rules! is_read {
    ($text:expr) => {
        concat!(
            "(",
            $text,
            " GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' AND date(substr(",
            $text,
            ", 1, 10), '+0 days') = substr(",
            $text,
            ", 1, 10) AND substr(ltrim(substr(",
            $text,
            ", 11), 'T ' || char(9, 10, 11, 12, 13)), 1, 2) <= '23' AND ",
            $text,
            " >= '0001' AND julianday(",
            $text,
            ") >= 1721425.5)"
        )
    };
}

/// A time of the years 1 to 9999, which can be subtracted and compared, or NULL. PostgreSQL refuses to subtract
/// `infinity`.
macro_rules! time {
    (postgres $column:literal) => {
        concat!(
            "CASE WHEN ",
            $column,
            "::timestamptz BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
              THEN ",
            $column,
            "::timestamptz END"
        )
    };
    (sqlite $column:expr) => {
        concat!(
            "CASE WHEN ",
            $crate::store::bounds::is_read!($column),
            " THEN strftime('%Y-%m-%dT%H:%M:%fZ', ",
            $column,
            ") END"
        )
    };
}

/// The end of a period, to be compared with a time: `Time::is_past_end` in SQL. What comes after the year 9999 is later
/// than every time. In SQLite it is NULL where it is no time.
macro_rules! end {
    (postgres $column:literal) => {
        concat!($column, "::timestamptz")
    };
    // In another year in place of one after 9999 the rest is a time, as it is behind 9999 where only its zone or its
    // fraction leads beyond that year. Neither 9999 nor 9995 is a leap year.
    (sqlite $column:literal) => {
        concat!(
            "CASE WHEN ",
            $crate::store::bounds::is_read!($column),
            " THEN strftime('%Y-%m-%dT%H:%M:%fZ', ",
            $column,
            ") WHEN rtrim(",
            $column,
            ", ' ' || char(9, 10, 11, 12, 13)) IN ('infinity', '+infinity') OR substr(",
            $column,
            ", 1, 5) = '9999-' AND ",
            $crate::store::bounds::is_read!(concat!("('9995' || substr(", $column, ", 5))")),
            " OR ltrim(",
            $column,
            ", '+') GLOB '[1-9][0-9][0-9][0-9][0-9]*' AND ",
            $crate::store::bounds::is_read!(concat!(
                "('2000' || ltrim(ltrim(",
                $column,
                ", '+'), '0123456789'))"
            )),
            " THEN 'infinity' END"
        )
    };
}

/// Whether a value that is not NULL is no time of the years 1 to 9999.
macro_rules! is_impossible_time {
    ($db:ident $column:literal) => {
        concat!(
            "(",
            $column,
            " IS NOT NULL AND (",
            $crate::store::bounds::time!($db $column),
            ") IS NULL)"
        )
    };
}

/// The beginning of a text: more than any name that means something.
macro_rules! short {
    (postgres $column:literal) => {
        concat!("left(", $column, "::text, 300)")
    };
    (sqlite $column:literal) => {
        concat!("substr(", $column, ", 1, 300)")
    };
}

/// Whether a `jsonb` is nested more than 1,000 levels deep. PostgreSQL walks through it by recursion, here no
/// deeper, and fails where its stack ends, at some thousands. No small value is that deep.
macro_rules! is_too_deep {
    ($json:literal) => {
        concat!(
            "(pg_column_size(",
            $json,
            " #> '{}') > 4096 AND jsonb_path_exists(",
            $json,
            ", 'strict $.**{1001}'))"
        )
    };
}

/// Whether the numbers in a `jsonb` alone, down to 1,000 levels, have more than this number of bytes as text: PostgreSQL writes all
/// their digits, 100,001 for `1e100000`. Adds them up one by one, and stops there. Only a large value is
/// looked at. They are collected in one array: `jsonb_path_query`, which returns rows, moves all that are left for
/// each of them.
macro_rules! numbers_exceed {
    ($json:literal, $bytes:literal) => {
        concat!(
            "(pg_column_size(",
            $json,
            " #> '{}') > 2048 AND EXISTS (SELECT FROM (
                SELECT sum(octet_length(n.v::text)) OVER (ROWS UNBOUNDED PRECEDING) AS total
                FROM jsonb_array_elements(jsonb_path_query_array(",
            $json,
            ", 'strict $.**{0 to 1000} ? (@.type() == \"number\")')) AS n (v)) t WHERE t.total > ",
            $bytes,
            "))"
        )
    };
}

/// Whether a `jsonb` is so small that a batch can read it: that takes no time and cannot fail.
macro_rules! is_small {
    ($json:literal) => {
        concat!(
            "(CASE WHEN pg_column_size(",
            $json,
            ") > 32768 THEN false WHEN pg_column_compression(",
            $json,
            ") IS NULL THEN true WHEN pg_column_size(",
            $json,
            ") > 8192 THEN false ELSE pg_column_size(",
            $json,
            " #> '{}') <= 32768 END IS NOT FALSE)"
        )
    };
}

/// Whether the text of JSON has at most this number of bytes, and is not nested too deep. Never builds a text
/// that is much longer. SQLite refuses what is too deep when it is written.
macro_rules! fits {
    (postgres $json:literal, $bytes:literal) => {
        concat!(
            "(CASE WHEN pg_column_size(",
            $json,
            ") > 8 * ",
            $bytes,
            " THEN false WHEN pg_column_size(",
            $json,
            " #> '{}') > 8 * ",
            $bytes,
            " THEN false WHEN ",
            $crate::store::bounds::is_too_deep!($json),
            " THEN false WHEN ",
            $crate::store::bounds::numbers_exceed!($json, $bytes),
            " THEN false ELSE octet_length(",
            $json,
            "::text) <= ",
            $bytes,
            " END IS TRUE)"
        )
    };
    (sqlite $json:literal, $bytes:literal) => {
        concat!("(octet_length(", $json, ") <= ", $bytes, ")")
    };
}

/// Whether a statement that reads many rows may look into JSON, by its stored size: every context that a
/// claim can take, also when the report is beside it. PostgreSQL: what a completion keeps, and a report. The planner
/// moves this condition, of two operators, behind cheaper ones: one that unpacks the value needs two at least.
macro_rules! is_listable {
    (postgres $json:literal) => {
        concat!("(pg_column_size(", $json, ") <= 20971520)")
    };
    (sqlite $json:literal) => {
        concat!("(octet_length(", $json, ") <= 4194304)")
    };
}

/// Whether a list looks into JSON: if `is_listable!`, and in time. Values that are stored in 8 KiB are quick
/// to unpack, however many. Others are unpacked only in the first third of the time that the statement has,
/// whatever they unpack to. In PostgreSQL NULL is listed.
macro_rules! is_listed {
    (postgres $json:literal) => {
        concat!(
            "(CASE WHEN NOT ",
            $crate::store::bounds::is_listable!(postgres $json),
            " THEN false WHEN pg_column_size(",
            $json,
            ") > 8192 THEN clock_timestamp() < statement_timestamp()
                + current_setting('statement_timeout')::interval / 3 ELSE true END)"
        )
    };
    (sqlite $json:literal) => {
        $crate::store::bounds::is_listable!(sqlite $json)
    };
}

/// A text or number in JSON, by the names of the members that lead to it, as a short text; NULL for any other
/// value. (The text of an array may be as long as memory is large.)
macro_rules! member {
    (postgres $json:literal, $first:ident $($next:ident)*) => {
        concat!(
            "CASE WHEN jsonb_typeof(", $json, " #> '{", stringify!($first), $(",", stringify!($next),)*
            "}') IN ('string', 'number') THEN left(", $json,
            " #>> '{", stringify!($first), $(",", stringify!($next),)* "}', 300) END"
        )
    };
    (sqlite $json:literal, $($name:ident)+) => {
        concat!(
            "CASE WHEN json_type(", $json, ", '$", $(".", stringify!($name),)+
            "') IN ('text', 'integer', 'real') THEN substr(CAST(", $json,
            " ->> '$", $(".", stringify!($name),)+ "' AS TEXT), 1, 300) END"
        )
    };
}

/// Whether a context into which lists look gives its report more than once: SQLite's functions read the first one, other
/// readers the last. For these functions a name ends at its first `\u0000`, for others such a name is another one.
/// `jsonb` has each member once.
macro_rules! repeats_report {
    (postgres $context:literal) => {
        "false"
    };
    (sqlite $context:literal) => {
        concat!(
            "CASE WHEN ", $crate::store::bounds::is_listable!(sqlite $context),
            " THEN (SELECT count(*) + count(nullif(m.key, printf('%s', m.key))) > 1
                    FROM json_each(", $context, ") m
                    WHERE printf('%s', m.key) = 'verification_report') ELSE false END"
        )
    };
}

/// The same where a list looks into the JSON, else NULL. PostgreSQL unpacks it once.
macro_rules! listed_member {
    (postgres $json:literal, $($name:ident)+) => {
        concat!(
            "(SELECT ", $crate::store::bounds::member!(postgres "x.unpacked", $($name)+),
            " FROM (SELECT ", $json, " #> '{}' AS unpacked WHERE ",
            $crate::store::bounds::is_listed!(postgres $json), " OFFSET 0) x)"
        )
    };
    (sqlite $json:literal, $($name:ident)+) => {
        concat!(
            "CASE WHEN ", $crate::store::bounds::is_listed!(sqlite $json), " THEN ",
            $crate::store::bounds::member!(sqlite $json, $($name)+), " END"
        )
    };
}

/// The id that a text in PostgreSQL is, or NULL: one cast refuses what is no number, the other one what no `bigint` is.
macro_rules! id_of_text {
    (postgres $text:expr) => {
        $crate::store::bounds::id_of_text!($text)
    };
    ($text:expr) => {
        concat!(
            "CASE WHEN ",
            $text,
            " ~ '^[0-9]{1,19}$' THEN CASE WHEN ",
            $text,
            "::numeric <= 9223372036854775807 THEN ",
            $text,
            "::bigint END END"
        )
    };
}

/// Whether the row is shown as a run: callers may name its id, status and outcome are known, and it is completed or
/// `is_claimable!`. `invalid_runs` lists the others.
macro_rules! is_shown {
    ($($db:ident)?) => {
        "id > 0 AND status IN ('queued', 'running', 'completed') AND CASE status
         WHEN 'completed' THEN outcome IS NULL OR outcome IN ('succeeded', 'failed', 'blocked')
         ELSE outcome IS NULL AND completed_at IS NULL END"
    };
}

/// Whether a run that is not completed can ever be claimed. `invalid_runs` lists the others.
macro_rules! is_claimable {
    ($($db:ident)?) => {
        "r.outcome IS NULL AND r.completed_at IS NULL AND r.id > 0"
    };
}

/// Whether a connection can be used: its row is valid, and names the directory to check by a GUID, unless it is disabled.
/// A `CASE`, of which the planner makes no estimate. The same in `rows.rs`, which compares bytes: so does this, whatever
/// the collation of a column, and PostgreSQL searches no text whose collation is not deterministic.
macro_rules! is_valid_connection {
    (postgres) => {
        $crate::store::bounds::is_valid_connection!(@ " COLLATE \"C\"")
    };
    (sqlite) => {
        $crate::store::bounds::is_valid_connection!(@ "")
    };
    (@ $collation:literal) => {
        concat!(
            "c.id > 0 AND c.workspace_id IS NOT NULL AND c.tenant_id IS NOT NULL AND c.provider IS NOT NULL
             AND CASE CAST(c.status AS text)", $collation, " WHEN 'disabled' THEN true
                 WHEN 'enabled' THEN CAST(c.entra_tenant_id AS text)", $collation,
            " LIKE '________-____-____-____-____________'
                 AND length(replace(CAST(c.entra_tenant_id AS text)", $collation, ", '-', '')) = 32
                 AND ltrim(CAST(c.entra_tenant_id AS text)", $collation,
            ", '0123456789abcdefABCDEF-') = '' ELSE false END"
        )
    };
}

/// The columns of a `ContextRow`, of `operation_runs`, all NULL unless `$when`. `$bytes`: the parameter
/// with the largest size. PostgreSQL: of a row `r` with the columns of `context_state!`, which tests the context once.
macro_rules! context_columns {
    (postgres) => {
        "CASE WHEN r.context_state = 'fits' THEN r.context END AS context, r.context_state, r.context_is_small"
    };
    (sqlite $bytes:literal) => {
        concat!(
            "CASE WHEN octet_length(context) <= ", $bytes,
            " THEN context END AS context, CASE WHEN octet_length(context) <= ", $bytes,
            " THEN 'fits' WHEN octet_length(context) <= 16777216 THEN 'large' ELSE 'huge' END
              AS context_state, octet_length(context) <= 32768 AS context_is_small"
        )
    };
}

/// What `context_columns!` reads, of `operation_runs r`. Whatever its size the context itself is among it: it is to be
/// returned to another part of the statement only.
macro_rules! context_state {
    ($when:literal, $bytes:literal) => {
        concat!(
            "r.context, CASE WHEN NOT ", $when,
            " THEN NULL WHEN r.context IS NULL THEN 'null'
                  WHEN pg_column_size(r.context) > 16777216 THEN 'huge'
                  WHEN pg_column_size(r.context #> '{}') > 16777216 THEN 'huge'
                  WHEN ", $crate::store::bounds::is_too_deep!("r.context"), " THEN 'deep'
                  WHEN ", $crate::store::bounds::fits!(postgres "r.context", $bytes),
            " THEN 'fits' ELSE 'large' END AS context_state, CASE WHEN ", $when, " THEN ",
            $crate::store::bounds::is_small!("r.context"), " END AS context_is_small"
        )
    };
}

/// The connection that a context names, as the index has it, before a comparison: in SQLite a number and the same
/// number as a text are equal. PostgreSQL looks into a context if `is_listable!`, and compares only texts and numbers:
/// the text of an array of numbers may be longer than any text can be. Without the index these are three conditions of
/// two operators each, which the planner leaves in their order. The type is tested in a `CASE`, or else the planner
/// expects that hardly any context passes it.
macro_rules! connection_of_context {
    (postgres $context:literal) => {
        concat!(
            $crate::store::bounds::is_listable!(postgres $context),
            " AND CASE WHEN ",
            $context,
            " -> 'provider_connection_id' @? 'strict $ ? (@.type() == \"string\" || @.type() == \"number\")'
             THEN true ELSE false END AND ",
            $context,
            " ->> 'provider_connection_id'"
        )
    };
    (sqlite $context:literal) => {
        concat!(
            "CAST(json_extract(",
            $context,
            ", '$.provider_connection_id') AS TEXT)"
        )
    };
}

pub(super) use {
    connection_of_context, context_columns, context_state, end, fits, id_of_text, is_claimable,
    is_impossible_time, is_listable, is_listed, is_read, is_shown, is_small, is_too_deep,
    is_valid_connection, listed_member, member, numbers_exceed, repeats_report, short, time,
};
