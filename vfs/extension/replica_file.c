/* One open replica, as the methods that SQLite calls on a file: https://sqlite.org/c3ref/io_methods.html
 *
 * Pages come through memory that is shared with the helper, and are never written to again once a place in it was
 * handed out. So a page that was asked for once costs no request, and what a host has stays good if the helper dies. */
#define _GNU_SOURCE
#include "replica_file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_ONE = 100 };

/* Keep the reason for litestream_error(), and return SQLite's code. */
static int failed(struct replica_file *file, const struct problem *problem) {
  if (file->db) connection_remember(file->engine, *file->db, problem->text);
  return problem->code;
}

static int is_interrupted(void *context) {
  struct replica_file *file = context;
  const struct engine *engine = file->engine;
  sqlite3 *db = file->db ? *file->db : NULL;
  if (!db) return 0;
  const sqlite3_api_routines *sqlite3_api = engine->api;
  if (sqlite3_libversion_number() >= OLDEST_IS_INTERRUPTED) return sqlite3_is_interrupted(db);
  if (!engine->interrupted_at) return 0;
  return *(volatile int *)(void *)((char *)db + engine->interrupted_at);
}

static struct patience patience_of(struct replica_file *file) {
  struct patience patience = {is_interrupted, file, file->timeout_ms};
  return patience;
}

static void forget_pages(struct replica_file *file) {
  for (uint32_t place = 0; file->blocks && place <= file->commit / BLOCK; place++) free(file->blocks[place]);
  free(file->blocks);
  file->blocks = NULL;
}

static void forget_segments(struct replica_file *file) {
  for (int place = 0; place < SEGMENTS; place++) {
    struct segment *segment = &file->segments[place];
    if (segment->base) (void)munmap(segment->base, segment->size);
    memset(segment, 0, sizeof *segment);
  }
}

/* What failed before is over. */
static void succeeded(const struct replica_file *file) {
  if (file->db) connection_remember(file->engine, *file->db, "");
}

/* Take over what the helper says of the view: other pages if it is another one. */
static int take_state(struct replica_file *file, struct cursor *cursor) {
  uint32_t page_size = cursor_u32(cursor), commit = cursor_u32(cursor), lineage = cursor_u32(cursor);
  uint64_t txid = cursor_u64(cursor);
  int is_fixed = cursor_u8(cursor);
  if (cursor->failed || page_size < 512 || page_size > 65536 || page_size & (page_size - 1)) return -1;
  if (!file->blocks || txid != file->txid || lineage != file->lineage || commit != file->commit ||
      page_size != file->page_size) {
    forget_pages(file);
    file->blocks = calloc((size_t)commit / BLOCK + 1, sizeof *file->blocks);
    if (!file->blocks) return -1;
  }
  file->page_size = page_size;
  file->commit = commit;
  file->lineage = lineage;
  file->txid = txid;
  file->is_fixed = is_fixed;
  return 0;
}

static int keep_place(struct replica_file *file, uint32_t pgno, uint64_t place) {
  if (pgno < 1 || pgno > file->commit || !file->blocks) return 0;
  uint64_t **block = &file->blocks[pgno / BLOCK];
  if (!*block && !(*block = calloc(BLOCK, sizeof **block))) return -1;
  (*block)[pgno % BLOCK] = place;
  return 0;
}

