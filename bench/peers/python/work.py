"""The work of one provider.connection.check run: what all Python peers share."""
import hashlib, json, os, sys, time
from datetime import datetime, timezone

import orjson

SPEC = os.environ["SPEC_DIR"]
PERMS = json.load(open(SPEC + "/permissions.json"))
TPL = json.load(open(SPEC + "/checks.json"))
KEYS = [p["key"] for p in PERMS]
CONC = int(os.environ.get("CONCURRENCY", "64"))
DSN = os.environ["DATABASE_URL"]
REDIS = os.environ["REDIS_URL"]
PROVIDER = os.environ["PROVIDER_URL"]

FORM = ("client_id=7c3b1f3e-0000-4000-8000-000000000001&client_secret=not-a-secret"
        "&scope=https%3A%2F%2Fgraph.example%2F.default&grant_type=client_credentials")
FORM_HEADERS = {"content-type": "application/x-www-form-urlencoded"}
ORG = "/v1.0/organization"
ROLES = "/v1.0/servicePrincipals(appId='7c3b1f3e-0000-4000-8000-000000000001')/appRoleAssignments"

CLAIM = ("UPDATE operation_runs SET status='running', started_at=now() WHERE id={0} AND status='queued' "
         "RETURNING context, tenant_id")
UPSERT = ("INSERT INTO tenant_permissions(tenant_id, permission_key, status, last_checked_at) "
          "SELECT {0}, k, s, now() FROM unnest({1}::text[], {2}::text[]) AS u(k, s) "
          "ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status=excluded.status, "
          "last_checked_at=excluded.last_checked_at")
DONE = ("UPDATE operation_runs SET status='completed', outcome='succeeded', context = context || "
        "jsonb_build_object('verification_report', {1}::jsonb), completed_at=now() WHERE id={0} AND status='running'")


def report(ctx, token, org, roles):
    have = {r["appRoleId"] for r in roles["value"]}
    status = ["granted" if p["app_role_id"] in have else "missing" for p in PERMS]
    o = org["value"][0]
    checks = []
    for i, t in enumerate(TPL):
        ok = True
        if i == 0:
            ev = [{"kind": "token_type", "value": token["token_type"]},
                  {"kind": "expires_in", "value": str(token["expires_in"])}]
        elif i == 1:
            ev = [{"kind": "organization_id", "value": o["id"]}, {"kind": "display_name", "value": o["displayName"]}]
        else:
            js = range((i - 2) * 5, (i - 1) * 5)
            ev = [{"kind": "perm", "value": KEYS[j] + ":" + status[j]} for j in js]
            ok = all(status[j] == "granted" for j in js)
        checks.append({"blocking": t["blocking"], "evidence": ev, "key": t["key"], "message": t["message"],
                       "next_steps": [], "reason_code": "ok" if ok else "permission_missing",
                       "severity": t["severity"], "status": "pass" if ok else "fail", "title": t["title"]})
    n = sum(c["status"] == "pass" for c in checks)
    rep = {"checks": checks, "fingerprint": hashlib.sha256(orjson.dumps(checks)).hexdigest(),
           "flow": "provider.connection.check", "generated_at": datetime.now(timezone.utc).isoformat(),
           "identity": {"entra_tenant_id": ctx["target_scope"]["entra_tenant_id"],
                        "provider_connection_id": ctx["provider_connection_id"]},
           "previous_report_id": None, "schema_version": "1.5",
           "summary": {"counts": {"fail": 6 - n, "pass": n, "running": 0, "skip": 0, "total": 6, "warn": 0},
                       "overall": "ready" if n == 6 else "blocked"}}
    return status, orjson.dumps(rep).decode()


# Enqueuer protocol (see bench/README.md): range A B | single N | bulk N | stdin
def enqueuer(one, many):
    import psycopg
    mode, args = sys.argv[1], [int(x) for x in sys.argv[2:]]
    db = psycopg.connect(DSN, autocommit=True, prepare_threshold=1)
    t0 = time.time()
    if mode == "range":
        for i in range(args[0], args[1] + 1, 1000):
            many(list(range(i, min(i + 1000, args[1] + 1))))
    elif mode == "single":
        for i in range(args[0]):
            one(db.execute("SELECT new_runs(1, %s)", (i,)).fetchone()[0])
    elif mode == "bulk":
        for i in range(0, args[0], 1000):
            many([r[0] for r in db.execute("SELECT new_runs(1000, %s)", (i,)).fetchall()])
    elif mode == "stdin":
        for line in sys.stdin:
            t = time.time()
            one(int(line))
            print(t, flush=True)
    print(json.dumps({"seconds": time.time() - t0}))
