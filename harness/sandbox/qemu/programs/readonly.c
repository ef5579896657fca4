/* Lets QEMU map a file privately that it may not write, preloaded into QEMU before 8.2.
 *
 * It opens the file behind guest memory for reading and writing, whatever it does with it, and its
 * `readonly=on` makes guest memory a ROM. Here such a file is opened for reading. */
#include <errno.h>
#include <fcntl.h>

extern long syscall(long number, ...); /* of the C library that has loaded this */

static int try(const char *path, int flags, int mode)
{
    long opened = syscall(257 /* openat */, AT_FDCWD, path, flags, mode);

    if (opened < 0 && (errno == EACCES || errno == EROFS) && (flags & O_ACCMODE) == O_RDWR)
        opened = syscall(257, AT_FDCWD, path, (flags & ~O_ACCMODE) | O_RDONLY, mode);
    return (int)opened;
}

int open64(const char *path, int flags, int mode) { return try(path, flags, mode); }
int __open64_2(const char *path, int flags) { return try(path, flags, 0); }