/* Take over places of pages, the memory that they lie in, and word of memory that is used no more. */
static int take_pages(struct replica_file *file) {
  struct channel *channel = &file->channel;
  struct cursor cursor = {channel->reply.data, channel->reply.size, 0};
  for (uint32_t left = cursor_u32(&cursor); left && !cursor.failed; left--) {
    uint32_t id = cursor_u32(&cursor);
    struct segment *segment = &file->segments[id % SEGMENTS];
    if (segment->id != id || !segment->base) continue;
    (void)munmap(segment->base, segment->size);
    memset(segment, 0, sizeof *segment);
  }
  uint32_t count = cursor_u32(&cursor);
  for (uint32_t place = 0; place < count && !cursor.failed; place++) {
    uint32_t id = cursor_u32(&cursor), size = cursor_u32(&cursor);
    struct segment *segment = &file->segments[id % SEGMENTS];
    if (cursor.failed || (int)place >= channel->fd_count || segment->base) return -1;
    void *base = mmap(NULL, size, PROT_READ, MAP_SHARED, channel->fds[place], 0);
    if (base == MAP_FAILED) return -1;
    segment->id = id;
    segment->size = size;
    segment->base = base;
  }
  uint32_t pgno = cursor_u32(&cursor), pages = cursor_u32(&cursor);
  for (; pages && !cursor.failed; pages--, pgno++)
    if (keep_place(file, pgno, cursor_u64(&cursor)) != 0) return -1;
  return cursor.failed ? -1 : 0;
}

/* Ask the helper, after taking the answer that an interrupted request left behind. */
static enum outcome ask(struct replica_file *file, int operation, const struct buffer *payload,
                        struct problem *problem) {
  struct patience patience = patience_of(file);
  struct channel *channel = &file->channel;
  if (channel_is_open(channel) && channel->owed) {
    int owed = channel->owed;
    enum outcome outcome = channel_receive(channel, owed, &patience, problem);
    if (outcome == LOST || outcome == INTERRUPTED) return outcome;
    if (outcome == ANSWERED && owed == READ && take_pages(file) != 0) {
      channel_close(channel);
      problem_set(problem, SQLITE_NOMEM, "out of memory");
      return LOST;
    }
  }
  enum outcome outcome = channel_send(channel, operation, payload, &patience, problem);
  return outcome == ANSWERED ? channel_receive(channel, operation, &patience, problem) : outcome;
}

static int take_answered_state(struct replica_file *file, struct problem *problem) {
  struct cursor cursor = {file->channel.reply.data, file->channel.reply.size, 0};
  if (take_state(file, &cursor) == 0) return SQLITE_OK;
  channel_close(&file->channel);
  problem_set(problem, SQLITE_IOERR, "the process that reads the replica is of another version of ltx: it ends ten seconds after the last "
              "program that uses it, then try again");
  return problem->code;
}

/* Connect to the helper and open the replica there. After it had gone: where a time was set, at the same TXID. */
int replica_file_open(struct replica_file *file, struct problem *problem) {
  struct patience patience = patience_of(file);
  struct buffer payload = {0};
  enum outcome outcome = LOST;
  uint64_t txid = file->is_fixed ? file->txid : 0;
  buffer_add(&payload, &txid, sizeof txid);
  buffer_add(&payload, file->opening.data, file->opening.size);
  payload.failed |= file->opening.failed;
  file->reopened += file->page_size != 0;
  channel_close(&file->channel);
  forget_segments(file);
  forget_pages(file);
  for (int tries = 0; tries < 3 && outcome == LOST; tries++) { /* one that is just ending does not answer */
    int fd = helper_connect(file->url, &patience, problem);
    if (fd < 0) break;
    file->channel.fd = fd;
    file->channel.owner = getpid();
    outcome = ask(file, OPEN, &payload, problem);
    if (outcome == LOST) {
      struct problem reason = {0, ""};
      helper_explain(&reason);
      if (reason.code) {
        *problem = reason;
        break;
      }
    }
  }
  helper_forget();
  buffer_free(&payload);
  if (outcome == ANSWERED) return take_answered_state(file, problem);
  channel_close(&file->channel);
  return problem->code;
}

static int pages_at(struct replica_file *file, uint32_t pgno, const uint8_t **page, struct problem *problem) {
  for (int tries = 0; tries < 2; tries++) {
    uint64_t *block = file->blocks ? file->blocks[pgno / BLOCK] : NULL;
    uint64_t place = block ? block[pgno % BLOCK] : 0;
    uint32_t id = (uint32_t)(place >> 32), offset = (uint32_t)place;
    struct segment *segment = &file->segments[id % SEGMENTS];
    if (place && segment->id == id && segment->base && offset <= segment->size - file->page_size) {
      *page = segment->base + offset;
      return SQLITE_OK;
    }
    struct buffer payload = {0};
    buffer_add_u32(&payload, pgno);
    enum outcome outcome = ask(file, READ, &payload, problem);
    buffer_free(&payload);
    if (outcome != ANSWERED) return problem->code;
    if (take_pages(file) != 0) break;
  }
  channel_close(&file->channel);
  problem_set(problem, SQLITE_IOERR, "page %u did not come from the process that reads the replica: run the statement again", pgno);
  return problem->code;
}

