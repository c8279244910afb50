/* Ends the program, or has a system call fail, at the Nth call that changes something outside of it.
 *
 * Preloaded (LD_PRELOAD) into a program under test.  The file that FAULTS names is mapped, and holds what the
 * test wants:
 *
 *   calls   how many such calls there were since "armed" was set
 *   armed   0: only look on
 *   at      the call at which it happens, 0: never
 *   how     0: killed before the call; 1: killed when half of what it writes is written; else the errno with
 *           which this call and all that follow fail, if it is one of "which"
 *   which   bits: 1 writes to files, 2 syncs, 4 fork, 8 new descriptors
 *   ended   set when it has happened
 *   ahead   seconds that the clock of the day is ahead
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct plan {
    _Atomic long calls, armed, at, how, which, ended, ahead;
};

static struct plan *plan;

static struct plan *kept;

/* whether the faults are for others, until further notice */
void spare_this_process(int spare)
{
    if (spare && plan) {
        kept = plan;
        plan = 0;
    } else if (!spare && kept) {
        plan = kept;
    }
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, name)

enum { WRITES = 1, SYNCS = 2, FORKS = 4, DESCRIPTORS = 8 };

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0)
        return;
    void *at = mmap(0, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    close(fd);
    if (at != MAP_FAILED)
        plan = at;
}

static void end_it(void)
{
    plan->ended = 1;
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* 0: go on; 1: write half, then end; -1: fail with errno */
static int look(int kind)
{
    if (!plan || !plan->armed)
        return 0;
    if (plan->ended && plan->how < 2)
        for (;;)
            pause();            /* who is not ours to kill does nothing more */
    if (plan->how > 1) {
        if (!(plan->which & kind) || plan->calls++ + 1 < plan->at || !plan->at)
            return 0;
        plan->ended = 1;
        errno = (int) plan->how;
        return -1;
    }
    if (kind & ~(WRITES | SYNCS))
        return 0;
    if (++plan->calls != plan->at)
        return 0;
    if (plan->how == 0)
        end_it();
    return 1;
}

static int is_file(int fd)
{
    return lseek(fd, 0, SEEK_CUR) >= 0;
}

#define FAILING(fd) (plan && plan->how > 1 && !is_file(fd))

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    int what = FAILING(fd) ? 0 : look(WRITES);

    if (what < 0)
        return -1;
    if (what) {
        real(fd, data, size / 2);
        end_it();
    }
    return real(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    int what = look(WRITES);

    if (what < 0)
        return -1;
    if (what) {
        real(fd, data, size / 2, at);
        end_it();
    }
    return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return pwrite(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    int what = FAILING(fd) ? 0 : look(WRITES);

    if (what < 0)
        return -1;
    if (what)
        end_it();
    return real(fd, parts, count);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(ssize_t, "send", int, const void *, size_t, int);
    int what = plan && plan->how > 1 ? 0 : look(WRITES);

    if (what > 0) {
        real(fd, data, size / 2, flags);
        end_it();
    }
    return real(fd, data, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    REAL(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if ((plan && plan->how > 1 ? 0 : look(WRITES)) > 0)
        end_it();
    return real(fd, data, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
    if ((plan && plan->how > 1 ? 0 : look(WRITES)) > 0)
        end_it();
    return real(fd, message, flags);
}

#define SYNC(name, kind) \
int name(int fd) \
{ \
    REAL(int, #name, int); \
    int what = look(kind); \
    if (what < 0) \
        return -1; \
    if (what) \
        end_it(); \
    return real(fd); \
}

SYNC(fsync, SYNCS)
SYNC(fdatasync, SYNCS)

int ftruncate(int fd, off_t size)
{
    REAL(int, "ftruncate", int, off_t);
    int what = look(WRITES);

    if (what < 0)
        return -1;
    if (what)
        end_it();
    return real(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

#define PATHS(name, declared, given) \
int name declared \
{ \
    REAL(int, #name, const char *, const char *); \
    int what = look(WRITES); \
    if (what < 0) \
        return -1; \
    if (what) \
        end_it(); \
    return real given; \
}

PATHS(rename, (const char *from, const char *to), (from, to))

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    if ((plan && plan->how > 1 ? 0 : look(WRITES)) > 0)
        end_it();
    return real(path);
}

pid_t fork(void)
{
    REAL(pid_t, "fork", void);
    return look(FORKS) < 0 ? -1 : real();
}

int socket(int domain, int type, int protocol)
{
    REAL(int, "socket", int, int, int);
    return look(DESCRIPTORS) < 0 ? -1 : real(domain, type, protocol);
}

int accept4(int fd, struct sockaddr *peer, socklen_t *length, int flags)
{
    REAL(int, "accept4", int, struct sockaddr *, socklen_t *, int);
    return look(DESCRIPTORS) < 0 ? -1 : real(fd, peer, length, flags);
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int result = real(which, now);

    if (plan && result == 0 && which == CLOCK_REALTIME)
        now->tv_sec += plan->ahead;
    return result;
}

#define OPEN(name) \
int name(const char *path, int flags, ...) \
{ \
    REAL(int, #name, const char *, int, ...); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    return look(DESCRIPTORS) < 0 ? -1 : real(path, flags, mode); \
}

OPEN(open)
OPEN(open64)
