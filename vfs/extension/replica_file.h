/* One open replica. */
#ifndef REPLICA_FILE_H
#define REPLICA_FILE_H

#include "litestream.h"

#include "sqlite/sqlite3ext.h"

enum { SEGMENTS = 64, BLOCK = 512, OLDEST_IS_INTERRUPTED = 3041000 /* sqlite3_is_interrupted */ };

/* One SQLite library in this process: a host may have two, its own and Python's, say. The name `sqlite3_api` is what
 * the macros of sqlite3ext.h call through. */
struct engine {
  sqlite3_vfs vfs; /* first: SQLite hands it back */
  sqlite3_vfs names; /* stands in for the default VFS where names are no URIs */
  const sqlite3_api_routines *api;
  sqlite3_vfs *base; /* the default VFS */
  size_t interrupted_at; /* where older versions keep in a connection that it was interrupted; 0 if not known */
};

struct segment {
  uint32_t id, size;
  uint8_t *base;
};

/* One open replica. */
struct replica_file {
  sqlite3_file base;
  struct engine *engine;
  sqlite3 **db; /* where the connection it belongs to stands; NULL at first */
  struct channel channel;
  struct buffer opening; /* label, URL, folder and parameters: to open it again after the helper has gone */
  char *url;
  struct problem problem; /* why it is not open; code 0 where it is */
  int timeout_ms, lock, is_fixed, reopened, seen;
  uint32_t page_size, commit, lineage;
  uint64_t txid;
  uint64_t **blocks; /* where each page lies: segment << 32 | offset, 0 if not known */
  struct segment segments[SEGMENTS];
};

extern const sqlite3_io_methods replica_file_methods;

/* Connect to the helper and open the replica there. After it had gone: where a time was set, at the same TXID. */
int replica_file_open(struct replica_file *file, struct problem *problem);

/* See to it that `file:name?vfs=litestream` is a URI in a SQLite that takes it for a file's name. */
int names_register(struct engine *engine);

/* Keep a text for litestream_error(), if the connection is one of those that have it; "" after a success. */
void connection_remember(const struct engine *engine, const sqlite3 *db, const char *text);

#endif
