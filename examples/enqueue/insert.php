<?php
$url = parse_url(getenv('DATABASE_URL'));
$db = new PDO(
    sprintf('pgsql:host=%s;port=%d;dbname=%s', $url['host'], $url['port'] ?? 5432, ltrim($url['path'], '/')),
    $url['user'] ?? null,
    isset($url['pass']) ? rawurldecode($url['pass']) : null,
    [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION],
);

$insert = $db->prepare(<<<'SQL'
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
    SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
           jsonb_build_object(
               'provider', c.provider,
               'module', coalesce(c.module, 'health_check'),
               'provider_connection_id', c.id,
               'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)),
           now()
    FROM provider_connections c
    WHERE c.id = :connection
    RETURNING id
    SQL);
$insert->execute(['connection' => getenv('PROVIDER_CONNECTION_ID') ?: 1]);

echo $insert->fetchColumn() ?: throw new RuntimeException('no such connection'), "\n";
