<?php
$url = parse_url(getenv('DATABASE_URL'));
$db = new PDO(
    sprintf('pgsql:host=%s;port=%d;dbname=%s', $url['host'], $url['port'] ?? 5432, ltrim($url['path'], '/')),
    isset($url['user']) ? rawurldecode($url['user']) : null,
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
$run = (int) $insert->fetchColumn() ?: throw new RuntimeException('no such connection');

if (getenv('REDIS_URL')) {
    // After the commit.
    try {
        $url = parse_url(getenv('REDIS_URL')) ?: throw new RuntimeException('REDIS_URL is no address');
        $redis = new Redis();
        $tls = ($url['scheme'] ?? '') === 'rediss' ? 'tls://' : '';
        $redis->connect($tls . $url['host'], $url['port'] ?? 6379, 10.0, null, 0, 10.0);
        $accepted = fn($answer) => $answer !== false ? $answer : throw new RuntimeException($redis->getLastError() ?? '');
        if (isset($url['pass'])) {
            $words = array_filter([$url['user'] ?? '', $url['pass']], fn($word) => $word !== '');
            $accepted($redis->auth(array_map('rawurldecode', array_values($words))));
        }
        $database = (int) ltrim($url['path'] ?? '', '/');
        if ($database !== 0) {
            $accepted($redis->select($database));
        }
        $script = file_get_contents('contracts/enqueue.lua');
        $arguments = [
            'verifyd:data', 'verifyd:active', 'verifyd:signal', 'verifyd:meta',
            bin2hex(random_bytes(16)), json_encode(['v' => 1, 'operation_run_id' => $run]), 1,
        ];
        $accepted($redis->eval($script, $arguments, 4));
    } catch (Throwable $error) {
        error_log('the hint was not sent: ' . $error->getMessage());
    }
}

echo $run, "\n";
