//! Rows of every shape: a catalogue of single mistakes, and as many mistakes at once as are drawn.

use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use test_support::bench::Bench;
use verifyd::domain::run::RUN_TYPE;
use verifyd_simulator::Scenario;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Postgres,
    Sqlite,
}

/// What a row is made for: the connection that a right one would name.
#[derive(Clone, Debug)]
pub struct Target {
    pub tenant: i64,
    pub connection: i64,
    pub entra_tenant_id: String,
}

impl Target {
    /// A connection of this tenant with which everything is well.
    pub fn of(bench: &Bench, tenant: u32) -> Self {
        let (tenant, entra_tenant_id) = (i64::from(tenant), Scenario::Healthy.tenant_id(tenant));
        Self {
            tenant,
            connection: bench.healthy(tenant),
            entra_tenant_id,
        }
    }
}

/// Columns with the SQL expressions that a producer writes into them.
pub type Row = BTreeMap<&'static str, String>;

/// One difference from a right row.
#[derive(Clone, Debug)]
pub enum Mistake {
    /// This expression in this column.
    Column(&'static str, String),
    /// This JSON for a member of the context, `None` without it.
    Member(&'static str, Option<String>),
    /// The same member twice.
    Twice(&'static str, String),
    /// The id of the right connection as a text, with this before it.
    Spelled(&'static str),
    /// This JSON for the whole context.
    Context(String),
    /// The right context as a JSON text.
    EncodedTwice,
}

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

impl Database {
    fn json(self, text: &str) -> String {
        match self {
            Self::Postgres => format!("{}::jsonb", quoted(text)),
            Self::Sqlite => quoted(text),
        }
    }

    pub fn now(self) -> &'static str {
        match self {
            Self::Postgres => "now()",
            Self::Sqlite => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        }
    }

    /// Times as the database's columns take them, and as they should never be.
    pub fn times(self) -> Vec<String> {
        let texts: &[&str] = match self {
            Self::Postgres => &[
                "infinity",
                "-infinity",
                "290000-01-01",
                "294276-12-31 23:59:59.999999+00",
                "262142-12-31 23:59:59+00",
                "262143-01-01",
                "4713-01-01 BC",
                "4714-11-24 BC",
                "0001-01-01 BC",
                "1970-01-01",
                "2262-04-11 23:47:16.854776",
                "9999-12-31 23:59:59",
                "2126-01-01",
            ],
            Self::Sqlite => &[
                "infinity",
                "-infinity",
                "",
                "yesterday",
                "290000-01-01T00:00:00.000Z",
                "-4713-01-01T00:00:00.000Z",
                "0000-00-00 00:00:00",
                "2026-13-45T25:61:61Z",
                "2026-01-01",
                "2026-01-01 10:00:00",
                "12345678901234567890",
                "1e400",
                "NaN",
                "\u{1}\u{1b}[31m",
                "9999-12-31T23:59:59.999Z",
            ],
        };
        texts.iter().map(|text| quoted(text)).collect()
    }
}

/// The ends of the range of ids, and what no id is.
pub const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "NULL",
    "4611686018427387904",
];

/// Run types that are nobody's but their own application's.
pub const OTHER_TYPES: &[&str] = &[
    "inventory.sync",
    "",
    "provider.connection.check ",
    "PROVIDER.CONNECTION.CHECK",
    "provider.connection.check.later",
];

const MEMBERS: &[&str] = &[
    "provider",
    "module",
    "provider_connection_id",
    "target_scope",
    "entra_tenant_id",
    "entra_tenant_name",
    "verification_report",
    "reason_code",
    "next_steps",
    "extra",
];

/// What stands before a number that is another one as a text.
const SPELLINGS: &[&str] = &["0", "00", "+", " ", "-"];

/// JSON that stands where something else is expected.
fn values() -> Vec<String> {
    let mut all: Vec<String> = [
        "null",
        "true",
        "12",
        "-1",
        "0",
        "1.5",
        "1e400",
        "-1e400",
        "1e-400",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890123456789012345678901234567890",
        r#""""#,
        r#"" ""#,
        r#""1""#,
        "[]",
        "{}",
        r#"[1, "a", null]"#,
        r#"{"a": {"b": [1]}}"#,
        r#"{"": ""}"#,
        // Lone halves of surrogates, and NUL: jsonb refuses them.
        r#""\ud800""#,
        r#""\udc00 x""#,
        r#""\u0000""#,
        r#""\u0001\u001b[31m\u007f\u0085""#,
        r#""\u202eabc\ufeff""#,
        r#""<script>alert(1)</script>'\"; DROP TABLE operation_runs --""#,
        r#""../../etc/passwd""#,
        r#""00000000-0000-0000-0000-000000000000""#,
        // As a token looks.
        r#""eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U""#,
    ]
    .map(str::to_owned)
    .into();
    all.extend([10_000, 300_000].map(|length| json_text(&"x".repeat(length))));
    all.extend([4_000, 100_000].map(|digits| format!("-{}", "7".repeat(digits))));
    all.push("1e100000".into());
    all.extend([100, 127, 128, 129, 1_000].map(nested_arrays));
    all.extend([129, 1_000].map(nested_objects));
    // Half of a surrogate pair in a name.
    all.push(r#"{"\ud800": 1}"#.into());
    all
}

fn nested_arrays(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn nested_objects(depth: usize) -> String {
    r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(values()),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => any::<f64>().prop_map(|n| n.to_string()),
        2 => "\\PC{0,60}".prop_map(|text| json_text(&text)),
        1 => "[\\x01-\\x1f\\x7f-\\x9f]{1,20}".prop_map(|text| json_text(&text)),
        1 => (1_usize..900).prop_map(nested_arrays),
        1 => (1_usize..200_000).prop_map(|length| json_text(&"ä".repeat(length))),
    ]
}

/// Rows with one mistake each: one for each kind of value in each place.
pub fn catalogue(database: Database) -> Vec<Vec<Mistake>> {
    let mut all = vec![Mistake::EncodedTwice];
    all.extend(
        database
            .times()
            .into_iter()
            .map(|t| Mistake::Column("created_at", t)),
    );
    for number in NUMBERS {
        all.push(Mistake::Column("tenant_id", (*number).into()));
        all.push(Mistake::Column("workspace_id", (*number).into()));
    }
    for name in OTHER_TYPES {
        all.push(Mistake::Column("type", quoted(name)));
    }
    for status in ["'running'", "'pending'", "''", "NULL", "'completed'"] {
        all.push(Mistake::Column("status", status.into()));
    }
    for (n, value) in values().into_iter().enumerate() {
        all.push(Mistake::Context(value.clone()));
        // Every value in the place where it does most, and in one more.
        all.push(Mistake::Member(
            "provider_connection_id",
            Some(value.clone()),
        ));
        all.push(Mistake::Member(
            MEMBERS[n % MEMBERS.len()],
            Some(value.clone()),
        ));
        if n % 3 == 0 {
            all.push(Mistake::Twice(MEMBERS[n / 3 % MEMBERS.len()], value));
        }
    }
    for member in MEMBERS {
        all.push(Mistake::Member(member, None));
        all.push(Mistake::Member(member, Some("12".into())));
    }
    all.extend(SPELLINGS.iter().copied().map(Mistake::Spelled));
    all.into_iter().map(|mistake| vec![mistake]).collect()
}

fn mistake(database: Database) -> impl Strategy<Value = Mistake> {
    let text = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let types: Vec<String> = OTHER_TYPES.iter().map(|t| quoted(t)).collect();
    prop_oneof![
        2 => select(database.times()).prop_map(|t| Mistake::Column("created_at", t)),
        1 => select(text(NUMBERS)).prop_map(|n| Mistake::Column("tenant_id", n)),
        1 => select(text(NUMBERS)).prop_map(|n| Mistake::Column("workspace_id", n)),
        1 => select(types).prop_map(|t| Mistake::Column("type", t)),
        1 => select(text(&["'running'", "'pending'", "NULL"]))
            .prop_map(|s| Mistake::Column("status", s)),
        8 => (select(MEMBERS), prop::option::weighted(0.9, value()))
            .prop_map(|(member, value)| Mistake::Member(member, value)),
        2 => (select(MEMBERS), value()).prop_map(|(member, value)| Mistake::Twice(member, value)),
        2 => value().prop_map(Mistake::Context),
        1 => Just(Mistake::EncodedTwice),
        1 => select(SPELLINGS).prop_map(Mistake::Spelled),
    ]
}

/// Some mistakes at once.
pub fn mistakes(database: Database) -> impl Strategy<Value = Vec<Mistake>> {
    prop::collection::vec(mistake(database), 1..4)
}

/// The right row, with these mistakes.
pub fn row(database: Database, target: &Target, mistakes: &[Mistake]) -> Row {
    let mut columns = Row::from([
        ("workspace_id", "1".to_owned()),
        ("tenant_id", target.tenant.to_string()),
        ("type", quoted(RUN_TYPE)),
        ("status", "'queued'".to_owned()),
        ("created_at", database.now().to_owned()),
    ]);
    let mut members = BTreeMap::from([
        ("provider", "\"microsoft\"".to_owned()),
        ("module", "\"health_check\"".to_owned()),
        ("provider_connection_id", target.connection.to_string()),
        ("entra_tenant_id", json_text(&target.entra_tenant_id)),
        ("entra_tenant_name", "\"contoso.example\"".to_owned()),
    ]);
    let (mut twice, mut whole, mut encoded) = (Vec::new(), None, false);
    for mistake in mistakes {
        match mistake {
            Mistake::Column(name, expression) => {
                columns.insert(name, expression.clone());
            }
            Mistake::Member(name, Some(value)) => {
                members.insert(name, value.clone());
            }
            Mistake::Member(name, None) => {
                members.remove(name);
            }
            Mistake::Twice(name, value) => twice.push((*name, value.clone())),
            Mistake::Spelled(before) => {
                let id = json_text(&format!("{before}{}", target.connection));
                members.insert("provider_connection_id", id);
            }
            Mistake::Context(value) => whole = Some(value.clone()),
            Mistake::EncodedTwice => encoded = true,
        }
    }
    let context = whole.unwrap_or_else(|| context(&members, &twice));
    let context = if encoded {
        json_text(&context)
    } else {
        context
    };
    columns.entry("context").or_insert(database.json(&context));
    columns
}

/// The text of a context. What belongs to the target scope goes there.
fn context(members: &BTreeMap<&str, String>, twice: &[(&str, String)]) -> String {
    let (mut outer, mut inner) = (Vec::new(), Vec::new());
    let all = members.iter().map(|(name, value)| (*name, value));
    for (name, value) in all.chain(twice.iter().map(|(name, value)| (*name, value))) {
        let part = format!("{}:{value}", json_text(name));
        match name {
            "entra_tenant_id" | "entra_tenant_name" => inner.push(part),
            _ => outer.push(part),
        }
    }
    if !members.contains_key("target_scope") {
        outer.push(format!("\"target_scope\":{{{}}}", inner.join(",")));
    }
    format!("{{{}}}", outer.join(","))
}

/// Runs whose contexts are of many small values, which take a hundred times the memory of their text when parsed: right
/// ones of almost so many bytes, and completed ones with such a report, of as many values as a report may have, beside
/// each other or within each other.
pub fn many_small_values(
    database: Database,
    context_bytes: usize,
) -> impl Iterator<Item = Vec<Mistake>> {
    let member = |name, value| Mistake::Member(name, Some(value));
    let column = |name, value: &str| Mistake::Column(name, value.to_owned());
    let values = |number| format!("[{}0]", r#"{"": 0}, "#.repeat(number));
    let nested = r#"{"": "#.repeat(120) + "0" + &"}".repeat(120);
    let nested = format!(r#"{{"checks": [{}]}}"#, vec![nested; 318].join(", "));
    let right = vec![member("extra", values(context_bytes / 10))];
    let completed = [values(19_000), nested].map(|report| {
        vec![
            member("verification_report", report),
            column("status", "'completed'"),
            column("outcome", "'failed'"),
            column("started_at", database.now()),
            column("completed_at", database.now()),
        ]
    });
    let right = std::iter::repeat_n(right, 6);
    let completed = completed.map(|row| std::iter::repeat_n(row, 2));
    right.chain(completed.into_iter().flatten())
}

/// The statement that writes the row and returns its id.
pub fn insert(row: &Row) -> String {
    let (columns, values): (Vec<_>, Vec<_>) = row.iter().map(|(c, v)| (*c, v.as_str())).unzip();
    format!(
        "INSERT INTO operation_runs ({}) VALUES ({}) RETURNING id",
        columns.join(", "),
        values.join(", ")
    )
}
