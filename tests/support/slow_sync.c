/* Preloaded: makes each sync of a file take SYNC_MS milliseconds longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int after_a_while(const char *name, int file) {
    long milliseconds = atol(getenv("SYNC_MS"));
    struct timespec span = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&span, 0);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(file);
}

int fdatasync(int file) { return after_a_while("fdatasync", file); }
int fsync(int file) { return after_a_while("fsync", file); }
