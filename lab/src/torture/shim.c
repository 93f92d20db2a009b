/* Lets `handover` end or fail exactly at a journal record or an event of its output, without a change of the program. Loaded by
 * LD_PRELOAD into every program that inherits the environment; awake only in `handover` with one of the wanted subcommands.
 *
 *   TORTURE_IN       subcommands, separated by commas: `apply,rollback`
 *   TORTURE_PATTERN  the text that is waited for, in what is written to standard output or to the store's write-ahead log
 *   TORTURE_NTH      the how manieth of them counts (default 1). Pages of the log are written again with every commit on them: in the
 *                    log, only the first is exact
 *   TORTURE_AT       `before`: instead of the write. `after`: after it, for the log after its next sync. A number: so many
 *                    milliseconds after that
 *   TORTURE_DO       `kill`: SIGKILL. `stop`: SIGSTOP. `eio`: from here on each sync of the log fails. `enospc`: each write to it
 *   TORTURE_WITH     a subcommand of `handover` whose processes are killed first: `guard`
 *   TORTURE_MARK     a file that is made when it happens
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>

enum { ASLEEP, WAITING, ARMED, DONE };

static atomic_int state = ASLEEP;
static atomic_int seen = 0;
static atomic_int broken = 0;
static const char *pattern, *at, *what, *with, *mark;
static size_t pattern_length;
static int nth = 1;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

/* The arguments of a process, each ended by a zero byte; returns the second one if the first is `handover`. */
static const char *subcommand(const char *cmdline, char *buffer, size_t size) {
    int fd = open(cmdline, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    ssize_t length = read(fd, buffer, size - 1);
    close(fd);
    if (length <= 0) return NULL;
    buffer[length] = 0;
    const char *slash = strrchr(buffer, '/');
    const char *name = slash ? slash + 1 : buffer;
    const char *second = buffer + strlen(buffer) + 1;
    return strcmp(name, "handover") == 0 && second < buffer + length ? second : NULL;
}

static int listed(const char *word, const char *list) {
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length) {
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == 0)) return 1;
    }
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    static char buffer[4096];
    const char *in = getenv("TORTURE_IN"), *own = subcommand("/proc/self/cmdline", buffer, sizeof buffer);
    pattern = getenv("TORTURE_PATTERN"), at = getenv("TORTURE_AT"), what = getenv("TORTURE_DO");
    with = getenv("TORTURE_WITH"), mark = getenv("TORTURE_MARK");
    if (getenv("TORTURE_NTH")) nth = atoi(getenv("TORTURE_NTH"));
    if (!in || !own || !pattern || !at || !what || !listed(own, in)) return;
    pattern_length = strlen(pattern);
    state = WAITING;
}

static void kill_those_with(void) {
    static char buffer[4096];
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        char path[300];
        pid_t pid = atoi(entry->d_name);
        if (pid <= 1 || pid == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        const char *other = subcommand(path, buffer, sizeof buffer);
        if (other && strcmp(other, with) == 0) kill(pid, SIGKILL);
    }
    if (processes) closedir(processes);
}

static void act(void) {
    if (mark) close(open(mark, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    if (with) kill_those_with();
    if (strcmp(what, "kill") == 0) raise(SIGKILL), kill(getpid(), SIGKILL);
    else if (strcmp(what, "stop") == 0) kill(getpid(), SIGSTOP);
    else broken = 1;
}

static void *later(void *unused) {
    (void)unused;
    long ms = atol(at);
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {}
    act();
    return NULL;
}

/* It has been written, and synced where that belongs to it. */
static void happened(void) {
    state = DONE;
    pthread_t thread;
    if (strcmp(at, "after") == 0) act();
    else if (pthread_create(&thread, NULL, later, NULL) == 0) pthread_detach(thread);
}

static int is_log(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    return length > 4 && memcmp(path + length - 4, "-wal", 4) == 0;
}

/* Before a write; true if it must fail for want of room. */
static int before(int fd, const void *bytes, size_t length) {
    if (broken && strcmp(what, "enospc") == 0 && is_log(fd)) return 1;
    if (state != WAITING || length < pattern_length || !memmem(bytes, length, pattern, pattern_length)) return 0;
    int log = is_log(fd);
    if ((!log && fd != 1) || atomic_fetch_add(&seen, 1) + 1 != nth) return 0;
    if (strcmp(at, "before") == 0) {
        state = DONE;
        act();
        return broken && strcmp(what, "enospc") == 0;
    }
    if (log) state = ARMED;
    return 0;
}

static void after(int fd, const void *bytes, size_t length) {
    if (fd == 1 && state == WAITING && seen >= nth && memmem(bytes, length, pattern, pattern_length)) happened();
}

#define WRITING(call)                                   \
    int saved;                                          \
    if (state == ASLEEP) return call;                   \
    if (before(fd, bytes, length)) {                    \
        errno = ENOSPC;                                 \
        return -1;                                      \
    }                                                   \
    ssize_t written = call;                             \
    saved = errno;                                      \
    after(fd, bytes, length);                           \
    errno = saved;                                      \
    return written;

ssize_t write(int fd, const void *bytes, size_t length) {
    if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
    WRITING(real_write(fd, bytes, length))
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    if (!real_pwrite) real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    WRITING(real_pwrite(fd, bytes, length, offset))
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    if (!real_pwrite64) real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
    WRITING(real_pwrite64(fd, bytes, length, offset))
}

static int synced(int fd, int (*real)(int)) {
    if (state == ASLEEP || !is_log(fd)) return real(fd);
    if (broken && strcmp(what, "eio") == 0) {
        errno = EIO;
        return -1;
    }
    int result = real(fd), saved = errno;
    if (state == ARMED) {
        happened();
        if (broken && strcmp(what, "eio") == 0) {
            errno = EIO;
            return -1;
        }
    }
    errno = saved;
    return result;
}

int fsync(int fd) {
    if (!real_fsync) real_fsync = dlsym(RTLD_NEXT, "fsync");
    return synced(fd, real_fsync);
}

int fdatasync(int fd) {
    if (!real_fdatasync) real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    return synced(fd, real_fdatasync);
}
