//! What the tables that verifyd owns refuse, whoever writes.

use crate::store::bed::Bed;
use crate::store::fixtures::{blocked, context, quoted, report_of};
use serde_json::{Value, json};
use verifyd::domain::run::RUN_TYPE;

async fn refused(bed: &Bed, change: &str) -> bool {
    match bed.try_exec(change).await {
        Ok(()) => false,
        Err(sqlx::Error::Database(e)) if e.is_check_violation() => true,
        Err(other) => panic!("{other}"),
    }
}

fn blocked_context() -> Value {
    let completion = blocked();
    let by = completion.blocked.as_ref().unwrap();
    let mut context = context(1);
    context["verification_report"] = report_of(&completion);
    context["reason_code"] = json!(by.reason_code.code());
    context["next_steps"] = json!([]);
    context
}

pub async fn no_blocked_run_without_a_report(bed: &Bed) {
    let run = bed.queued().await;
    let complete = |context: &Value| {
        format!(
            "UPDATE operation_runs SET status = 'completed', outcome = 'blocked', \
             completed_at = '2026-01-01T00:00:00.000Z', context = '{}' WHERE id = {run}",
            quoted(context)
        )
    };
    let whole = blocked_context();
    for member in ["verification_report", "reason_code", "next_steps"] {
        let mut context = whole.clone();
        context.as_object_mut().unwrap().remove(member);
        assert!(refused(bed, &complete(&context)).await, "without {member}");
        context[member] = Value::Null;
        assert!(refused(bed, &complete(&context)).await, "{member} is null");
    }
    for member in [
        "schema_version",
        "generated_at",
        "fingerprint",
        "summary",
        "checks",
        "flow",
    ] {
        let mut context = whole.clone();
        let report = context["verification_report"].as_object_mut().unwrap();
        report.remove(member);
        assert!(refused(bed, &complete(&context)).await, "without {member}");
    }
    for odd in [json!([]), json!("text"), Value::Null] {
        assert!(refused(bed, &complete(&odd)).await, "{odd}");
    }
    assert!(!refused(bed, &complete(&whole)).await);
}

pub async fn no_half_completed_run(bed: &Bed) {
    let run = bed.queued().await;
    for change in [
        "status = 'completed'",
        "status = 'completed', outcome = 'failed'",
        "status = 'completed', completed_at = created_at",
        "status = 'completed', outcome = 'fine', completed_at = created_at",
        "status = 'running', outcome = 'failed'",
        "status = 'paused'",
    ] {
        let change = format!("UPDATE operation_runs SET {change} WHERE id = {run}");
        assert!(refused(bed, &change).await, "{change}");
    }
}

pub async fn other_types_are_free(bed: &Bed) {
    let run = bed.insert("backup.restore", "paused", &json!([])).await;
    for change in [
        "status = 'completed', outcome = 'blocked'",
        "status = 'x', outcome = 'y'",
    ] {
        bed.exec(&format!(
            "UPDATE operation_runs SET {change} WHERE id = {run}"
        ))
        .await;
    }
    let turned = format!("UPDATE operation_runs SET type = '{RUN_TYPE}' WHERE id = {run}");
    assert!(refused(bed, &turned).await);
}
