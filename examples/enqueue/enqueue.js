const { randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { Client } = require('pg');
const redis = process.env.REDIS_URL && require('redis');

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

  // After the commit.
  if (redis) await sendHint(run.id);
  console.log(run.id);
}

async function sendHint(id) {
  let queue;
  try {
    const socket = { reconnectStrategy: false, socketTimeout: 10000 };
    queue = redis.createClient({ url: process.env.REDIS_URL, socket });
    queue.on('error', () => {});
    await queue.connect();
    await queue.eval(readFileSync('contracts/enqueue.lua', 'utf8'), {
      keys: ['verifyd:data', 'verifyd:active', 'verifyd:signal', 'verifyd:meta'],
      // The driver gives a bigint as a text.
      arguments: [randomUUID(), `{"v":1,"operation_run_id":${id}}`, '1'],
    });
  } catch (error) {
    console.error(`the hint was not sent: ${error.message || error.code}`);
  } finally {
    if (queue?.isOpen) queue.destroy();
  }
}

main();
