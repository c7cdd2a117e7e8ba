// Node's node:sqlite and Bun's bun:sqlite as hosts: one JSON step a line, one JSON answer a line.
import { readFileSync, readdirSync } from "node:fs";
import { createInterface } from "node:readline";

const isBun = typeof Bun !== "undefined";
const sqlite = await import(isBun ? "bun:sqlite" : "node:sqlite");
if (isBun) sqlite.Database.setCustomSQLite(process.argv[2]);

function open(name) {
  return isBun ? new sqlite.Database(name) : new sqlite.DatabaseSync(name.startsWith("file:") ? new URL(name) : name, { allowExtension: true });
}

function rows(database, statement) {
  const prepared = isBun ? database.query(statement) : database.prepare(statement);
  return prepared.all().map((row) => Object.values(row));
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
    if (isBun) Bun.gc(true);
    const pages = Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]);
    return [[readdirSync("/proc/self/fd").length, pages * 4096]];
  }
  throw new Error(what);
}

for await (const line of createInterface({ input: process.stdin })) {
  let said;
  try {
    said = { rows: answer(JSON.parse(line)) };
  } catch (error) {
    said = { error: String(error.message) };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
