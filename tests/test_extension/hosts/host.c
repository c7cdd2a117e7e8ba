/* A small host: loads the extension, opens a replica, queries it, fails to open another, closes and shuts down. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sqlite3.h>

static void check(int code, sqlite3 *db, const char *what) {
  if (code == SQLITE_OK) return;
  fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
  exit(2);
}

static int print_row(void *unused, int count, char **values, char **names) {
  (void)unused, (void)names;
  for (int place = 0; place < count; place++) printf("%s%s", place ? "|" : "", values[place] ? values[place] : "");
  printf("\n");
  return 0;
}

/* host EXTENSION URI BAD_URI [SQL ...] */
int main(int count, char **words) {
  sqlite3 *loader = NULL, *db = NULL;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  if (count < 4) return 1;
  check(sqlite3_open(":memory:", &loader), loader, "open");
  check(sqlite3_enable_load_extension(loader, 1), loader, "enable");
  check(sqlite3_load_extension(loader, words[1], NULL, NULL), loader, "load");
  check(sqlite3_load_extension(loader, words[1], "sqlite3_litestreamvfs_init", NULL), loader, "load again");
  check(sqlite3_close(loader), NULL, "close");
  check(sqlite3_open_v2(words[2], &db, flags, NULL), db, "open replica");
  for (int place = 4; place < count; place++) {
    check(sqlite3_exec(db, words[place], print_row, NULL, NULL), db, words[place]);
  }
  check(sqlite3_close(db), NULL, "close");
  if (sqlite3_open_v2(words[3], &db, flags, NULL) == SQLITE_OK) return 3;
  printf("%s\n", sqlite3_errmsg(db));
  check(sqlite3_close(db), NULL, "close");
  return sqlite3_shutdown();
}
