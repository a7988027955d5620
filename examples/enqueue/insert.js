const { Client } = require('pg');

async function main() {
  const db = new Client({ connectionString: process.env.DATABASE_URL });
  await db.connect();
  const { rows: [run] } = await db.query(
    `INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
     SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
            jsonb_build_object(
                'provider', c.provider,
                'module', coalesce(c.module, 'health_check'),
                'provider_connection_id', c.id,
                'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)),
            now()
     FROM provider_connections c
     WHERE c.id = $1
     RETURNING id`,
    [process.env.PROVIDER_CONNECTION_ID ?? 1],
  );
  await db.end();
  if (!run) throw new Error('no such connection');
  console.log(run.id);
}

main();
