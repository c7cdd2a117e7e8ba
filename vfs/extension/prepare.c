/* What a query will need, made ready when the library is loaded.
 *
 * A Python takes longer to start than a query of a folder takes (docs/design/0009-helper-process.md). An application loads
 * its extensions when it starts, and queries when somebody waits. */
#define _GNU_SOURCE
#include "litestream.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

enum { OPEN_MS = 50 };

static int is_never_interrupted(void *context) {
  (void)context;
  return 0;
}

/* Whether opening a replica takes no network. */
static int is_near(const char *url) { return !strstr(url, "://") || strncmp(url, "file://", 7) == 0; }

/* Let the helper look at the replica: whoever opens it within the poll interval finds it known. */
static void look_at(const char *url, int fd) {
  struct channel channel;
  struct patience patience = {is_never_interrupted, NULL, OPEN_MS};
  struct problem ignored;
  struct buffer opening = {0};
  char here[PATH_MAX];
  const uint64_t newest = 0;
  memset(&channel, 0, sizeof channel);
  channel.fd = fd;
  channel.owner = getpid();
  buffer_add(&opening, &newest, sizeof newest);
  buffer_add_text(&opening, ""); /* no label */
  buffer_add_text(&opening, url);
  buffer_add_text(&opening, getcwd(here, sizeof here) ? here : "/");
  buffer_add_text(&opening, "hydrate"); /* whatever the environment wants: nobody has opened anything yet */
  buffer_add_text(&opening, "0");
  if (channel_send(&channel, OPEN, &opening, &patience, &ignored) == ANSWERED)
    (void)channel_receive(&channel, OPEN, &patience, &ignored);
  buffer_free(&opening);
  channel_close(&channel);
}

void prepare(const char *url) {
  struct patience patience = {is_never_interrupted, NULL, START_MS};
  struct problem ignored;
  /* Never closed: a process that has loaded the library is a client for as long as it lives. */
  int client = helper_connect(url, &patience, &ignored);
  int is_ready = client >= 0 && helper_await();
  helper_forget();
  int other = is_ready && is_near(url) ? helper_connect(url, &patience, &ignored) : -1;
  if (other >= 0) look_at(url, other);
}
