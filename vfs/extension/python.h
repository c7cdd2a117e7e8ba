/* The Python that runs the helper process. */
#ifndef PYTHON_H
#define PYTHON_H

#include <limits.h>

#include "litestream.h"

struct python {
  char program[PATH_MAX]; /* a path, or a name to look for on the search path */
  char folder[PATH_MAX];  /* the one that `vfs` lies in; empty where this file lies alone */
};

/* Find the Python that this file was installed for, or the one that LITESTREAM_PYTHON names. */
void find_python(struct python *python);

#endif
