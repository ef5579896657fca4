/* Preloaded into QEMU by tests: a KVM that refuses a request, or any but zero in a register. */
#include <errno.h>
#include <stdarg.h>

extern long syscall(long number, ...); /* of the C library that has loaded this */

#define SET_MSRS 0x4008ae89ul

int ioctl(int descriptor, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
#ifdef REQUEST
    if (request == REQUEST) {
        errno = EINVAL;
        return -1;
    }
#endif
#ifdef REGISTER
    if (request == SET_MSRS) { /* a count and a pad, then entries of an index, a pad and a value */
        const unsigned *words = argument;
        for (unsigned i = 0; i < words[0]; i++)
            if (words[2 + 4 * i] == REGISTER && words[4 + 4 * i])
                return (int)i;
    }
#endif
    return (int)syscall(16, descriptor, request, argument);
}
