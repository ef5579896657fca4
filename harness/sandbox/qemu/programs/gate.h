/* Where a started VMM waits to be forked: before it asks KVM for its VM, for zygote.c.
 *
 * What a VM is lies in the kernel, where a fork cannot reach it. Until QEMU asks for one, it has
 * relocated its libraries, registered every device type and read its arguments: most of what it
 * will hold. The zygote's first thread stays here; in a fork the gate is open, and it goes on. */
#ifndef COPPICE_GATE_H
#define COPPICE_GATE_H

#include <linux/futex.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool gated;
static uint32_t gate_reached, gate_open;

static void gate_wait(uint32_t *word)
{
    while (!__atomic_load_n(word, __ATOMIC_ACQUIRE))
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

/* QEMU makes every request of KVM through this. */
int ioctl(int file, unsigned long request, ...)
{
    va_list more;
    void *argument;

    va_start(more, request);
    argument = va_arg(more, void *);
    va_end(more);
    if (gated && request == KVM_CREATE_VM) {
        __atomic_store_n(&gate_reached, 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &gate_reached, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        gate_wait(&gate_open);
    }
    return (int)syscall(SYS_ioctl, file, request, argument);
}

#endif
