/* Gives back what a VMM does not need any more, preloaded into QEMU under KVM.
 *
 * Building a machine and restoring a guest allocate some MiB more than is left, in pieces between
 * those that are kept, and the heap stays as large as it ever was. QEMU's usual build trims it, the
 * one for microVMs does not. So it is trimmed here when the main loop has had nothing to do for a
 * while: then neither the VMM's start nor a caller waits for it. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <time.h>

#define QUIET_NS 500000000
#define MOST_TRIMS 8 /* a guest that has worked for a while has the heap that it needs */

extern long syscall(long number, ...);
extern int malloc_trim(unsigned long kept) __attribute__((weak));

static int wait_for(struct pollfd *files, nfds_t count, const struct timespec *limit,
                    const sigset_t *mask)
{
    struct timespec left = limit ? *limit : (struct timespec){0, 0};

    return (int)syscall(271 /* ppoll */, files, count, limit ? &left : 0, mask, 8);
}

/* Only the main loop polls this way. */
int ppoll(struct pollfd *files, nfds_t count, const struct timespec *limit, const sigset_t *mask)
{
    static const struct timespec quiet = {0, QUIET_NS};
    static int trims;
    struct timespec rest;
    int ready;

    if (!malloc_trim || trims >= MOST_TRIMS || (limit && limit->tv_sec < 1))
        return wait_for(files, count, limit, mask);
    ready = wait_for(files, count, &quiet, mask);
    if (ready != 0)
        return ready;
    trims++;
    malloc_trim(0);
    if (!limit)
        return wait_for(files, count, 0, mask);
    rest = *limit;
    rest.tv_nsec -= QUIET_NS;
    if (rest.tv_nsec < 0) {
        rest.tv_nsec += 1000000000;
        rest.tv_sec--;
    }
    return wait_for(files, count, &rest, mask);
}
