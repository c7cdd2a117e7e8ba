<?php // PHP as a host: SQLite3 loads the extension, PDO opens by URI. One JSON step a line, one JSON answer a line.
$databases = [];

function open($name) { return new PDO('sqlite:' . $name); }

function rows($database, $statement) { return $database->query($statement)->fetchAll(PDO::FETCH_NUM); }

function answer($step) {
    global $databases;
    [$what, $first] = $step;
    if ($what === 'load') {
        $loader = new SQLite3(':memory:');
        $loader->enableExceptions(true);
        $loader->loadExtension(basename($first));
        return [];
    }
    if ($what === 'open') { $databases[$first] = open($step[2]); return []; }
    if ($what === 'close') { unset($databases[$first]); return []; }
    if ($what === 'sql') return rows($databases[$first], $step[2]);
    if ($what === 'opens') {
        for ($each = 0; $each < $step[2]; $each++) rows(open($first), $step[3]);
        return [];
    }
    throw new Exception($what);
}

while (($line = fgets(STDIN)) !== false) {
    try {
        $said = ['rows' => answer(json_decode($line, true))];
    } catch (Throwable $error) {
        $said = ['error' => $error->getMessage()];
    }
    echo json_encode($said), "\n";
}
