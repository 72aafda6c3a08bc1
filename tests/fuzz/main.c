/* The start of every fuzzing program: an interpreter that imports the target and the topics it is made of.
 *
 * All of them are built in (zl_modules, written by build.py): nothing of zlay is loaded from elsewhere, so nothing runs
 * without the sanitizers. The thread then detaches; no Python runs while inputs do.
 */
#include <Python.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/lsan_interface.h>
#define ZL_LEAKS_OFF() __lsan_disable()
#define ZL_LEAKS_ON() __lsan_enable()
#endif
#endif
#ifndef ZL_LEAKS_OFF
#define ZL_LEAKS_OFF() ((void)0)
#define ZL_LEAKS_ON() ((void)0)
#endif

extern struct _inittab zl_modules[];
extern const char *zl_target; /* its dotted name */
extern const char *zl_home;   /* the interpreter's prefix */
extern const char *zl_root;   /* the project */

static const char check_origins[] =
    "import sys\n"
    "strange = [n for n, m in sys.modules.items() if n.startswith('zlay._fast.') and m.__spec__.origin != 'built-in']\n"
    "if strange: raise ImportError(f'not built in, so not watched: {strange}')\n";

static void give_up(const char *what) {
    if (PyErr_Occurred()) PyErr_Print();
    fprintf(stderr, "fuzz: %s\n", what);
    _Exit(3);
}

static void start_interpreter(void) {
    PyConfig config;
    PyStatus status;
    PyObject *path, *root;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 0;
    status = PyConfig_SetBytesString(&config, &config.home, zl_home);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) give_up("the interpreter does not start");
    path = PySys_GetObject("path"); /* borrowed */
    root = PyUnicode_FromString(zl_root);
    if (!path || !root || PyList_Append(path, root) != 0) give_up("no sys.path");
    Py_DECREF(root);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    ZL_LEAKS_OFF(); /* what the interpreter keeps lies in mappings that the leak checker does not look into */
    if (PyImport_ExtendInittab(zl_modules) != 0) give_up("no memory");
    start_interpreter();
    if (!PyImport_ImportModule(zl_target)) give_up("the target cannot be imported");
    if (PyRun_SimpleString(check_origins) != 0) give_up("a topic is missing");
    (void)PyEval_SaveThread();
    ZL_LEAKS_ON();
    return 0;
}
