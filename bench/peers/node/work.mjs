// The work of one provider.connection.check run, shared by the Node peers.
import fs from 'node:fs';
import { createHash } from 'node:crypto';
import pg from 'pg';
import { Pool as HttpPool } from 'undici';

const spec = (f) => JSON.parse(fs.readFileSync(`${process.env.SPEC_DIR}/${f}`));
const perms = spec('permissions.json');
const tpl = spec('checks.json');
export const conc = Number(process.env.CONCURRENCY || 64);
export const db = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: Number(process.env.PG_POOL || Math.min(conc, 20)), idleTimeoutMillis: 0 });
const http = new HttpPool(process.env.PROVIDER_URL, { connections: conc * 2, pipelining: 1 });

async function call(method, path, headers, body) {
  const r = await http.request({ method, path, headers, body });
  if (r.statusCode !== 200) throw new Error(`provider ${r.statusCode}`);
  return r.body.json();
}

const CLAIM = {
  name: 'claim',
  text: "UPDATE operation_runs SET status='running', started_at=now() WHERE id=$1 AND status='queued' RETURNING context, tenant_id",
};
const UPSERT = {
  name: 'upsert',
  text: `INSERT INTO tenant_permissions(tenant_id, permission_key, status, last_checked_at)
         SELECT $1, k, s, now() FROM unnest($2::text[], $3::text[]) AS u(k, s)
         ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status=excluded.status, last_checked_at=excluded.last_checked_at`,
};
const DONE = {
  name: 'done',
  text: `UPDATE operation_runs SET status='completed', outcome='succeeded',
         context = context || jsonb_build_object('verification_report', $2::jsonb), completed_at=now() WHERE id=$1 AND status='running'`,
};
const KEYS = perms.map((p) => p.key);

export function report(ctx, token, org, roles) {
  const have = new Set(roles.value.map((r) => r.appRoleId));
  const status = perms.map((p) => (have.has(p.app_role_id) ? 'granted' : 'missing'));
  const o = org.value[0];
  // keys in alphabetical order: JSON.stringify then gives the canonical form
  const checks = tpl.map((t, i) => {
    let evidence, ok = true;
    if (i === 0) evidence = [{ kind: 'token_type', value: token.token_type }, { kind: 'expires_in', value: String(token.expires_in) }];
    else if (i === 1) evidence = [{ kind: 'organization_id', value: o.id }, { kind: 'display_name', value: o.displayName }];
    else {
      evidence = [];
      for (let j = (i - 2) * 5; j < (i - 1) * 5; j++) {
        evidence.push({ kind: 'perm', value: `${KEYS[j]}:${status[j]}` });
        ok &&= status[j] === 'granted';
      }
    }
    return { blocking: t.blocking, evidence, key: t.key, message: t.message, next_steps: [], reason_code: ok ? 'ok' : 'permission_missing', severity: t.severity, status: ok ? 'pass' : 'fail', title: t.title };
  });
  const pass = checks.filter((c) => c.status === 'pass').length;
  return {
    status,
    report: {
      checks,
      fingerprint: createHash('sha256').update(JSON.stringify(checks)).digest('hex'),
      flow: 'provider.connection.check',
      generated_at: new Date().toISOString(),
      identity: { entra_tenant_id: ctx.target_scope.entra_tenant_id, provider_connection_id: ctx.provider_connection_id },
      previous_report_id: null,
      schema_version: '1.5',
      summary: { counts: { fail: 6 - pass, pass, running: 0, skip: 0, total: 6, warn: 0 }, overall: pass === 6 ? 'ready' : 'blocked' },
    },
  };
}

export async function run(id) {
  const { rows } = await db.query({ ...CLAIM, values: [id] });
  if (!rows.length) return;
  const { context, tenant_id } = rows[0];
  const tenant = context.target_scope.entra_tenant_id;
  const token = await call('POST', `/${tenant}/oauth2/v2.0/token`, { 'content-type': 'application/x-www-form-urlencoded' },
    'client_id=7c3b1f3e-0000-4000-8000-000000000001&client_secret=not-a-secret&scope=https%3A%2F%2Fgraph.example%2F.default&grant_type=client_credentials');
  const auth = { authorization: `Bearer ${token.access_token}` };
  const [org, roles] = await Promise.all([
    call('GET', '/v1.0/organization', auth),
    call('GET', "/v1.0/servicePrincipals(appId='7c3b1f3e-0000-4000-8000-000000000001')/appRoleAssignments", auth),
  ]);
  const { status, report: rep } = report(context, token, org, roles);
  const c = await db.connect();
  try {
    await c.query('BEGIN');
    await c.query({ ...UPSERT, values: [tenant_id, KEYS, status] });
    await c.query({ ...DONE, values: [id, JSON.stringify(rep)] });
    await c.query('COMMIT');
  } catch (e) {
    await c.query('ROLLBACK');
    throw e;
  } finally {
    c.release();
  }
}

// Enqueuer protocol (see bench/README.md): range A B | single N | bulk N | stdin
export async function enqueuer({ one, many, singleRow, bulkRows, close }) {
  const [mode, a, b] = process.argv.slice(2);
  const now = () => (performance.timeOrigin + performance.now()) / 1000;
  const t0 = now();
  if (mode === 'range') {
    for (let i = Number(a); i <= Number(b); i += 1000) {
      await many(Array.from({ length: Math.min(1000, Number(b) - i + 1) }, (_, j) => i + j));
    }
  } else if (mode === 'single') {
    for (let i = 0; i < Number(a); i++) {
      if (singleRow) await singleRow(i);
      else {
        const r = await db.query({ name: 'n', text: 'SELECT new_runs(1, $1) AS id', values: [i] });
        await one(Number(r.rows[0].id));
      }
    }
  } else if (mode === 'bulk') {
    for (let i = 0; i < Number(a); i += 1000) {
      if (bulkRows) await bulkRows(1000, i);
      else {
        const r = await db.query({ name: 'n', text: 'SELECT new_runs(1000, $1) AS id', values: [i] });
        await many(r.rows.map((x) => Number(x.id)));
      }
    }
  } else if (mode === 'stdin') {
    const rl = (await import('node:readline')).createInterface({ input: process.stdin });
    for await (const line of rl) {
      const t = now();
      await one(Number(line));
      process.stdout.write(`${t}\n`);
    }
  }
  process.stdout.write(JSON.stringify({ seconds: now() - t0 }) + '\n');
  await close();
  await db.end();
  await http.close();
}
