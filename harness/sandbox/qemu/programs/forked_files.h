/* The open files of a forked VMM, for zygote.c.
 *
 * A fork shares every file with its zygote. That is right for what nothing changes, and for what a
 * request replaces. An eventfd or an epoll set gets a fresh one at its number. A file of any other
 * kind would carry from one sandbox to the next: the fork ends. */
#ifndef COPPICE_FORKED_FILES_H
#define COPPICE_FORKED_FILES_H

#include "proc_numbers.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FAILED 71

static void fail(const char *why, const char *what)
{
    char text[160] = "the fork of a VMM cannot run: ";

    strncat(text, why, 60);
    strncat(text, what, 60);
    strcat(text, "\n");
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(FAILED + 1);
    _exit(FAILED);
}

static void read_information(int number, char *text, size_t room)
{
    char path[48];
    int info;
    ssize_t got;

    number_path(path, "/proc/self/fdinfo/", number);
    info = open(path, O_RDONLY | O_CLOEXEC);
    got = info < 0 ? -1 : read(info, text, room - 1);
    close(info);
    text[got < 0 ? 0 : got] = 0;
}

/* Replaces an epoll set that is shared with the zygote. QEMU makes one at its start and uses it only
 * for more descriptors than a microVM has, so it is empty. */
static void replace_epoll(int number)
{
    char text[512];
    int fresh = epoll_create1(EPOLL_CLOEXEC);

    read_information(number, text, sizeof text);
    if (!text[0] || strstr(text, "tfd:"))
        fail("an epoll set is in use", "");
    if (fresh < 0 || dup3(fresh, number, O_CLOEXEC) < 0)
        fail("an epoll set cannot be made", "");
    close(fresh);
}

/* Replaces an eventfd that is shared with the zygote by a new one with the same count. */
static void replace_eventfd(int number)
{
    static const char mark[] = "eventfd-count:";
    char text[512];
    unsigned long long count = 0;
    int flags = fcntl(number, F_GETFL), fresh;

    read_information(number, text, sizeof text);
    if (!strstr(text, mark))
        fail("an eventfd cannot be read", "");
    for (const char *at = strstr(text, mark) + sizeof mark - 1; *at && *at != '\n'; at++)
        if (*at > ' ')
            count = count * 16 + (unsigned)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
    fresh = eventfd((unsigned)count, EFD_CLOEXEC | (flags & O_NONBLOCK ? EFD_NONBLOCK : 0));
    if (fresh < 0 || dup3(fresh, number, O_CLOEXEC) < 0)
        fail("an eventfd cannot be made", "");
    close(fresh);
}

/* The numbers of those that a request replaces. */
struct replaced {
    const int32_t *numbers;
    int count;
};

/* Handles a descriptor of the zygote in the child; fails for files that cannot be shared. */
static bool replace_file(int number, void *with)
{
    static const char event[] = "anon_inode:[eventfd]", signals[] = "anon_inode:[signalfd]";
    static const char tap[] = "/dev/net/tun";
    const struct replaced *new = with;
    char path[48], what[60];
    ssize_t length;

    for (int i = 0; i < new->count; i++)
        if (new->numbers[i] == number)
            return true;
    number_path(path, "/proc/self/fd/", number);
    length = readlink(path, what, sizeof what - 1);
    what[length < 0 ? 0 : length] = 0;
    if (!strcmp(what, event))
        replace_eventfd(number);
    else if (!strcmp(what, "anon_inode:[eventpoll]"))
        replace_epoll(number);
    else if (!strcmp(what, tap) || (what[0] != '/' && strcmp(what, signals) != 0))
        fail("it would share ", what);
    return true;
}

#endif
