/* Holds a lock as a ticket's is held: through a mapping only (but for one way). Then lives, in one of several ways.
 *
 *   holder FILE BEATS THREADS MIB WAY
 *
 * Each thread counts in a word of its own of BEATS, for as long as it runs any code at all. "ready" is printed once the lock is
 * held, and "done" once the way is gone. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint64_t *beats;

static void *beat(void *word) {
    volatile uint64_t *mine = word;
    for (;;) ++*mine;
    return 0;
}

static void *ask_for_the_end(void *unused) {
    char byte;
    if (read(0, &byte, 1) < 0) abort();
    syscall(SYS_exit_group, 7);
    return unused;
}

static void say(const char *what) {
    puts(what);
    fflush(stdout);
}

#define SURELY(what) do { if (!(what)) { perror(#what); exit(9); } } while (0)

int main(int argc, char **argv) {
    SURELY(argc == 6);
    const char *path = argv[1], *way = argv[5];
    long threads = atol(argv[3]), mib = atol(argv[4]);

    int shared = open(argv[2], O_RDWR | O_CREAT, 0600);
    SURELY(shared >= 0 && ftruncate(shared, 4096) == 0);
    beats = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    SURELY(beats != MAP_FAILED);
    if (mib > 0) {
        char *much = mmap(0, (size_t)mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        SURELY(much != MAP_FAILED);
        for (size_t at = 0; at < (size_t)mib << 20; at += 4096) much[at] = 1;
    }

    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    SURELY(file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0 && write(file, "x", 1) == 1);
    if (strcmp(way, "keeps-its-descriptor") != 0) {
        SURELY(mmap(0, 1, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED);
        close(file);
    }

    for (long thread = 1; thread < threads; ++thread) {
        pthread_t started;
        SURELY(pthread_create(&started, 0, beat, (void *)&beats[thread]) == 0);
    }
    say("ready");

    if (!strcmp(way, "closes-all") || !strcmp(way, "keeps-its-descriptor")) {
        close_range(3, ~0U, 0);
    } else if (!strcmp(way, "unlocks")) {
        int again = open(path, O_RDWR);
        SURELY(again >= 0 && flock(again, LOCK_UN) == 0);
        close(again);
    } else if (!strcmp(way, "child-closes")) {
        for (int child = 0; child < 20; ++child) {
            pid_t pid = fork();
            if (pid == 0) {
                close_range(3, ~0U, 0);
                _exit(0);
            }
            SURELY(waitpid(pid, 0, 0) == pid);
        }
    } else if (!strcmp(way, "spawns")) {
        SURELY(system("true") == 0);
    } else if (!strcmp(way, "forks")) {
        if (fork() == 0) {
            beats[101] = (uint64_t)getpid();
            say("done");
            beat((void *)&beats[100]);
        }
        _exit(0);
    } else if (!strcmp(way, "exits-all")) {
        pthread_t started;
        SURELY(pthread_create(&started, 0, ask_for_the_end, 0) == 0);
    } else if (!strcmp(way, "dumps")) {
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        SURELY(setrlimit(RLIMIT_CORE, &all) == 0);
    } else if (!strcmp(way, "eats")) {
        char byte;
        say("done");
        SURELY(read(0, &byte, 1) >= 0);
        for (;;) {
            char *more = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            for (size_t at = 0; more != MAP_FAILED && at < 1 << 20; at += 4096) more[at] = 1;
            ++beats[0];
        }
    } else if (!strcmp(way, "executes")) {
        char byte;
        say("done");
        SURELY(read(0, &byte, 1) >= 0);
        execlp("sleep", "sleep", "30", (char *)0);
    }
    say("done");
    beat((void *)&beats[0]);
}
