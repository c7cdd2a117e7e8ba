/* Which Python this file was installed for. A wheel is built elsewhere: what is around the file tells. */
#define _GNU_SOURCE
#include "python.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSION_SIZE = 32, LONGER = PATH_MAX + 64 };

/* Cut the last part off a path, and return it; NULL where there is none. */
static const char *cut_last(char *path) {
  char *slash = strrchr(path, '/');
  if (!slash) return NULL;
  *slash = 0;
  return slash + 1;
}

static int take_program(struct python *python, const char *path) {
  if (strlen(path) >= sizeof python->program || access(path, X_OK) != 0) return 0;
  (void)strcpy(python->program, path);
  return 1;
}

/* Find the folder that the package `vfs` lies in, if this file is inside it. */
static int find_package(char *folder) {
  char beside[LONGER];
  Dl_info where;
  if (!dladdr((void *)(uintptr_t)&find_python, &where) || !where.dli_fname || !realpath(where.dli_fname, folder))
    return 0;
  for (int up = 0; up < 3; up++)
    if (!cut_last(folder)) return 0;
  (void)snprintf(beside, sizeof beside, "%s/vfs/serve/__init__.py", folder);
  return access(beside, R_OK) == 0;
}

/* In PREFIX/lib/pythonX.Y/site-packages it is PREFIX/bin/pythonX.Y, or that name on the search path: Debian's folder
 * and a user's own have no bin of their own. */
static int take_of_prefix(struct python *python, const char *packages, char version[VERSION_SIZE]) {
  char path[PATH_MAX], program[LONGER];
  (void)strcpy(path, packages);
  const char *last = cut_last(path);
  if (!last || !strstr(last, "-packages")) return 0;
  last = cut_last(path);
  if (!last || strncmp(last, "python", 6) != 0 || strlen(last) >= VERSION_SIZE) return 0;
  (void)strcpy(version, last);
  if (!cut_last(path)) return 0;
  (void)snprintf(program, sizeof program, "%s/bin/%s", path, version);
  return take_program(python, program);
}

void find_python(struct python *python) {
  char version[VERSION_SIZE] = "python3", program[LONGER];
  python->program[0] = 0;
  if (!find_package(python->folder)) python->folder[0] = 0;
  const char *named = getenv("LITESTREAM_PYTHON"), *environment = getenv("VIRTUAL_ENV");
  if (named && *named && strlen(named) < sizeof python->program) {
    (void)strcpy(python->program, named);
    return;
  }
  if (*python->folder && take_of_prefix(python, python->folder, version)) return;
#ifdef BUILT_FOR /* an editable installation: the package lies in the sources */
  if (take_program(python, BUILT_FOR)) return;
#endif
  if (environment && *environment && strlen(environment) < PATH_MAX) {
    (void)snprintf(program, sizeof program, "%s/bin/python", environment);
    if (take_program(python, program)) return;
  }
  (void)strcpy(python->program, version);
}
