/* Lets QEMU map a file privately that it may not write, preloaded into QEMU before 8.2.
 *
 * It opens the file behind guest memory for reading and writing, whatever it does with it, and its
 * `readonly=on` makes guest memory a ROM. Here such a file is opened for reading: one whose
 * permissions refuse more, and one of a descriptor that cannot write. The second counts for a zygote,
 * whose capabilities pass permissions by, and whose forks have its descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define OWN "/proc/self/fd/"

extern long syscall(long number, ...); /* of the C library that has loaded this */

/* Whether a path is that of an own descriptor which was opened for reading alone. */
static int of_reader(const char *path)
{
    int number = 0, flags;

    if (strncmp(path, OWN, sizeof OWN - 1) || !path[sizeof OWN - 1])
        return 0;
    for (const char *digit = path + sizeof OWN - 1; *digit; digit++) {
        if (*digit < '0' || *digit > '9' || number > 1 << 20)
            return 0;
        number = number * 10 + *digit - '0';
    }
    flags = fcntl(number, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) == O_RDONLY;
}

static int try(const char *path, int flags, int mode)
{
    if ((flags & O_ACCMODE) == O_RDWR && of_reader(path))
        flags = (flags & ~O_ACCMODE) | O_RDONLY;
    long opened = syscall(257 /* openat */, AT_FDCWD, path, flags, mode);

    if (opened < 0 && (errno == EACCES || errno == EROFS) && (flags & O_ACCMODE) == O_RDWR)
        opened = syscall(257, AT_FDCWD, path, (flags & ~O_ACCMODE) | O_RDONLY, mode);
    return (int)opened;
}

int open64(const char *path, int flags, int mode) { return try(path, flags, mode); }
int __open64_2(const char *path, int flags) { return try(path, flags, 0); }
