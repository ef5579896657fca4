/* Touches a working set, and reports the guest's memory. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define MIB (1024u * 1024u)

/* u32 MiB, u64 first word -> u64 sum of the words, read back. Each page gets the next word, so that
 * guests with different first words have no equal pages. The memory is kept until the next touch.
 * */
void memory_touch(const struct frame *request)
{
    static uint8_t *held = NULL;
    static size_t held_length = 0;
    uint32_t mib = 0;
    uint64_t first = 0, sum = 0;

    if (request->length == sizeof mib + sizeof first) {
        memcpy(&mib, request->payload, sizeof mib);
        memcpy(&first, request->payload + sizeof mib, sizeof first);
    }
    if (held)
        munmap(held, held_length);
    held_length = (size_t)mib * MIB;
    held = NULL;
    if (held_length) {
        void *room = mmap(NULL, held_length, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED) {
            line_error(request->id, errno, "touch");
            return;
        }
        held = room;
    }
    for (size_t at = 0; at < held_length; at += PAGE) {
        volatile uint64_t *word = (volatile uint64_t *)(held + at);
        *word = first + at / PAGE;
        sum += *word;
    }
    line_put(KIND_ANSWER, request->id, &sum, sizeof sum);
}

/* -> /proc/meminfo, then the agent's own /proc/self/statm. */
void memory_report(const struct frame *request)
{
    static char text[8192];
    static const char *const sources[] = {"/proc/meminfo", "/proc/self/statm"};
    size_t length = 0;

    for (size_t i = 0; i < 2; i++) {
        int fd = open(sources[i], O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? 0 : read(fd, text + length, sizeof text - length);
        length += got > 0 ? (size_t)got : 0;
        if (fd >= 0)
            close(fd);
    }
    line_put(KIND_ANSWER, request->id, text, length);
}
