/* Finding the helper process that reads a replica, and starting it where none runs.
 *
 * There is one for each user, replica and environment, so that nobody's credentials serve another. Its socket lies in
 * a folder of the user's own, under a name that tells nothing: a keyed hash of what the helper is for. */
#define _GNU_SOURCE
#include "python.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sqlite/sqlite3.h"

#define PROTOCOL "1"

enum { KEY_SIZE = 16, NAME_SIZE = 108, WAIT_MS = 5, BACKLOG = 64 };

extern char **environ;

/* What the helper runs first. Descriptors of the host are closed: a pipe held open would never end for its reader.
 * Modules that others import for rare cases, and that take an eighth of the start, are loaded when they are used. */
static const char BOOT[] = "import _thread, gc, importlib, os, sys\n"
                           "gc.disable()\n" /* what is loaded stays: looking through it takes time */
                           "if sys.argv[2]: os.chdir(sys.argv[2])\n"
                           "class Later(type(sys)):\n"
                           "    lock = _thread.allocate_lock()\n"
                           "    def __getattr__(self, name):\n"
                           "        if name.startswith('__'): raise AttributeError(name)\n"
                           "        with Later.lock:\n"
                           "            if sys.modules.get(self.__name__) is self: del sys.modules[self.__name__]\n"
                           "        return getattr(importlib.import_module(self.__name__), name)\n"
                           "for name in 'inspect', 'ipaddress', 'traceback':\n"
                           "    sys.modules.setdefault(name, Later(name))\n"
                           "os.closerange(4, os.sysconf('SC_OPEN_MAX'))\n"
                           "if sys.argv[1]: sys.path.insert(0, sys.argv[1])\n"
                           "from vfs.serve import main\n"
                           "gc.freeze()\n"
                           "gc.enable()\n"
                           "main()\n";

/* What is open while a helper is started, under the lock; else -1. A child that another thread forks meanwhile would keep
 * the lock taken, the socket answering for nobody, and the pipe from ending. */
enum { LOCKING, LISTENING, WRITING, ERRORS, HELD };
static int held[HELD] = {-1, -1, -1, -1};

/* Standard error of a helper that this thread started and has not heard from. */
static _Thread_local int started = -1;

/* Variables that change from one terminal or moment to the next and mean nothing to a storage. */
static int is_idle(const char *variable) {
  static const char *const names[] = {"_",     "COLORTERM", "COLUMNS", "LINES", "LITESTREAM_PYTHON", "LITESTREAM_REPLICA_URL",
                                      "LS_COLORS", "OLDPWD",  "PS1",   "PWD",   "SHLVL", "TERM",     "WINDOWID"};
  for (size_t place = 0; place < sizeof names / sizeof *names; place++) {
    size_t size = strlen(names[place]);
    if (strncmp(variable, names[place], size) == 0 && variable[size] == '=') return 1;
  }
  return 0;
}

static int in_order(const void *left, const void *right) {
  return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static void add_environment(struct buffer *buffer) {
  size_t count = 0, kept = 0;
  while (environ && environ[count]) count++;
  char **sorted = malloc((count + 1) * sizeof *sorted);
  if (!sorted) {
    buffer->failed = 1;
    return;
  }
  for (size_t place = 0; place < count; place++)
    if (!is_idle(environ[place])) sorted[kept++] = environ[place];
  qsort(sorted, kept, sizeof *sorted, in_order);
  for (size_t place = 0; place < kept; place++) buffer_add_text(buffer, sorted[place]);
  free(sorted);
}

static int is_ours(const char *path) {
  struct stat found;
  return lstat(path, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() && !(found.st_mode & 077);
}

/* Make a folder that nobody else can enter, in the place for such things. */
static int find_folder(char *folder, size_t size, struct problem *problem) {
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  if (runtime && *runtime == '/' && strlen(runtime) < size - sizeof "/ltx/0123456789abcdef0123456789abcdef") {
    (void)snprintf(folder, size, "%s/ltx", runtime);
    if ((mkdir(folder, 0700) == 0 || errno == EEXIST) && is_ours(folder)) return 0;
  }
  (void)snprintf(folder, size, "/tmp/ltx-%u", (unsigned)geteuid());
  if ((mkdir(folder, 0700) == 0 || errno == EEXIST) && is_ours(folder)) return 0;
  problem_set(problem, SQLITE_CANTOPEN, "%s must be a folder that only you can enter: remove it", folder);
  return -1;
}

static int pause_for(const struct patience *patience, int *waited_ms, struct problem *problem, const char *what) {
  struct timespec pause = {0, WAIT_MS * 1000000L};
  if (patience->is_interrupted(patience->context)) {
    problem_set(problem, SQLITE_INTERRUPT, "interrupted");
    return -1;
  }
  if ((*waited_ms += WAIT_MS) > patience->timeout_ms) {
    problem_set(problem, SQLITE_IOERR, "%s is busy with other programs that open replicas: try again", what);
    return -1;
  }
  (void)nanosleep(&pause, NULL);
  return 0;
}

/* Take the one lock of the folder; helpers are started and end under it. */
static int take_lock(const char *folder, const struct patience *patience, struct problem *problem) {
  char path[NAME_SIZE + 32];
  int waited_ms = 0;
  (void)snprintf(path, sizeof path, "%s/lock", folder);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    problem_set(problem, SQLITE_CANTOPEN, "%s: %s", path, strerror(errno));
    return -1;
  }
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (pause_for(patience, &waited_ms, problem, path) != 0) {
      (void)close(fd);
      return -1;
    }
  }
  return fd;
}

