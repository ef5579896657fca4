/* Becomes the program of its arguments, whose memory the kernel may merge with equal pages.
 *
 * Both settings survive the exec, and only a process itself can make them. Without random addresses
 * pointers in heaps and relocated tables are equal from one process to the next. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67 /* Linux 6.4; inherited by exec since 6.7 */
#endif
#define NOT_SUPPORTED 69

int main(int count, char **words)
{
    if (count < 2)
        return NOT_SUPPORTED;
    if (personality(ADDR_NO_RANDOMIZE) < 0 || prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) < 0) {
        fprintf(stderr, "memory cannot be made mergeable: %s\n", strerror(errno));
        return NOT_SUPPORTED;
    }
    execv(words[1], words + 1);
    fprintf(stderr, "%s: %s\n", words[1], strerror(errno));
    return NOT_SUPPORTED;
}
