/* LD_PRELOAD: counts the calls of malloc and its kin by the name of the calling thread, for tests of the frame path.
 *
 * A name that starts with "zlay-" has a counter of its own (numbers at its end left out); all others share one. The
 * real functions are glibc's, by their internal names: dlsym itself allocates.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>

enum { NAMES = 16, NAME_SIZE = 16 };

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static char names[NAMES][NAME_SIZE];
static atomic_ulong counts[NAMES];
static atomic_int used;
static atomic_flag adding = ATOMIC_FLAG_INIT;

static int find(const char *name, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static void count(void) {
    char name[NAME_SIZE + 1] = "";
    int i;
    prctl(PR_GET_NAME, name);
    if (strncmp(name, "zlay-", 5)) strcpy(name, "others");
    else
        for (size_t end = strlen(name); end && name[end - 1] >= '0' && name[end - 1] <= '9'; end--) name[end - 1] = 0;
    if ((i = find(name, atomic_load(&used))) < 0) {
        while (atomic_flag_test_and_set(&adding)) {}
        if ((i = find(name, atomic_load(&used))) < 0 && (i = atomic_load(&used)) < NAMES) {
            memcpy(names[i], name, NAME_SIZE);
            atomic_store(&used, i + 1);
        }
        atomic_flag_clear(&adding);
    }
    if (i < NAMES) atomic_fetch_add(&counts[i], 1);
}

/* What a thread of this name has called so far; 0 for a name that never called. */
unsigned long malloc_calls(const char *name) {
    int i = find(name, atomic_load(&used));
    return i < 0 ? 0 : atomic_load(&counts[i]);
}

/* The name with this number; NULL = there are no more. */
const char *malloc_caller(int i) { return i < atomic_load(&used) ? names[i] : NULL; }

void *malloc(size_t n) { count(); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { count(); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { count(); return __libc_realloc(p, n); }
void *memalign(size_t align, size_t n) { count(); return __libc_memalign(align, n); }
void *aligned_alloc(size_t align, size_t n) { count(); return __libc_memalign(align, n); }
int posix_memalign(void **p, size_t align, size_t n) {
    count();
    *p = __libc_memalign(align, n);
    return *p ? 0 : ENOMEM;
}
