/* Requests and answers between SQLite's process and the helper process, over a Unix socket. */
#define _GNU_SOURCE
#include "litestream.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "sqlite/sqlite3.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE is set on the socket */
#endif
#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

enum { TICK_MS = 10, MOST_REPLY = 64 << 20 };

void problem_set(struct problem *problem, int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  problem->code = code;
  (void)vsnprintf(problem->text, sizeof problem->text, format, arguments);
  va_end(arguments);
}

void buffer_add(struct buffer *buffer, const void *data, size_t size) {
  if (buffer->failed) return;
  if (size > buffer->room - buffer->size) {
    size_t room = 2 * (buffer->size + size) + 64;
    uint8_t *grown = realloc(buffer->data, room);
    if (!grown) {
      buffer->failed = 1;
      return;
    }
    buffer->data = grown;
    buffer->room = room;
  }
  if (size) memcpy(buffer->data + buffer->size, data, size);
  buffer->size += size;
}

void buffer_add_u32(struct buffer *buffer, uint32_t number) { buffer_add(buffer, &number, sizeof number); }

void buffer_add_text(struct buffer *buffer, const char *text) {
  if (!text) {
    buffer_add_u32(buffer, UINT32_MAX);
    return;
  }
  buffer_add_u32(buffer, (uint32_t)strlen(text));
  buffer_add(buffer, text, strlen(text));
}

void buffer_free(struct buffer *buffer) {
  free(buffer->data);
  memset(buffer, 0, sizeof *buffer);
}

static void cursor_take(struct cursor *cursor, void *into, size_t size) {
  memset(into, 0, size);
  if (size > cursor->left) {
    cursor->failed = 1;
    cursor->left = 0;
    return;
  }
  memcpy(into, cursor->data, size);
  cursor->data += size;
  cursor->left -= size;
}

uint8_t cursor_u8(struct cursor *cursor) {
  uint8_t number;
  cursor_take(cursor, &number, sizeof number);
  return number;
}

uint32_t cursor_u32(struct cursor *cursor) {
  uint32_t number;
  cursor_take(cursor, &number, sizeof number);
  return number;
}

uint64_t cursor_u64(struct cursor *cursor) {
  uint64_t number;
  cursor_take(cursor, &number, sizeof number);
  return number;
}

int64_t now_ms(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int channel_is_open(const struct channel *channel) { return channel->fd >= 0 && channel->owner == getpid(); }

static void drop_fds(struct channel *channel) {
  while (channel->fd_count) (void)close(channel->fds[--channel->fd_count]);
}

void channel_close(struct channel *channel) {
  if (channel->fd >= 0) {
    /* In a forked child the parent goes on using its own copy: close ours only. */
    if (channel->owner == getpid()) (void)shutdown(channel->fd, SHUT_RDWR);
    (void)close(channel->fd);
  }
  drop_fds(channel);
  buffer_free(&channel->reply);
  channel->fd = -1;
  channel->owed = 0;
}

static enum outcome lost(struct channel *channel, struct problem *problem) {
  channel_close(channel);
  problem_set(problem, SQLITE_IOERR, "the process that reads the replica has ended: run the statement again");
  return LOST;
}

/* Wait until the socket is ready, the deadline passes, or the query is interrupted. */
static enum outcome wait_ready(struct channel *channel, short events, int64_t deadline,
                               const struct patience *patience, struct problem *problem) {
  for (;;) {
    struct pollfd polled = {channel->fd, events, 0};
    int ready = poll(&polled, 1, TICK_MS);
    if (ready > 0) return ANSWERED;
    if (ready < 0 && errno != EINTR) return lost(channel, problem);
    if (now_ms() > deadline) {
      channel_close(channel);
      problem_set(problem, SQLITE_IOERR, "the process that reads the replica did not answer within %d s: a longer timeout= gives it more",
                  patience->timeout_ms / 1000);
      return LOST;
    }
    if (patience->is_interrupted(patience->context)) {
      problem_set(problem, SQLITE_INTERRUPT, "interrupted");
      return INTERRUPTED;
    }
  }
}

static enum outcome send_all(struct channel *channel, const uint8_t *data, size_t size, int64_t deadline,
                             const struct patience *patience, struct problem *problem) {
  while (size) {
    ssize_t sent = send(channel->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      data += sent;
      size -= (size_t)sent;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      enum outcome outcome = wait_ready(channel, POLLOUT, deadline, patience, problem);
      if (outcome == INTERRUPTED) return lost(channel, problem); /* half a request cannot be taken back */
      if (outcome != ANSWERED) return outcome;
    } else if (errno != EINTR) {
      return lost(channel, problem);
    }
  }
  return ANSWERED;
}

enum outcome channel_send(struct channel *channel, int operation, const struct buffer *payload,
                          const struct patience *patience, struct problem *problem) {
  if (!channel_is_open(channel)) return lost(channel, problem);
  uint8_t head[5];
  uint32_t size = (uint32_t)(payload ? payload->size : 0);
  memcpy(head, &size, 4);
  head[4] = (uint8_t)operation;
  struct buffer frame = {0};
  buffer_add(&frame, head, sizeof head);
  if (payload) buffer_add(&frame, payload->data, payload->size);
  if (frame.failed || (payload && payload->failed)) {
    buffer_free(&frame);
    problem_set(problem, SQLITE_NOMEM, "out of memory");
    return REFUSED;
  }
  enum outcome outcome =
      send_all(channel, frame.data, frame.size, now_ms() + patience->timeout_ms, patience, problem);
  buffer_free(&frame);
  return outcome;
}

/* Keep descriptors that came along, closed on exec. */
static void take_fds(struct channel *channel, struct msghdr *message) {
  for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
    if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t place = 0; place < count; place++) {
      int fd;
      memcpy(&fd, CMSG_DATA(each) + place * sizeof(int), sizeof fd);
      if (channel->fd_count < MOST_FDS) {
        channel->fds[channel->fd_count++] = fd;
      } else {
        (void)close(fd);
      }
    }
  }
}

