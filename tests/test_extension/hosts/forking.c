/* A host that forks, in one thread, while another one loads the library: `forking LIBRARY MICROSECONDS`. The child goes on.
 * It prints how long loading and opening took, in milliseconds, and how many rows there are. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sqlite3.h"

static int after_us;
static pid_t child;

static double now_ms(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void *forks(void *unused) {
  (void)usleep((useconds_t)after_us);
  child = fork();
  if (child == 0) {
    (void)sleep(60);
    _exit(0);
  }
  return unused;
}

int main(int count, char **words) {
  sqlite3 *db, *replica = NULL;
  sqlite3_stmt *statement;
  pthread_t thread;
  char *error = NULL;
  if (count != 3) return 2;
  after_us = atoi(words[2]);
  (void)sqlite3_open(":memory:", &db);
  (void)sqlite3_enable_load_extension(db, 1);
  double began = now_ms();
  (void)pthread_create(&thread, NULL, forks, NULL);
  int code = sqlite3_load_extension(db, words[1], NULL, &error);
  double loaded = now_ms();
  (void)pthread_join(thread, NULL);
  double joined = now_ms();
  if (code == SQLITE_OK)
    code = sqlite3_open_v2("file:a.db?vfs=litestream", &replica, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
  double opened = now_ms();
  if (code != SQLITE_OK) (void)fprintf(stderr, "%s\n", error ? error : sqlite3_errmsg(replica));
  if (code == SQLITE_OK) code = sqlite3_prepare_v2(replica, "SELECT count(*) FROM t", -1, &statement, NULL);
  if (code == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
    printf("%.0f %.0f %d\n", loaded - began, opened - joined, sqlite3_column_int(statement, 0));
  (void)kill(child, SIGKILL);
  (void)waitpid(child, NULL, 0);
  return code;
}
