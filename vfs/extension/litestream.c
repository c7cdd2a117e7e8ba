/* The SQLite extension: the VFS `litestream`, and SQL functions about it.
 *
 * Nothing in these files knows what a replica is: a process of the Python package reads it, the host only its pages. */
#define _GNU_SOURCE
#include "replica_file.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define URL_VARIABLE "LITESTREAM_REPLICA_URL"
#define VISIBLE __attribute__((visibility("default")))

enum { OLDEST_SQLITE = 3031000 /* sqlite3_uri_key */, MOST_ENGINES = 4, DEFAULT_TIMEOUT_S = 60, MOST_TIMEOUT_S = 86400 };

enum function { TIME, TXID, LAG, SET_TIME, ERROR, FUNCTIONS };

/* What one SQL function of one connection is called with. */
struct call {
  struct connection *connection;
  enum function function;
};

/* A connection that has our SQL functions, and its last error. */
struct connection {
  struct engine *engine;
  sqlite3 *db;
  struct connection *next;
  int uses; /* functions that are registered with it */
  struct call calls[FUNCTIONS];
  char text[TEXT_SIZE];
};

static struct engine engines[MOST_ENGINES];
static struct connection *connections;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static atomic_int remembering; /* connections that have an error to tell */

void connection_remember(const struct engine *engine, const sqlite3 *db, const char *text) {
  if (!*text && !atomic_load(&remembering)) return; /* at the begin of nearly every transaction */
  (void)pthread_mutex_lock(&guard);
  for (struct connection *each = connections; each; each = each->next) {
    if (each->db != db || each->engine != engine) continue;
    atomic_fetch_add(&remembering, !!*text - !!*each->text);
    (void)snprintf(each->text, sizeof each->text, "%s", text);
  }
  (void)pthread_mutex_unlock(&guard);
}

/* SQLite is done with one of the functions. */
static void connection_release(void *released) {
  struct connection *connection = ((struct call *)released)->connection;
  (void)pthread_mutex_lock(&guard);
  int is_last = --connection->uses == 0;
  if (is_last && *connection->text) atomic_fetch_sub(&remembering, 1);
  for (struct connection **each = &connections; is_last && *each; each = &(*each)->next)
    if (*each == connection) {
      *each = connection->next;
      break;
    }
  (void)pthread_mutex_unlock(&guard);
  if (is_last) free(connection);
}

/* How long the helper may take: it gives up by itself after the time limit of each wait, of which an answer can have
 * a few. */
static int timeout_ms(const char *text) {
  long seconds = text && *text ? strtol(text, NULL, 10) : DEFAULT_TIMEOUT_S;
  if (seconds < 1) seconds = 1;
  if (seconds > MOST_TIMEOUT_S) seconds = MOST_TIMEOUT_S;
  return (int)(3 * seconds + 30) * 1000;
}

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *opened, int flags, int *flags_out) {
  struct engine *engine = (struct engine *)vfs;
  const sqlite3_api_routines *sqlite3_api = engine->api;
  if (!name || !(flags & SQLITE_OPEN_MAIN_DB)) return engine->base->xOpen(engine->base, name, opened, flags, flags_out);
  struct replica_file *file = (struct replica_file *)opened;
  char here[PATH_MAX];
  memset(file, 0, sizeof *file);
  file->base.pMethods = &replica_file_methods;
  file->engine = engine;
  file->channel.fd = -1;
  file->timeout_ms = timeout_ms(sqlite3_uri_parameter(name, "timeout"));
  const char *url = sqlite3_uri_parameter(name, "replica_url");
  if (!url || !*url) url = getenv(URL_VARIABLE);
  file->url = strdup(url ? url : "");
  buffer_add_text(&file->opening, name);
  buffer_add_text(&file->opening, file->url);
  buffer_add_text(&file->opening, getcwd(here, sizeof here) ? here : "/"); /* what a relative path means */
  const char *key;
  for (int place = 0; (key = sqlite3_uri_key(name, place)); place++) {
    buffer_add_text(&file->opening, key);
    buffer_add_text(&file->opening, sqlite3_uri_parameter(name, key));
  }
  if (!file->url || file->opening.failed) {
    (void)file->base.pMethods->xClose(opened);
    file->base.pMethods = NULL;
    return SQLITE_NOMEM;
  }
  if (!*file->url)
    problem_set(&file->problem, SQLITE_CANTOPEN,
                "'%s' names no replica: open file:name?vfs=litestream&replica_url=..., or set LITESTREAM_REPLICA_URL",
                name);
  /* An error would reach nobody as text from here, and an interrupt nobody either. So the replica is opened by the
   * extension's hook at the end of opening, or by the first lock of a database that is attached. */
  if (flags_out) *flags_out = (flags | SQLITE_OPEN_READONLY) & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync) {
  (void)vfs, (void)name, (void)sync;
  return SQLITE_READONLY;
}

