/* A VM: how it is made, run and ended. Its guest asks for what layout.h names, and is ended when it
 * does anything else, or asks for nothing for too long (5 to 10 seconds). */
#ifndef COPPICE_FLOOR_VM_H
#define COPPICE_FLOOR_VM_H

#include "image.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#define GUEST_LIMIT_S 5 /* how long a guest may always run without asking for anything */
#define TURNS 64 /* requests of one guest, after which others have their turn */
#define NONE (-1)

enum life { EMPTY, STOPPED, RUNNING, DEAD };

struct vm {
    enum life life;
    int vm, vcpu, channel;
    struct kvm_run *run;
    uint8_t *memory, *working;
    size_t working_bytes;
    uint32_t sent; /* bytes of `out` that are in the channel */
    uint32_t watched; /* the events that epoll waits for; 0: none */
    int ends; /* with the answer that is being sent */
    uint64_t resumed_ns;
};

static int events;
static struct kvm_run *volatile entered;
static volatile uint32_t entries; /* so far */
static volatile uint32_t timed; /* the entry that was the last one when the alarm was set */
static volatile sig_atomic_t alarmed;

static struct shared *shared_of(const struct vm *vm)
{
    return (struct shared *)(vm->memory + SHARED - BASE);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void watch(struct vm *vm, uint32_t slot, uint32_t wanted)
{
    struct epoll_event event = {.events = wanted, .data.u64 = slot};
    int how = !vm->watched ? EPOLL_CTL_ADD : wanted ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;

    if (wanted != vm->watched)
        epoll_ctl(events, how, vm->channel, &event);
    vm->watched = wanted;
}

/* Making and ending VMs. */

static void release(struct vm *vm)
{
    if (vm->channel != NONE)
        close(vm->channel);
    if (vm->run)
        munmap(vm->run, run_bytes);
    if (vm->vcpu != NONE)
        close(vm->vcpu);
    if (vm->vm != NONE)
        close(vm->vm);
    if (vm->memory)
        munmap(vm->memory, MEMORY);
    if (vm->working)
        munmap(vm->working, vm->working_bytes);
    *vm = (struct vm){.life = DEAD, .vm = NONE, .vcpu = NONE, .channel = NONE};
}

static void dies(struct vm *vm, uint32_t slot, const char *why, uint64_t number)
{
    fprintf(stderr, "kvm-floor: sandbox %u: %s (%llu)\n", slot, why, (unsigned long long)number);
    release(vm);
}

/* A VM with memory and a vCPU, which has no state yet. NULL when it can be made; else the step
 * that failed, with errno. */
static const char *make(struct vm *vm)
{
    struct kvm_userspace_memory_region region = {.guest_phys_addr = BASE,
                                                 .memory_size = MEMORY};

    if ((vm->vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
        return "KVM_CREATE_VM";
    if ((vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0)) < 0)
        return "KVM_CREATE_VCPU";
    vm->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
    if (vm->run == MAP_FAILED) {
        vm->run = NULL;
        return "mmap of the vCPU";
    }
    vm->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE, image, 0);
    if (vm->memory == MAP_FAILED) {
        vm->memory = NULL;
        return "mmap of the image";
    }
    region.userspace_addr = (uintptr_t)vm->memory;
    if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return "KVM_SET_USER_MEMORY_REGION";
    return NULL;
}

/* Gives the vCPU the state of the image; -1 when KVM refuses it. */
static int load(struct vm *vm)
{
    if (synchronised) {
        vm->run->s.regs.regs = initial.registers;
        vm->run->s.regs.sregs = initial.segments;
        vm->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
        return 0; /* the next KVM_RUN takes it */
    }
    return ioctl(vm->vcpu, KVM_SET_SREGS, &initial.segments) < 0 ||
                   ioctl(vm->vcpu, KVM_SET_REGS, &initial.registers) < 0
               ? -1
               : 0;
}

/* Running them. */

static void set_alarm(void)
{
    static const struct itimerval limit = {.it_value.tv_sec = GUEST_LIMIT_S};

    timed = entries;
    alarmed = setitimer(ITIMER_REAL, &limit, NULL) == 0;
}

/* A guest that runs since the alarm was set, or longer, is ended. A later one has until the next. */
static void hurry(int signal)
{
    struct kvm_run *now = entered;

    (void)signal;
    alarmed = 0;
    if (now && entries == timed)
        now->immediate_exit = 1; /* also if it was not entered yet */
    else if (now)
        set_alarm();
}

/* Runs a guest until it asks for something; 0 when it has failed and is gone. */
static int enter(struct vm *vm, uint32_t slot)
{
    struct kvm_run *run = vm->run;
    int done;

    entries++;
    entered = run;
    if (!alarmed)
        set_alarm(); /* once for all entries of the next seconds: a system call fewer in each */
    do
        done = ioctl(vm->vcpu, KVM_RUN, 0);
    while (done < 0 && errno == EINTR && !run->immediate_exit);
    entered = NULL;
    if (done < 0) {
        dies(vm, slot, errno == EINTR ? "it ran for too long" : "KVM_RUN failed", (uint64_t)errno);
        return 0;
    }
    if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
        run->io.size == 1 && run->io.count == 1)
        return run->io.port;
    dies(vm, slot, "it stopped in a way that it does not stop in: exit", run->exit_reason);
    return 0;
}

