/* Stands before libc in servers and bots, and makes their disk slow or full for as long
 * as there are files of these names in $DISK. A full disk has no room for what makes a
 * file longer; what is written over stays possible, as on a real one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* How many bytes that file has; -1 if there is none. */
static off_t told(const char *what) {
    char path[4096];
    struct stat file;
    const char *disk = getenv("DISK");
    if (disk == NULL) return -1;
    snprintf(path, sizeof path, "%s/%s", disk, what);
    return stat(path, &file) == 0 ? file.st_size : -1;
}

/* Each flush takes as many milliseconds as "slow" has bytes. */
static void linger(void) {
    off_t milliseconds = told("slow");
    if (milliseconds > 0) usleep(1000 * milliseconds);
}

int fdatasync(int fd) { linger(); return REAL(fdatasync)(fd); }
int fsync(int fd) { linger(); return REAL(fsync)(fd); }

static int is_full(int fd, off_t end) {
    struct stat file;
    return told("full") >= 0 && fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
           end > file.st_size;
}

static ssize_t refuse(void) { errno = ENOSPC; return -1; }

/* All but the last byte goes in, by halves. */
ssize_t write(int fd, const void *data, size_t size) {
    int flags = fcntl(fd, F_GETFL);
    off_t begin = lseek(fd, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
    if (begin >= 0 && is_full(fd, begin + size)) {
        if (size < 2) return refuse();
        size /= 2;
    }
    return REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t begin) {
    return is_full(fd, begin + size) ? refuse() : REAL(pwrite)(fd, data, size, begin);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t begin) {
    return pwrite(fd, data, size, begin);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t begin) {
    off_t end = begin;
    for (int i = 0; i < count; i++) end += parts[i].iov_len;
    return is_full(fd, end) ? refuse() : REAL(pwritev)(fd, parts, count, begin);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t begin) {
    return pwritev(fd, parts, count, begin);
}

int posix_fallocate(int fd, off_t begin, off_t size) {
    return is_full(fd, begin + size) ? ENOSPC : REAL(posix_fallocate)(fd, begin, size);
}

int posix_fallocate64(int fd, off64_t begin, off64_t size) {
    return posix_fallocate(fd, begin, size);
}
