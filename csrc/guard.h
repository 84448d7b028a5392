/* The lock of what is no hot call: guard.c. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds the type `Guard` to the module: 0, or -1 with an exception. */
int guard_add_to(PyObject *module);