/* Plugs in working memory, as much as the guest asks for or none. */
static int plug(struct vm *vm)
{
    struct shared *shared = shared_of(vm);
    size_t length = (size_t)shared->plug_mib * MIB;
    struct kvm_userspace_memory_region region = {.slot = 1, .guest_phys_addr = WORKING};
    uint8_t *room, *aligned;

    shared->plugged_mib = 0;
    if (vm->working) {
        if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
            return -1;
        munmap(vm->working, vm->working_bytes);
        vm->working = NULL;
    }
    if (!length || length > (size_t)WORKING_MOST_MIB * MIB)
        return 0;
    room = mmap(NULL, length + HUGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return 0;
    vm->working = room;
    vm->working_bytes = length + HUGE;
    aligned = (uint8_t *)(((uintptr_t)room + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    madvise(aligned, length, MADV_HUGEPAGE); /* as other VMMs do for a guest's memory */
    region.memory_size = length;
    region.userspace_addr = (uintptr_t)aligned;
    if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return -1;
    shared->plugged_mib = shared->plug_mib;
    return 0;
}

/* Puts the guest's answers into its channel; 0 when it is full, or closed. */
static int deliver(struct vm *vm, uint32_t slot)
{
    struct shared *shared = shared_of(vm);
    uint32_t length = shared->out_length;

    if (length > sizeof shared->out || shared->in_length > sizeof shared->in) {
        dies(vm, slot, "it answered with more than fits", length);
        return 0;
    }
    while (vm->sent < length) {
        ssize_t put = send(vm->channel, shared->out + vm->sent, length - vm->sent,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0) {
            if (errno == EAGAIN)
                watch(vm, slot, EPOLLOUT);
            else
                release(vm); /* the harness has closed it */
            return 0;
        }
        vm->sent += (uint32_t)put;
    }
    shared->out_length = vm->sent = 0;
    if (vm->ends) {
        release(vm);
        return 0;
    }
    return 1;
}

/* Runs a guest until it waits for input, or for its channel, or has had its turns. */
static void go(struct vm *vm, uint32_t slot)
{
    for (int turn = 0; turn < TURNS; turn++) {
        int asked = enter(vm, slot);

        switch (asked) {
        case 0: return;
        case FOR_MEMORY:
            if (plug(vm) < 0) {
                dies(vm, slot, "no memory could be plugged in", (uint64_t)errno);
                return;
            }
            break;
        case FOR_INPUT:
        case FOR_ROOM:
        case FOR_THE_END:
            vm->ends = asked == FOR_THE_END;
            if (!deliver(vm, slot))
                return;
            if (asked == FOR_INPUT) {
                watch(vm, slot, EPOLLIN);
                return;
            }
            break;
        default: dies(vm, slot, "it wrote to a port that is none", (uint64_t)asked); return;
        }
    }
    watch(vm, slot, EPOLLOUT); /* it goes on when the others had their turn */
}

#endif
