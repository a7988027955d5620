<?php
// Enqueuer protocol (see bench/README.md): range A B | single N | bulk N | stdin
require __DIR__ . '/work.php';

$pdo = $db->getConnection()->getPdo();
$new = $pdo->prepare('SELECT new_runs(?, ?)');
$rows = function (int $n, int $first) use ($new): array {
    $new->execute([$n, $first]);
    return $new->fetchAll(PDO::FETCH_COLUMN);
};
$q = $queue->getConnection();
$many = fn (array $ids) => $q->bulk(array_map(fn ($i) => new Check($i), $ids));
[$mode, $a, $b] = array_slice($argv, 1) + [null, 0, 0];
$t0 = microtime(true);
if ($mode === 'range') {
    for ($i = (int) $a; $i <= $b; $i += 1000) {
        $many(range($i, min($i + 999, (int) $b)));
    }
} elseif ($mode === 'single') {
    for ($i = 0; $i < $a; $i++) {
        $q->push(new Check($rows(1, $i)[0]));
    }
} elseif ($mode === 'bulk') {
    for ($i = 0; $i < $a; $i += 1000) {
        $many($rows(1000, $i));
    }
} elseif ($mode === 'stdin') {
    while (($line = fgets(STDIN)) !== false) {
        $t = microtime(true);
        $q->push(new Check((int) $line));
        printf("%.6f\n", $t);
    }
}
echo json_encode(['seconds' => microtime(true) - $t0]), "\n";
