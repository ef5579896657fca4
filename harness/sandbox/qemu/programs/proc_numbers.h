/* The entries of directories in /proc that are numbers: processes, threads, descriptors.
 *
 * Without allocation and stdio, for a process in which other threads may hold a lock. */
#ifndef COPPICE_PROC_NUMBERS_H
#define COPPICE_PROC_NUMBERS_H

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

static void number_path(char *into, const char *directory, int number)
{
    char digits[12];
    int count = 0;

    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (*directory)
        *into++ = *directory++;
    while (count)
        *into++ = digits[--count];
    *into = 0;
}

/* Calls `each` for every numeric entry of a /proc directory; stops and returns false if it does. */
static bool for_numbers(const char *directory, bool (*each)(int number, void *with), void *with)
{
    int handle = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char room[4096] __attribute__((aligned(8)));
    bool good = handle >= 0;
    long got;

    while (good && (got = syscall(SYS_getdents64, handle, room, sizeof room)) > 0)
        for (long at = 0; good && at < got;) {
            struct dirent64 *one = (struct dirent64 *)(room + at);
            int number = 0;

            at += one->d_reclen;
            if (one->d_name[0] < '0' || one->d_name[0] > '9')
                continue;
            for (const char *digit = one->d_name; *digit; digit++)
                number = number * 10 + *digit - '0';
            if (number != handle)
                good = each(number, with);
        }
    if (handle >= 0)
        close(handle);
    return good;
}

#endif