/* A replica has no journal and no WAL, whatever lies in the current folder. */
static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *answer) {
  (void)vfs, (void)name, (void)flags;
  *answer = 0;
  return SQLITE_OK;
}

/* The name is a label: it is no path. */
static int vfs_full_pathname(sqlite3_vfs *vfs, const char *name, int size, char *out) {
  (void)vfs;
  return snprintf(out, (size_t)size, "%s", name) < size ? SQLITE_OK : SQLITE_CANTOPEN;
}

static sqlite3_vfs *base_of(sqlite3_vfs *vfs) { return ((struct engine *)vfs)->base; }

static int vfs_randomness(sqlite3_vfs *vfs, int size, char *out) { return base_of(vfs)->xRandomness(base_of(vfs), size, out); }

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds) { return base_of(vfs)->xSleep(base_of(vfs), microseconds); }

static int vfs_current_time(sqlite3_vfs *vfs, double *now) { return base_of(vfs)->xCurrentTime(base_of(vfs), now); }

static int vfs_last_error(sqlite3_vfs *vfs, int size, char *out) {
  (void)vfs;
  if (size > 0 && out) *out = 0;
  return 0;
}

/* `[-]seconds.thousandths`, whatever the host's locale writes for the point. */
static double seconds_of(const char *text) {
  int is_negative = *text == '-';
  double whole = 0, scale = 1;
  const char *each = text + is_negative;
  for (; *each >= '0' && *each <= '9'; each++) whole = whole * 10 + (*each - '0');
  if (*each == '.')
    for (each++; *each >= '0' && *each <= '9'; each++) whole += (*each - '0') * (scale /= 10);
  return is_negative ? -whole : whole;
}

static void answer_error(struct connection *connection, sqlite3_context *context) {
  const sqlite3_api_routines *sqlite3_api = connection->engine->api;
  char text[TEXT_SIZE];
  (void)pthread_mutex_lock(&guard);
  memcpy(text, connection->text, sizeof text);
  (void)pthread_mutex_unlock(&guard);
  if (*text) sqlite3_result_text(context, text, -1, SQLITE_TRANSIENT);
}

/* Answer a function by what the pragma of the main database says. */
static void answer(const struct engine *engine, sqlite3_context *context, sqlite3_value **values) {
  static const char *const pragmas[] = {"litestream_time", "litestream_txid", "litestream_lag", "litestream_time"};
  const sqlite3_api_routines *sqlite3_api = engine->api;
  const struct call *call = sqlite3_user_data(context);
  if (call->function == ERROR) {
    answer_error(call->connection, context);
    return;
  }
  const char *value = call->function == SET_TIME ? (const char *)sqlite3_value_text(values[0]) : NULL;
  if (call->function == SET_TIME && !value) {
    sqlite3_result_error(context, "litestream_set_time() takes a time, such as '5 minutes ago', or 'latest'", -1);
    return;
  }
  char *arguments[4] = {NULL, (char *)(uintptr_t)pragmas[call->function], (char *)(uintptr_t)value, NULL};
  sqlite3_file *file = NULL;
  sqlite3 *db = call->connection->db;
  int code = sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (code != SQLITE_OK || !file || file->pMethods != &replica_file_methods) {
    sqlite3_result_error(context, "the main database of this connection is no replica", -1);
    return;
  }
  code = sqlite3_file_control(db, "main", SQLITE_FCNTL_PRAGMA, arguments);
  const char *text = arguments[0] ? arguments[0] : "";
  if (code != SQLITE_OK)
    sqlite3_result_error(context, text, -1);
  else if (call->function == LAG)
    sqlite3_result_double(context, seconds_of(text));
  else if (call->function != SET_TIME)
    sqlite3_result_text(context, text, -1, SQLITE_TRANSIENT);
  sqlite3_free(arguments[0]);
}

