/* Execs the program given by its arguments, with memory that the kernel may merge (KSM).
 *
 * A process can make both settings only for itself; they survive the exec. Without address space
 * randomization, pointers in heaps and in relocated tables are equal in all processes. */
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

int main(int argc, char **argv)
{
    if (argc < 2)
        return NOT_SUPPORTED;
    if (personality(ADDR_NO_RANDOMIZE) < 0 || prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) < 0) {
        fprintf(stderr, "memory cannot be made mergeable: %s\n", strerror(errno));
        return NOT_SUPPORTED;
    }
    execv(argv[1], argv + 1);
    fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
    return NOT_SUPPORTED;
}
