/* URIs where SQLite takes them for names of files.
 *
 * Some programs have a SQLite of their own in which a name is a URI only when the caller says so, and no way for the caller
 * to say it: Bun, on Linux. There `file:my.db?vfs=litestream` would quietly be a new local file of that name. So where names
 * are no URIs a copy of the default VFS takes its place, whose only difference is that it knows this kind of name. */
#define _GNU_SOURCE
#include "replica_file.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST_CREATE_FILENAME = 3032000, MOST_PARAMETERS = 32 };

static int is_hex(char digit) {
  return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f') || (digit >= 'A' && digit <= 'F');
}

static int value_of(char digit) { return digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10; }

/* Decode %XX in place. */
static void decode(char *text) {
  char *out = text;
  for (; *text; text++) {
    if (*text == '%' && is_hex(text[1]) && is_hex(text[2])) {
      *out++ = (char)(value_of(text[1]) << 4 | value_of(text[2]));
      text += 2;
    } else {
      *out++ = *text;
    }
  }
  *out = 0;
}

/* Cut `file:label?name=value&...` into its parts; the number of parameters, or -1 if the text is no such thing. */
static int cut(char *text, const char **label, const char *parameters[]) {
  char *query = strchr(text, '?');
  int count = 0, is_ours = 0;
  if (!query) return -1;
  *query++ = 0;
  *label = text + strlen("file:");
  for (char *each = query, *next; each && count < MOST_PARAMETERS; each = next) {
    next = strchr(each, '&');
    if (next) *next++ = 0;
    char *value = strchr(each, '=');
    if (value) *value++ = 0;
    decode(each);
    if (value) decode(value);
    parameters[2 * count] = each;
    parameters[2 * count + 1] = value ? value : "";
    is_ours |= strcmp(each, "vfs") == 0 && strcmp(parameters[2 * count + 1], "litestream") == 0;
    count++;
  }
  return is_ours ? count : -1;
}

static int names_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *flags_out) {
  struct engine *engine = (struct engine *)(void *)((char *)vfs - offsetof(struct engine, names));
  const sqlite3_api_routines *sqlite3_api = engine->api;
  const char *parameters[2 * MOST_PARAMETERS], *label = NULL;
  const char *found = name && flags & SQLITE_OPEN_MAIN_DB ? strstr(name, "/file:") : NULL; /* behind the folder */
  char *text = found ? strdup(found + 1) : NULL;
  int count = text ? cut(text, &label, parameters) : -1, code;
  const char *filename = count < 0 ? NULL : sqlite3_create_filename(label, "", "", count, parameters);
  if (filename) {
    code = engine->vfs.xOpen(&engine->vfs, filename, file, flags, flags_out);
    sqlite3_free_filename((char *)(uintptr_t)filename);
  } else {
    code = engine->base->xOpen(engine->base, name, file, flags, flags_out);
  }
  free(text);
  return code;
}

/* Whether a plain open takes a name for a URI. */
static int are_uris(const sqlite3_api_routines *sqlite3_api) {
  sqlite3 *db = NULL;
  int code = sqlite3_open_v2("file:?mode=memory", &db, SQLITE_OPEN_READWRITE, NULL);
  (void)sqlite3_close(db);
  return code == SQLITE_OK;
}

int names_register(struct engine *engine) {
  const sqlite3_api_routines *sqlite3_api = engine->api;
  if (sqlite3_libversion_number() < OLDEST_CREATE_FILENAME || are_uris(sqlite3_api)) return SQLITE_OK;
  engine->names = *engine->base;
  engine->names.pNext = NULL;
  engine->names.zName = "litestream-names";
  engine->names.szOsFile = engine->vfs.szOsFile;
  engine->names.xOpen = names_open;
  return sqlite3_vfs_register(&engine->names, 1);
}
