// Node's node:sqlite and Bun's bun:sqlite as hosts: one JSON step a line, one JSON answer a line.
import { createInterface } from "node:readline";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const isBun = typeof Bun !== "undefined";
const sqlite = await import(isBun ? "bun:sqlite" : "node:sqlite");
if (isBun && isMainThread) sqlite.Database.setCustomSQLite(process.argv[2]);

function open(name) {
  return isBun ? new sqlite.Database(name) : new sqlite.DatabaseSync(name.startsWith("file:") ? new URL(name) : name, { allowExtension: true });
}

function rows(database, statement) {
  const prepared = isBun ? database.query(statement) : database.prepare(statement);
  return prepared.all().map((row) => Object.values(row));
}

// As many threads as are asked for, each with a connection of its own and 20 answers.
function inThreads(name, count, statement) {
  const thread = () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL(import.meta.url), { argv: process.argv.slice(2), workerData: { name, statement } });
      worker.on("message", resolve);
      worker.on("error", reject);
    });
  return Promise.all(Array.from({ length: count }, thread));
}

if (!isMainThread) {
  const database = open(workerData.name);
  const found = Array.from({ length: 20 }, () => rows(database, workerData.statement)[0][0]);
  database.close();
  parentPort.postMessage(found);
}

const databases = {};

function answer([what, ...rest]) {
  if (what === "load") {
    const loader = isBun ? new sqlite.Database(":memory:") : new sqlite.DatabaseSync(":memory:", { allowExtension: true });
    loader.loadExtension(rest[0], "sqlite3_litestreamvfs_init");
    loader.close();
    return [];
  }
  if (what === "open") return (databases[rest[0]] = open(rest[1])), [];
  if (what === "close") return databases[rest[0]].close(), [];
  if (what === "sql") return rows(databases[rest[0]], rest[1]);
  if (what === "opens") {
    for (let each = 0; each < rest[1]; each++) {
      const database = open(rest[0]);
      rows(database, rest[2]);
      database.close();
    }
    return isBun && Bun.gc(true), [];
  }
  if (what === "threads") return inThreads(...rest);
  throw new Error(what);
}

for await (const line of isMainThread ? createInterface({ input: process.stdin }) : []) {
  let said;
  try {
    said = { rows: await answer(JSON.parse(line)) };
  } catch (error) {
    said = { error: String(error.message) };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
