const { randomUUID } = require('node:crypto');

async function main() {
  const base = process.env.VERIFYD_URL ?? 'http://127.0.0.1:9464';
  const connection = process.env.PROVIDER_CONNECTION_ID ?? 1;
  const answer = await fetch(`${base}/v1/connections/${connection}/checks`, {
    method: 'POST',
    headers: {
      Authorization: `Bearer ${process.env.VERIFYD_TOKEN}`,
      'Idempotency-Key': randomUUID(),
    },
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(`${body.title}: ${body.detail}`);
  console.log(body.run.operation_run_id);
}

main();
