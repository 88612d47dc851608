// Preloaded into a program (LD_PRELOAD): a disk that is full. FULL_DISK names a file; as long as that
// file is there, each path beginning with its text belongs to the full disk, and no file of it grows.
// What fits into a file as it is can still be written, as on a real one.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *full_disk;

__attribute__((constructor)) static void look(void) { full_disk = getenv("FULL_DISK"); }

// What stands in FULL_DISK; its length, or -1.
static ssize_t full_paths(char *text, size_t size) {
    int fd = open(full_disk, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, text, size);
    close(fd);
    return length;
}

// Whether a file that ends at `end` would be larger than it is, and is on the full disk.
static int grows_there(int fd, off_t end) {
    char begin[PATH_MAX], path[PATH_MAX], link[32];
    struct stat file;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || end <= file.st_size) return 0;
    ssize_t length = full_paths(begin, sizeof begin);
    if (length <= 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path) >= length && memcmp(begin, path, length) == 0;
}

static int is_refused(int fd, off_t end) {
    int before = errno;
    int refused = grows_there(fd, end);
    errno = refused ? ENOSPC : before;
    return refused;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) {
    if (full_disk != NULL && is_refused(fd, at + (off_t)count)) return -1;
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return pwrite64(fd, bytes, count, at);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (full_disk == NULL) return syscall(SYS_write, fd, bytes, count);
    struct stat file;
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    off_t at = appends && fstat(fd, &file) == 0 ? file.st_size : lseek(fd, 0, SEEK_CUR);
    if (at >= 0 && is_refused(fd, at + (off_t)count)) return -1;
    return syscall(SYS_write, fd, bytes, count);
}
