//! A trigger of the application.

use test_support::bench::Bench;

/// Executes the statements before each update of a run that meets the condition.
pub(super) async fn before_update(bench: &Bench, condition: &str, statements: &str) {
    let trigger = format!(
        "CREATE FUNCTION of_application() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statements}; END $$;
         CREATE TRIGGER of_application BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN ({condition}) EXECUTE FUNCTION of_application()"
    );
    bench.execute(&trigger).await;
}

/// Raises one of the codes: the first for the tenant 2, the next one for the tenant 3.
pub(super) fn raise_by_tenant(codes: &[&str]) -> String {
    let codes = codes.join("','");
    format!("RAISE 'not today' USING errcode = (ARRAY['{codes}'])[(old.tenant_id - 1)::int]")
}