/* After the helper has gone, the next one may take other states for the same as before: move the counters by which
 * SQLite tells that its cache and its schema are still right. */
static void move_counters(struct replica_file *file, uint8_t *page_one) {
  static const int places[] = {24, 40, 92};
  for (int place = 0; place < 3; place++) {
    uint8_t *at = page_one + places[place];
    uint32_t number = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    number += (uint32_t)file->reopened * 0x85EBCA6BU;
    at[0] = (uint8_t)(number >> 24), at[1] = (uint8_t)(number >> 16), at[2] = (uint8_t)(number >> 8);
    at[3] = (uint8_t)number;
  }
}

static int file_read(sqlite3_file *opened, void *into, int amount, sqlite3_int64 offset) {
  struct replica_file *file = (struct replica_file *)opened;
  struct problem problem = {0, ""};
  uint8_t *out = into;
  memset(into, 0, (size_t)amount);
  if (!file->page_size) return SQLITE_IOERR_SHORT_READ; /* it is not open yet: the first lock opens it */
  while (amount > 0) {
    sqlite3_int64 pgno = offset / file->page_size + 1;
    int start = (int)(offset % file->page_size), count = (int)file->page_size - start;
    const uint8_t *page = NULL;
    if (pgno > file->commit) return SQLITE_IOERR_SHORT_READ;
    if (count > amount) count = amount;
    if (pages_at(file, (uint32_t)pgno, &page, &problem) != SQLITE_OK) return failed(file, &problem);
    if (pgno == 1 && file->reopened && start < PAGE_ONE) {
      uint8_t head[PAGE_ONE];
      memcpy(head, page, sizeof head);
      move_counters(file, head);
      memcpy(out, page + start, (size_t)count);
      memcpy(out, head + start, (size_t)(count < PAGE_ONE - start ? count : PAGE_ONE - start));
    } else {
      memcpy(out, page + start, (size_t)count);
    }
    out += count, offset += count, amount -= count;
  }
  return SQLITE_OK;
}

static int file_lock(sqlite3_file *opened, int level) {
  struct replica_file *file = (struct replica_file *)opened;
  struct problem problem = file->problem;
  if (level > SQLITE_LOCK_SHARED) return SQLITE_READONLY;
  if (level != SQLITE_LOCK_SHARED || file->lock == SQLITE_LOCK_SHARED) return SQLITE_OK;
  if (problem.code) return failed(file, &problem); /* it could not be opened */
  enum outcome outcome = channel_is_open(&file->channel) ? ask(file, LOCK, NULL, &problem) : LOST;
  if (outcome == LOST) {
    if (replica_file_open(file, &problem) != SQLITE_OK) return failed(file, &problem);
    outcome = ask(file, LOCK, NULL, &problem);
  }
  if (outcome != ANSWERED || take_answered_state(file, &problem) != SQLITE_OK) return failed(file, &problem);
  file->lock = level;
  succeeded(file);
  return SQLITE_OK;
}

static int file_unlock(sqlite3_file *opened, int level) {
  struct replica_file *file = (struct replica_file *)opened;
  struct patience patience = patience_of(file);
  struct problem ignored;
  if (level == SQLITE_LOCK_NONE && file->lock != SQLITE_LOCK_NONE && channel_is_open(&file->channel))
    (void)channel_send(&file->channel, UNLOCK, NULL, &patience, &ignored);
  if (level < file->lock) file->lock = level;
  return SQLITE_OK;
}