/* A function is called without word of the library that calls it: one entry for each. */
#define ENTRY(number)                                                                      \
  static void call_##number(sqlite3_context *context, int count, sqlite3_value **values) { \
    (void)count;                                                                           \
    answer(&engines[number], context, values);                                             \
  }
ENTRY(0)
ENTRY(1)
ENTRY(2)
ENTRY(3)
static void (*const entries[MOST_ENGINES])(sqlite3_context *, int, sqlite3_value **) = {call_0, call_1, call_2, call_3};

static int add_functions(struct engine *engine, sqlite3 *db) {
  static const char *const names[] = {"litestream_time", "litestream_txid", "litestream_lag", "litestream_set_time",
                                      "litestream_error"};
  const sqlite3_api_routines *sqlite3_api = engine->api;
  struct connection *connection = calloc(1, sizeof *connection);
  if (!connection) return SQLITE_NOMEM;
  connection->engine = engine;
  connection->db = db;
  connection->uses = FUNCTIONS;
  for (int each = 0; each < FUNCTIONS; each++) {
    connection->calls[each].connection = connection;
    connection->calls[each].function = (enum function)each;
  }
  (void)pthread_mutex_lock(&guard);
  connection->next = connections;
  connections = connection;
  (void)pthread_mutex_unlock(&guard);
  int code = SQLITE_OK;
  for (int each = 0; each < FUNCTIONS; each++) {
    int flags = SQLITE_UTF8 | (each == SET_TIME ? SQLITE_DIRECTONLY : 0);
    void *call = &connection->calls[each];
    int failed = code == SQLITE_OK
                     ? sqlite3_create_function_v2(db, names[each], each == SET_TIME, flags, call,
                                                  entries[engine - engines], NULL, NULL, connection_release)
                     : SQLITE_OK;
    if (code != SQLITE_OK) connection_release(call);
    if (failed) code = failed;
  }
  return code;
}

static struct engine *engine_of(const sqlite3_api_routines *api) {
  for (int place = 0; place < MOST_ENGINES; place++)
    if (engines[place].api == api) return &engines[place];
  return NULL;
}

/* SQLite calls this at the end of opening a connection, any connection. */
static int at_open(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  const sqlite3_api_routines *sqlite3_api = api;
  struct engine *engine = engine_of(api);
  sqlite3_file *opened = NULL;
  if (!engine) return SQLITE_OK;
  (void)add_functions(engine, db); /* nobody's own database fails for want of them */
  if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &opened) != SQLITE_OK || !opened ||
      opened->pMethods != &replica_file_methods)
    return SQLITE_OK;
  struct replica_file *file = (struct replica_file *)opened;
  const sqlite3_vfs *later = *(sqlite3_vfs **)(void *)db;
  if (!file->problem.code && later != engine->base && later != &engine->names)
    problem_set(&file->problem, SQLITE_ERROR, "SQLite %s is laid out in a way that this extension does not know: open the replica with another SQLite",
                sqlite3_libversion());
  if (!file->problem.code) (void)replica_file_open(file, &file->problem);
  if (!file->problem.code) return SQLITE_OK;
  connection_remember(engine, db, file->problem.text);
  if (error) *error = sqlite3_mprintf("%s", file->problem.text);
  return file->problem.code;
}

/* Find where this SQLite keeps that a connection was interrupted, in versions that do not tell: the one number of a
 * connection of our own that changes from 0 to 1 with sqlite3_interrupt(). */
