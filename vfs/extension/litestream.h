/* The edge between SQLite and the process that reads the replica: what the C files share. */
#ifndef LITESTREAM_H
#define LITESTREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum operation { OPEN = 1, LOCK, UNLOCK, READ, PRAGMA, CANCEL }; /* as in vfs/serve/protocol.py */

enum { MOST_FDS = 64, TEXT_SIZE = 1024, START_MS = 2000 /* how long a start is waited for */ };

/* Why something failed: SQLite's code, and the reason in words. */
struct problem {
  int code;
  char text[TEXT_SIZE];
};

void problem_set(struct problem *problem, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Bytes that grow. After a failed allocation `failed` is set and nothing more is added. */
struct buffer {
  uint8_t *data;
  size_t size, room;
  int failed;
};

void buffer_add(struct buffer *buffer, const void *data, size_t size);
void buffer_add_u32(struct buffer *buffer, uint32_t number);
void buffer_add_text(struct buffer *buffer, const char *text); /* its length, then its bytes; NULL is no text */
void buffer_free(struct buffer *buffer);

/* Reading what a reply holds: past the end everything is 0, and `failed` is set. */
struct cursor {
  const uint8_t *data;
  size_t left;
  int failed;
};

uint8_t cursor_u8(struct cursor *cursor);
uint32_t cursor_u32(struct cursor *cursor);
uint64_t cursor_u64(struct cursor *cursor);

/* How long to wait, and who can call it off. */
struct patience {
  int (*is_interrupted)(void *context);
  void *context;
  int timeout_ms;
};

/* A connection to the helper process, of the process that made it: a forked child must make its own. */
struct channel {
  int fd;
  pid_t owner;
  int owed; /* the operation whose answer was not waited for, or 0 */
  struct buffer reply;
  int fds[MOST_FDS];
  int fd_count;
};

enum outcome { ANSWERED, REFUSED, LOST, INTERRUPTED };

uint64_t siphash(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size);

int64_t now_ms(void); /* by a clock that only goes on */

int channel_is_open(const struct channel *channel);
void channel_close(struct channel *channel);
/* Send a request; none of the descriptors of the last answer is kept. */
enum outcome channel_send(struct channel *channel, int operation, const struct buffer *payload,
                          const struct patience *patience, struct problem *problem);
/* Wait for the answer to `operation`. REFUSED fills `problem`; so do LOST and INTERRUPTED. */
enum outcome channel_receive(struct channel *channel, int operation, const struct patience *patience,
                             struct problem *problem);

/* Connect to the helper process for a replica; start one where none runs. -1 and `problem` where that fails. */
int helper_connect(const char *url, const struct patience *patience, struct problem *problem);
/* Wait until a helper that this thread started is ready; 0 if it will not be, or not yet. */
int helper_await(void);
/* Wait a moment for a helper that went away again to say why; adds to `problem`. */
void helper_explain(struct problem *problem);
/* What is left of the start is done: nothing more is read from a helper that this thread started. */
void helper_forget(void);

/* Have the helper for a replica running, and the replica open there if it lies in a folder. No error: whoever opens the
 * replica later is told. */
void prepare(const char *url);

#endif
