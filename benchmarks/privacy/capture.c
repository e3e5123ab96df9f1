/* Keeps a copy of every byte that a process hands to a socket or a pipe, or prints: load it with LD_PRELOAD.
 *
 * The copies lie in the folder that SWARM_BENCH_CAPTURE names, one file a process and descriptor: PID-FD.bytes. What is
 * copied is what the kernel took: the result of the call says how much. Ways out that cannot be copied cheaply
 * (sendfile, splice, vmsplice, io_uring, raw system calls that write) are refused, so that nothing leaves unseen; a copy
 * that cannot be written ends the process.
 *
 * Not seen: C's own stdio (CPython does not use it), and statically linked programs such as the libp2p daemon. The
 * daemon learns nothing but what comes through the sockets that are seen.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_DESCRIPTORS 65536

static atomic_int copies[MAX_DESCRIPTORS]; /* descriptor of the copy, 0 before the first byte */

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_sendto)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static int (*real_sendmmsg)(int, struct mmsghdr *, unsigned int, int);
static ssize_t (*real_sendfile)(int, int, off_t *, size_t);
static long (*real_syscall)(long, ...);

static void find(void **function, const char *name) {
    if (*function == NULL) *function = dlsym(RTLD_NEXT, name);
    if (*function == NULL) abort();
}

#define FIND(function) find((void **)&real_##function, #function)

static void give_up(const char *problem) {
    FIND(write);
    (void)!real_write(2, problem, __builtin_strlen(problem));
    abort();
}

/* What is printed counts as leaving, wherever it goes: the launcher reads it. */
static int leaves(int fd) {
    struct stat status;
    if (fd == 1 || fd == 2) return 1;
    return fstat(fd, &status) == 0 && (S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode));
}

static int copy_of(int fd) {
    char path[PATH_MAX];
    const char *folder = getenv("SWARM_BENCH_CAPTURE");
    int copy, none = 0;
    if (fd < 0 || fd >= MAX_DESCRIPTORS) give_up("capture: a descriptor beyond the table\n");
    copy = atomic_load(&copies[fd]);
    if (copy != 0) return copy;
    if (folder == NULL) give_up("capture: SWARM_BENCH_CAPTURE is not set\n");
    snprintf(path, sizeof path, "%s/%ld-%d.bytes", folder, (long)getpid(), fd);
    copy = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (copy < 0) give_up("capture: cannot open a file for the copy\n");
    if (atomic_compare_exchange_strong(&copies[fd], &none, copy)) return copy;
    close(copy); /* another thread was first */
    return none;
}

static void keep(int fd, const void *bytes, size_t count) {
    int copy, error = errno;
    if (count == 0) return;
    copy = copy_of(fd);
    FIND(write);
    while (count > 0) {
        ssize_t written = real_write(copy, bytes, count);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) give_up("capture: cannot write the copy\n");
        bytes = (const char *)bytes + written;
        count -= (size_t)written;
    }
    errno = error;
}

static void keep_vector(int fd, const struct iovec *vector, size_t length, ssize_t taken) {
    for (size_t i = 0; i < length && taken > 0; i++) {
        size_t count = vector[i].iov_len < (size_t)taken ? vector[i].iov_len : (size_t)taken;
        keep(fd, vector[i].iov_base, count);
        taken -= (ssize_t)count;
    }
}

ssize_t write(int fd, const void *bytes, size_t count) {
    FIND(write);
    ssize_t taken = real_write(fd, bytes, count);
    if (taken > 0 && leaves(fd)) keep(fd, bytes, (size_t)taken);
    return taken;
}

ssize_t writev(int fd, const struct iovec *vector, int length) {
    FIND(writev);
    ssize_t taken = real_writev(fd, vector, length);
    if (taken > 0 && leaves(fd)) keep_vector(fd, vector, (size_t)length, taken);
    return taken;
}

ssize_t send(int fd, const void *bytes, size_t count, int flags) {
    FIND(send);
    ssize_t taken = real_send(fd, bytes, count, flags);
    if (taken > 0) keep(fd, bytes, (size_t)taken);
    return taken;
}

ssize_t sendto(int fd, const void *bytes, size_t count, int flags, const struct sockaddr *to, socklen_t size) {
    FIND(sendto);
    ssize_t taken = real_sendto(fd, bytes, count, flags, to, size);
    if (taken > 0) keep(fd, bytes, (size_t)taken);
    return taken;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    FIND(sendmsg);
    ssize_t taken = real_sendmsg(fd, message, flags);
    if (taken > 0) keep_vector(fd, message->msg_iov, message->msg_iovlen, taken);
    return taken;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int length, int flags) {
    FIND(sendmmsg);
    int sent = real_sendmmsg(fd, messages, length, flags);
    for (int i = 0; i < sent; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        keep_vector(fd, message->msg_iov, message->msg_iovlen, messages[i].msg_len);
    }
    return sent;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t count) {
    FIND(sendfile);
    if (!leaves(to)) return real_sendfile(to, from, offset, count); /* from file to file */
    errno = EINVAL; /* callers then read and write */
    return -1;
}

ssize_t sendfile64(int to, int from, off_t *offset, size_t count) { return sendfile(to, from, offset, count); }

static ssize_t refused(void) {
    errno = ENOSYS;
    return -1;
}

ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t count, unsigned int flags) {
    (void)from, (void)from_offset, (void)to, (void)to_offset, (void)count, (void)flags;
    return refused();
}

ssize_t vmsplice(int fd, const struct iovec *vector, size_t length, unsigned int flags) {
    (void)fd, (void)vector, (void)length, (void)flags;
    return refused();
}

long syscall(long number, ...) {
    long argument[6];
    va_list arguments;
    switch (number) {
    case SYS_write: case SYS_writev: case SYS_sendto: case SYS_sendmsg: case SYS_sendmmsg: case SYS_sendfile:
    case SYS_splice: case SYS_vmsplice: case SYS_io_uring_setup:
        return refused();
    }
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) argument[i] = va_arg(arguments, long);
    va_end(arguments);
    FIND(syscall);
    return real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}