static size_t find_interrupted(const sqlite3_api_routines *sqlite3_api) {
  sqlite3 *db = NULL;
  size_t found = 0, changes = 0;
  if (sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) == SQLITE_OK) {
    size_t size = (size_t)sqlite3_msize(db) & ~(sizeof(int) - 1);
    char *before = size < 1 << 16 ? malloc(size + 1) : NULL;
    if (before) {
      memcpy(before, db, size);
      sqlite3_interrupt(db);
      for (size_t place = 0; place < size; place += sizeof(int)) {
        int old, new;
        memcpy(&old, before + place, sizeof old);
        memcpy(&new, (char *)db + place, sizeof new);
        if (old == new) continue;
        changes++;
        if (old == 0 && new == 1) found = place;
      }
      free(before);
    }
  }
  (void)sqlite3_close(db);
  return changes == 1 ? found : 0;
}

/* Register the VFS with a SQLite library that we do not know yet. */
static struct engine *add_engine(const sqlite3_api_routines *sqlite3_api, char **error) {
  struct engine *engine = engine_of(NULL);
  sqlite3_vfs *base = sqlite3_vfs_find(NULL), *other = sqlite3_vfs_find("litestream");
  if (!engine || !base || other) {
    *error = sqlite3_mprintf(other ? "this SQLite has another VFS litestream already" : "no room for the VFS litestream");
    return NULL;
  }
  size_t interrupted_at = sqlite3_libversion_number() < OLDEST_IS_INTERRUPTED ? find_interrupted(sqlite3_api) : 0;
  int size = (int)sizeof(struct replica_file);
  sqlite3_vfs vfs = {
      .iVersion = 1,
      .szOsFile = size > base->szOsFile ? size : base->szOsFile,
      .mxPathname = base->mxPathname,
      .zName = "litestream",
      .xOpen = vfs_open,
      .xDelete = vfs_delete,
      .xAccess = vfs_access,
      .xFullPathname = vfs_full_pathname,
      .xRandomness = vfs_randomness,
      .xSleep = vfs_sleep,
      .xCurrentTime = vfs_current_time,
      .xGetLastError = vfs_last_error,
  };
  engine->vfs = vfs;
  engine->base = base;
  engine->interrupted_at = interrupted_at;
  engine->api = sqlite3_api;
  if (sqlite3_vfs_register(&engine->vfs, 0) == SQLITE_OK &&
      sqlite3_auto_extension((void (*)(void))at_open) == SQLITE_OK && names_register(engine) == SQLITE_OK)
    return engine;
  (void)sqlite3_vfs_unregister(&engine->vfs);
  engine->api = NULL;
  *error = sqlite3_mprintf("the VFS litestream cannot be registered");
  return NULL;
}

/* Who names the replica before the library is loaded is about to open it: what that needs is there when he does. */
static void prepare_once(void) {
  const char *url = getenv(URL_VARIABLE);
  if (url && *url) prepare(url);
}

VISIBLE int sqlite3_litestreamvfs_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  const sqlite3_api_routines *sqlite3_api = api;
  if (sqlite3_libversion_number() < OLDEST_SQLITE) {
    *error = sqlite3_mprintf("SQLite 3.31 or newer is needed, this is %s", sqlite3_libversion());
    return SQLITE_ERROR;
  }
  static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
  (void)pthread_mutex_lock(&turn);
  struct engine *engine = engine_of(api);
  if (!engine) engine = add_engine(api, error);
  (void)pthread_mutex_unlock(&turn);
  if (!engine) return SQLITE_ERROR;
  static pthread_once_t prepared = PTHREAD_ONCE_INIT;
  (void)pthread_once(&prepared, prepare_once);
  int code = add_functions(engine, db);
  /* The VFS stays when the connection that loaded it closes. */
  return code == SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : code;
}

/* `.load ./litestream.so` looks for these names. */
VISIBLE int sqlite3_extension_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  return sqlite3_litestreamvfs_init(db, error, api);
}

VISIBLE int sqlite3_litestream_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  return sqlite3_litestreamvfs_init(db, error, api);
}