/* Read the user's key; make it at the first time. Under the lock. */
static int read_key(const char *folder, uint64_t key[2], struct problem *problem) {
  char path[NAME_SIZE + 32];
  (void)snprintf(path, sizeof path, "%s/key", folder);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  ssize_t had = fd < 0 ? -1 : read(fd, key, KEY_SIZE);
  if (had >= 0 && had < KEY_SIZE) {
    int source = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    had = source < 0 ? -1 : read(source, key, KEY_SIZE);
    if (source >= 0) (void)close(source);
    if (had == KEY_SIZE && pwrite(fd, key, KEY_SIZE, 0) != KEY_SIZE) had = -1;
  }
  if (fd >= 0) (void)close(fd);
  if (had == KEY_SIZE) return 0;
  problem_set(problem, SQLITE_CANTOPEN, "%s cannot be made: %s", path, strerror(errno));
  return -1;
}

static int name_socket(struct sockaddr_un *address, const char *folder, const uint64_t key[2], const char *url,
                       const struct python *python, struct problem *problem) {
  struct buffer purpose = {0};
  char here[PATH_MAX] = "";
  buffer_add_text(&purpose, PROTOCOL);
  buffer_add_text(&purpose, url);
  buffer_add_text(&purpose, python->program);
  buffer_add_text(&purpose, python->folder);
  buffer_add_text(&purpose, strstr(url, "://") ? "" : getcwd(here, sizeof here)); /* what a relative path means */
  add_environment(&purpose);
  if (purpose.failed) {
    buffer_free(&purpose);
    problem_set(problem, SQLITE_NOMEM, "out of memory");
    return -1;
  }
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  (void)snprintf(address->sun_path, sizeof address->sun_path, "%.74s/%016llx%016llx", folder,
                 (unsigned long long)siphash(key[0], key[1], purpose.data, purpose.size),
                 (unsigned long long)siphash(~key[1], key[0], purpose.data, purpose.size));
  buffer_free(&purpose);
  return 0;
}

static int new_socket(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 10); /* clear of the helper's 0 to 3 */
  if (fd >= 0) (void)close(fd);
#ifdef SO_NOSIGPIPE
  int on = 1;
  if (high >= 0) (void)setsockopt(high, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  return high;
}

static int is_the_users(int fd) {
#ifdef SO_PEERCRED
  struct ucred peer;
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
#else
  uid_t user;
  gid_t group;
  return getpeereid(fd, &user, &group) == 0 && user == geteuid();
#endif
}

/* Connect to a helper that runs; -1 where none does. One that is busy accepting others is waited for. */
static int try_connect(const struct sockaddr_un *address, const struct patience *patience, struct problem *problem) {
  int fd = new_socket(), waited_ms = 0;
  if (fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) return -1;
  int done;
  while ((done = connect(fd, (const struct sockaddr *)address, sizeof *address)) != 0) {
    if (errno == EAGAIN && pause_for(patience, &waited_ms, problem, address->sun_path) == 0) continue;
    if (errno != EINTR) break;
  }
  if (done == 0 && is_the_users(fd)) return fd;
  (void)close(fd);
  return -1;
}

/* Start a helper that listens on a socket, so that it can be connected to at once. The shell in between keeps it from
 * being a child of the host, who would have to wait for it. */