static int file_close(sqlite3_file *opened) {
  struct replica_file *file = (struct replica_file *)opened;
  channel_close(&file->channel);
  forget_pages(file);
  forget_segments(file);
  buffer_free(&file->opening);
  free(file->url);
  file->url = NULL;
  return SQLITE_OK;
}

static int file_size(sqlite3_file *opened, sqlite3_int64 *size) {
  struct replica_file *file = (struct replica_file *)opened;
  *size = (sqlite3_int64)file->commit * file->page_size;
  return SQLITE_OK;
}

/* Answer `PRAGMA litestream_...`. `arguments` are SQLite's: the answer, the name, the value. */
static int file_pragma(struct replica_file *file, char **arguments) {
  const sqlite3_api_routines *sqlite3_api = file->engine->api;
  struct problem problem = file->problem;
  if (sqlite3_strnicmp(arguments[1], "litestream_", 11) != 0) return SQLITE_NOTFOUND;
  struct buffer payload = {0};
  buffer_add_text(&payload, arguments[1]);
  buffer_add_text(&payload, arguments[2]);
  enum outcome outcome = LOST;
  if (!problem.code) {
    if (channel_is_open(&file->channel)) outcome = ask(file, PRAGMA, &payload, &problem);
    if (outcome == LOST && file->lock == SQLITE_LOCK_NONE)
      outcome = replica_file_open(file, &problem) == SQLITE_OK ? ask(file, PRAGMA, &payload, &problem) : REFUSED;
  }
  buffer_free(&payload);
  struct cursor cursor = {file->channel.reply.data, file->channel.reply.size, 0};
  if (outcome == ANSWERED) {
    if (take_state(file, &cursor) != 0) {
      problem_set(&problem, SQLITE_IOERR, "out of memory");
    } else if (cursor_u8(&cursor)) {
      arguments[0] = sqlite3_mprintf("%.*s", (int)cursor.left, (const char *)cursor.data);
      succeeded(file);
      return SQLITE_OK;
    } else {
      return SQLITE_NOTFOUND;
    }
  }
  arguments[0] = sqlite3_mprintf("%s", problem.text);
  (void)failed(file, &problem);
  return problem.code == SQLITE_INTERRUPT ? SQLITE_INTERRUPT : SQLITE_ERROR;
}

static int file_control(sqlite3_file *opened, int operation, void *argument) {
  struct replica_file *file = (struct replica_file *)opened;
  if (operation == SQLITE_FCNTL_PRAGMA) return file_pragma(file, argument);
  if (operation == SQLITE_FCNTL_VFSNAME) {
    const sqlite3_api_routines *sqlite3_api = file->engine->api;
    *(char **)argument = sqlite3_mprintf("litestream");
    return SQLITE_OK;
  }
  if (operation == SQLITE_FCNTL_PDB) {
    file->db = argument;
    /* The first field of a connection is the VFS for whatever it opens later. Local databases that are attached, and
     * temporary files, belong to the default one (docs/design/0003-default-vfs.md). */
    sqlite3_vfs **of_connection = *file->db ? (sqlite3_vfs **)(void *)*file->db : NULL;
    if (of_connection && *of_connection == &file->engine->vfs) *of_connection = file->engine->base;
  }
  return SQLITE_NOTFOUND;
}

static int file_write(sqlite3_file *file, const void *data, int amount, sqlite3_int64 offset) {
  (void)file, (void)data, (void)amount, (void)offset;
  return SQLITE_READONLY;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size) {
  (void)file, (void)size;
  return SQLITE_READONLY;
}

static int file_sync(sqlite3_file *file, int flags) {
  (void)file, (void)flags;
  return SQLITE_OK;
}

static int file_is_reserved(sqlite3_file *file, int *answer) {
  (void)file;
  *answer = 0;
  return SQLITE_OK;
}

static int file_zero(sqlite3_file *file) {
  (void)file;
  return 0;
}

const sqlite3_io_methods replica_file_methods = {
    .iVersion = 1,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_is_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_zero,
    .xDeviceCharacteristics = file_zero,
};
