<?php
$base = getenv('VERIFYD_URL') ?: 'http://127.0.0.1:9464';
$connection = getenv('PROVIDER_CONNECTION_ID') ?: 1;
$answer = file_get_contents("$base/v1/connections/$connection/checks", false, stream_context_create(['http' => [
    'method' => 'POST',
    'header' => ['Authorization: Bearer ' . getenv('VERIFYD_TOKEN'), 'Idempotency-Key: ' . bin2hex(random_bytes(16))],
    'ignore_errors' => true,
]]));
$answer = json_decode($answer, flags: JSON_THROW_ON_ERROR);
if (!isset($answer->run)) {
    throw new RuntimeException("$answer->title: $answer->detail");
}

echo $answer->run->operation_run_id, "\n";