static enum outcome receive_all(struct channel *channel, uint8_t *into, size_t size, int64_t deadline,
                                const struct patience *patience, struct problem *problem) {
  size_t had = 0;
  while (had < size) {
    union {
      struct cmsghdr aligned;
      char space[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control;
    struct iovec piece = {into + had, size - had};
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.space;
    message.msg_controllen = sizeof control.space;
    ssize_t received = recvmsg(channel->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received > 0) {
      take_fds(channel, &message);
      had += (size_t)received;
    } else if (received == 0) {
      return lost(channel, problem);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      enum outcome outcome = wait_ready(channel, POLLIN, deadline, patience, problem);
      if (outcome == INTERRUPTED && had) continue; /* the rest of an answer that began is on its way */
      if (outcome != ANSWERED) return outcome;
    } else if (errno != EINTR) {
      return lost(channel, problem);
    }
  }
  return ANSWERED;
}

enum outcome channel_receive(struct channel *channel, int operation, const struct patience *patience,
                             struct problem *problem) {
  static const struct buffer nothing = {0};
  if (!channel_is_open(channel)) return lost(channel, problem);
  int64_t deadline = now_ms() + patience->timeout_ms;
  uint8_t head[5];
  drop_fds(channel);
  enum outcome outcome = receive_all(channel, head, sizeof head, deadline, patience, problem);
  if (outcome == INTERRUPTED) {
    channel->owed = operation;
    struct problem ignored;
    (void)channel_send(channel, CANCEL, &nothing, patience, &ignored);
  }
  if (outcome != ANSWERED) return outcome;
  uint32_t size;
  memcpy(&size, head, 4);
  channel->owed = 0;
  channel->reply.size = 0;
  if (size > MOST_REPLY) return lost(channel, problem);
  if (size > channel->reply.room) {
    uint8_t *grown = realloc(channel->reply.data, size);
    if (!grown) return lost(channel, problem);
    channel->reply.data = grown;
    channel->reply.room = size;
  }
  struct patience all = *patience; /* the rest of an answer is not left behind */
  outcome = receive_all(channel, channel->reply.data, size, deadline, &all, problem);
  while (outcome == INTERRUPTED) outcome = receive_all(channel, channel->reply.data, size, deadline, &all, problem);
  if (outcome != ANSWERED) return outcome;
  channel->reply.size = size;
  if (head[4] == 0) return ANSWERED;
  struct cursor cursor = {channel->reply.data, size, 0};
  int code = (int)cursor_u32(&cursor);
  problem_set(problem, code ? code : SQLITE_ERROR, "%.*s", (int)cursor.left, (const char *)cursor.data);
  return REFUSED;
}