static int start(const struct python *python, const char *url, int listening, int errors) {
  static const char shell[] = "/bin/sh", script[] = "\"$@\" &", name[] = "litestream";
  char *const arguments[] = {(char *)(uintptr_t)shell,
                             (char *)(uintptr_t)"-c",
                             (char *)(uintptr_t)script,
                             (char *)(uintptr_t)name,
                             (char *)(uintptr_t)python->program,
                             (char *)(uintptr_t)"-EP",
                             (char *)(uintptr_t)"-c",
                             (char *)(uintptr_t)BOOT,
                             (char *)(uintptr_t)python->folder,
                             /* Where a URL says it all, no folder of the host's is held. */
                             (char *)(uintptr_t)(strstr(url, "://") ? "/" : ""),
                             NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  pid_t child;
  (void)sigemptyset(&none);
  (void)sigfillset(&all);
  int failed = posix_spawn_file_actions_init(&actions);
  if (failed) return failed;
  failed = posix_spawnattr_init(&attributes);
  if (!failed) {
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_RDWR, 0);
    (void)posix_spawn_file_actions_adddup2(&actions, errors, 2);
    (void)posix_spawn_file_actions_adddup2(&actions, listening, 3);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setsigdefault(&attributes, &all);
    (void)posix_spawnattr_setflags(&attributes,
                                   POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    failed = posix_spawn(&child, shell, &actions, &attributes, arguments, environ);
    (void)posix_spawnattr_destroy(&attributes);
  }
  (void)posix_spawn_file_actions_destroy(&actions);
  if (failed) return failed;
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
  return 0;
}

static void let_go(int which) {
  int fd = held[which];
  held[which] = -1;
  if (fd >= 0) (void)close(fd);
}

static void let_go_in_child(void) {
  for (int which = 0; which < HELD; which++) let_go(which);
}

static void register_child(void) { (void)pthread_atfork(NULL, NULL, let_go_in_child); }

static int start_listening(const struct sockaddr_un *address, const struct python *python, const char *url,
                           struct problem *problem) {
  int ends[2] = {-1, -1}, failed = 0;
  (void)unlink(address->sun_path); /* of a helper that was killed */
  int listening = held[LISTENING] = new_socket();
  if (listening < 0 || bind(listening, (const struct sockaddr *)address, sizeof *address) != 0 ||
      listen(listening, BACKLOG) != 0 || pipe(ends) != 0)
    failed = errno;
  held[WRITING] = ends[1];
  if (!failed) {
    (void)fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    held[ERRORS] = fcntl(ends[1], F_DUPFD_CLOEXEC, 10);
    failed = held[ERRORS] < 0 ? errno : 0;
    let_go(WRITING);
  }
  if (!failed) failed = start(python, url, listening, held[ERRORS]);
  let_go(ERRORS);
  let_go(LISTENING);
  if (failed) {
    if (ends[0] >= 0) (void)close(ends[0]);
    (void)unlink(address->sun_path);
    problem_set(problem, SQLITE_CANTOPEN, "the process that reads the replica cannot be started: %s",
                strerror(failed));
    return -1;
  }
  helper_forget();
  started = ends[0];
  return 0;
}

int helper_connect(const char *url, const struct patience *patience, struct problem *problem) {
  char folder[NAME_SIZE];
  uint64_t key[2];
  struct python python;
  struct sockaddr_un address;
  static pthread_once_t registered = PTHREAD_ONCE_INIT;
  (void)pthread_once(&registered, register_child);
  if (find_folder(folder, sizeof folder, problem) != 0) return -1;
  find_python(&python);
  int lock = take_lock(folder, patience, problem);
  if (lock < 0) return -1;
  held[LOCKING] = lock;
  int fd = -1;
  if (read_key(folder, key, problem) == 0 && name_socket(&address, folder, key, url, &python, problem) == 0) {
    fd = try_connect(&address, patience, problem);
    if (fd < 0 && start_listening(&address, &python, url, problem) == 0) {
      fd = try_connect(&address, patience, problem);
      if (fd < 0) {
        problem_set(problem, SQLITE_CANTOPEN, "%s: %s", address.sun_path, strerror(errno));
        helper_explain(problem); /* it may have ended already */
      }
    }
  }
  held[LOCKING] = -1; /* before others can take it, and note that they have it */
  (void)flock(lock, LOCK_UN); /* not by closing alone: a child may have it, too */
  (void)close(lock);
  return fd;
}

void helper_forget(void) {
  if (started >= 0) (void)close(started);
  started = -1;
}

/* Wait until the helper that this thread started says something or closes its standard error. */
static short wait_for_word(void) {
  struct pollfd polled = {started, POLLIN, 0};
  int64_t deadline = now_ms() + START_MS, left;
  while ((left = deadline - now_ms()) > 0)
    if (poll(&polled, 1, (int)left) >= 0 || errno != EINTR) break;
  return polled.revents;
}

int helper_await(void) {
  /* It closes its standard error when it is ready; a word there says that it will never be. */
  return started < 0 || (wait_for_word() & (POLLIN | POLLHUP)) == POLLHUP;
}

void helper_explain(struct problem *problem) {
  char said[4096];
  size_t size = 0;
  if (started < 0) return;
  while (size < sizeof said - 1) {
    if (!wait_for_word()) break;
    ssize_t had = read(started, said + size, sizeof said - 1 - size);
    if (had <= 0) break;
    size += (size_t)had;
  }
  helper_forget();
  while (size && (said[size - 1] == '\n' || said[size - 1] == ' ')) size--;
  said[size] = 0;
  char *line = strrchr(said, '\n');
  line = line ? line + 1 : said;
  if (*line)
    problem_set(problem, SQLITE_CANTOPEN,
                "the process that reads the replica did not start: %.600s (LITESTREAM_PYTHON can name the Python "
                "that ltx is installed for)",
                line);
}
