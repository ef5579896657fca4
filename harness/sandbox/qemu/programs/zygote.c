/* Makes a VMM a zygote: preloaded into QEMU, it forks the process with all its threads.
 *
 * fork(2) copies memory, but only the calling thread. So every other thread is first frozen in a
 * signal handler: its registers are then on its own stack, in the frame that rt_sigreturn(2)
 * restores. In the child, each frame gets a new kernel thread with the old stack and the old
 * thread-local storage, which returns from that frame and continues.
 *
 * COPPICE_ZYGOTE is the number of a SOCK_SEQPACKET socket. A request has the int32 of a user, one
 * that is 1 for a seccomp filter, then int32 descriptor numbers and as many descriptors
 * (SCM_RIGHTS), which replace those numbers in the child. The answer is an int32: the child's PID,
 * or a negated errno. The child is a child of the process that started the zygote, which can wait
 * for it.
 *
 * With a user, jail.c has started the zygote, and the child is confined before a thread of it runs:
 * it becomes that user without any capability, in PID, IPC and UTS namespaces of its own, and it
 * shares the zygote's root and empty network. -1: it stays the zygote's user. In place of a number,
 * TASKS is the file `tasks` of a control group that the child enters, BORN the directory of a
 * version 2 group that it is born in (see jail.c).
 *
 * Until its threads run, the child must not take a lock, which a missing thread may hold. So
 * between freezing and resuming there are only system calls, no allocation and no stdio.
 * For x86-64 and glibc. A VM of KVM has its state in the kernel and cannot be forked: with
 * COPPICE_ZYGOTE_GATE the VMM waits before it makes one, and each fork makes its own (gate.h).
 */
#define _GNU_SOURCE
#include "filter.h"
#include "forked_files.h"
#include "gate.h"
#include "proc_numbers.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 64
#define MOST_FILES 16
#define FREEZE SIGILL /* QEMU blocks almost all signals in its threads, but not this one */
#define PATIENCE_S 5
#define HUGE (2UL << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define TASKS (-1)
#define BORN (-2)

struct thread {
    pid_t tid;
    uintptr_t storage; /* thread-local storage, the base of %fs */
    void *frame;
    int *error_at, error; /* errno, which the handler's system calls change */
};

static struct thread frozen[MOST_THREADS];
static int threads;
static uint32_t arrived, thaws;
static int channel;
static size_t tid_offset; /* offset of the thread id in glibc's struct pthread */

/* System calls and little else. */

static long futex(uint32_t *word, int what, uint32_t value)
{
    static const struct timespec patience = {.tv_sec = PATIENCE_S};

    return syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value,
                   what == FUTEX_WAIT && word == &arrived ? &patience : NULL, NULL, 0);
}

static uintptr_t storage(void)
{
    uintptr_t base;

    __asm__("mov %%fs:0, %0" : "=r"(base));
    return base;
}

/* Freezing and thawing. */

static void freeze(int signal, siginfo_t *info, void *frame)
{
    pid_t self = (pid_t)syscall(SYS_gettid);
    uint32_t before = __atomic_load_n(&thaws, __ATOMIC_ACQUIRE);
    int error = errno;

    (void)signal;
    (void)info;
    for (int i = 0; i < threads; i++)
        if (frozen[i].tid == self)
            frozen[i] = (struct thread){self, storage(), frame, &errno, error};
    __atomic_add_fetch(&arrived, 1, __ATOMIC_RELEASE);
    futex(&arrived, FUTEX_WAKE, 1);
    while (__atomic_load_n(&thaws, __ATOMIC_ACQUIRE) == before)
        futex(&thaws, FUTEX_WAIT, before);
    errno = error;
}

static bool freeze_one(int tid, void *with)
{
    (void)with;
    if (tid == (pid_t)syscall(SYS_gettid))
        return true;
    for (int i = 0; i < threads; i++)
        if (frozen[i].tid == tid)
            return true;
    if (threads == MOST_THREADS)
        return false;
    frozen[threads++].tid = tid;
    if (syscall(SYS_tgkill, getpid(), tid, FREEZE) != 0)
        threads--; /* the thread has ended */
    return true;
}

static void thaw(void)
{
    __atomic_add_fetch(&thaws, 1, __ATOMIC_RELEASE);
    futex(&thaws, FUTEX_WAKE, MOST_THREADS);
}

/* Freezes all other threads; repeated, since a thread may start others until it is frozen. */
static bool freeze_all(void)
{
    int before;

    threads = 0;
    __atomic_store_n(&arrived, 0, __ATOMIC_RELEASE);
    do {
        before = threads;
        if (!for_numbers("/proc/self/task", freeze_one, NULL))
            return false;
        for (uint32_t now; (now = __atomic_load_n(&arrived, __ATOMIC_ACQUIRE)) < (uint32_t)threads;)
            if (futex(&arrived, FUTEX_WAIT, now) != 0 && errno == ETIMEDOUT)
                return false;
    } while (threads > before);
    return true;
}

/* In the child. */

struct request {
    int32_t user, filtered, numbers[MOST_FILES];
    const int *files;
    int count;
};

/* Starts a thread that returns from the frame of a frozen one. */
static void resume(const struct thread *one)
{
    register long flags __asm__("rdi") = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                         CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                                         CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    register void *stack __asm__("rsi") = one->frame;
    register uintptr_t parent __asm__("rdx") = one->storage + tid_offset;
    register uintptr_t child __asm__("r10") = one->storage + tid_offset;
    register uintptr_t base __asm__("r8") = one->storage;
    long result = SYS_clone;

    *one->error_at = one->error;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tmov %[back], %%eax\n\tsyscall\n1:"
                     : "+a"(result)
                     : "r"(flags), "r"(stack), "r"(parent), "r"(child), "r"(base),
                       [back] "i"(SYS_rt_sigreturn)
                     : "rcx", "r11", "memory", "cc");
    if (result < 0)
        fail("a thread cannot be made", "");
}

/* This thread continues as the zygote's main thread, whose id is the PID. */
static _Noreturn void become(const struct thread *one)
{
    pid_t *tid = (pid_t *)(one->storage + tid_offset);

    *one->error_at = one->error;
    *tid = getpid();
    syscall(SYS_set_tid_address, tid);
    __asm__ volatile("mov %0, %%edi\n\tmov %1, %%rsi\n\tmov %2, %%eax\n\tsyscall\n\t"
                     "mov %3, %%rsp\n\tmov %4, %%eax\n\tsyscall"
                     :
                     : "i"(ARCH_SET_FS), "r"(one->storage), "i"(SYS_arch_prctl), "r"(one->frame),
                       "i"(SYS_rt_sigreturn)
                     : "rdi", "rsi", "rax", "rcx", "r11", "memory");
    __builtin_unreachable();
}

static void confine(int32_t user)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};

    /* Of this thread, which is the only one: the C library would ask the others too. */
    if (syscall(SYS_setresgid, user, user, user) != 0 ||
        syscall(SYS_setresuid, user, user, user) != 0 || syscall(SYS_capset, &head, none) != 0)
        fail("it cannot give up its privileges", "");
}

static _Noreturn void live(pid_t zygote, struct request *asked)
{
    const struct thread *first = NULL;

    close(channel);
    for (int i = 0; i < asked->count; i++) {
        if (asked->numbers[i] == TASKS && write(asked->files[i], "0", 1) != 1)
            fail("it cannot enter its control group", "");
        if (asked->numbers[i] >= 0 && dup3(asked->files[i], asked->numbers[i], O_CLOEXEC) < 0)
            fail("an open file cannot take its place", "");
        close(asked->files[i]);
    }
    for_numbers("/proc/self/fd", replace_file, &(struct replaced){asked->numbers, asked->count});
    if (asked->user >= 0)
        confine(asked->user);
    if (asked->filtered && filter_install(0) != 0)
        fail("it cannot be filtered", "");
    gate_open = 1;
    for (int i = 0; i < threads; i++)
        if (frozen[i].tid == zygote)
            first = &frozen[i];
        else
            resume(&frozen[i]);
    if (!first)
        fail("its first thread has ended", "");
    become(first);
}

/* In the zygote. */

static int32_t fork_all(struct request *asked)
{
    struct clone_args how = {.flags = CLONE_PARENT}; /* which implies the exit signal */
    pid_t zygote = getpid();
    long made = -EAGAIN;

    if (asked->user >= 0)
        how.flags |= CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    for (int i = 0; i < asked->count; i++)
        if (asked->numbers[i] == BORN) {
            how.flags |= CLONE_INTO_CGROUP;
            how.cgroup = (uint64_t)asked->files[i];
        }
    if (freeze_all()) {
        made = syscall(SYS_clone3, &how, sizeof how);
        if (made == 0)
            live(zygote, asked);
        made = made < 0 ? -errno : made;
    }
    thaw();
    return (int32_t)made;
}

/* Most memory of a zygote is translated code. In pages of 2 MiB it costs a fork next to nothing: a
 * page table has an entry for each, and only those that the fork writes to are taken apart. This
 * process alone asks for them, once; where it cannot have them, forks just take longer. */
static void gather_pages(void)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "re");

    if (!maps || prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) != 0)
        return;
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end, inode;
        char mode[5];

        if (sscanf(line, "%lx-%lx %4s %*s %*s %lu", &start, &end, mode, &inode) != 4)
            continue;
        if (mode[1] != 'w' || mode[3] != 'p' || inode)
            continue;
        for (start = (start + HUGE - 1) & ~(HUGE - 1); start + HUGE <= end; start += HUGE)
            if (syscall(SYS_madvise, start, HUGE, MADV_COLLAPSE) != 0 && errno == EINVAL)
                break;
    }
    fclose(maps);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* not for what forks write */
}

static void *serve(void *nothing)
{
    struct request asked;
    int32_t answer;
    bool gathered = false;
    char room[CMSG_SPACE(sizeof(int) * MOST_FILES)] __attribute__((aligned(8)));
    struct iovec words = {&asked, offsetof(struct request, numbers) + sizeof asked.numbers};

    for (;;) {
        struct msghdr message = {
            .msg_iov = &words, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
        ssize_t got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;

        if (got <= 0)
            return nothing; /* the other end is closed */
        asked.count = (int)((got - (ssize_t)offsetof(struct request, numbers)) / 4);
        if (!head || head->cmsg_len != CMSG_LEN(sizeof(int) * (size_t)asked.count))
            return nothing;
        asked.files = (int *)CMSG_DATA(head);
        if (gated)
            gate_wait(&gate_reached);
        else if (!gathered && (gathered = true))
            gather_pages();
        answer = fork_all(&asked);
        for (int i = 0; i < asked.count; i++)
            close(asked.files[i]);
        send(channel, &answer, sizeof answer, MSG_NOSIGNAL);
    }
}

/* QEMU excludes guest memory from forks; here it must be included. */
int madvise(void *start, size_t length, int advice)
{
    return advice == MADV_DONTFORK ? 0 : (int)syscall(SYS_madvise, start, length, advice);
}

__attribute__((constructor)) static void begin(void)
{
    const char *given = getenv("COPPICE_ZYGOTE");
    struct sigaction action = {.sa_sigaction = freeze, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t every, before;
    pthread_attr_t small;
    pthread_t thread;

    if (!given)
        return;
    channel = atoi(given);
    gated = getenv("COPPICE_ZYGOTE_GATE") != NULL;
    while (*(pid_t *)(storage() + tid_offset) != getpid())
        if ((tid_offset += sizeof(pid_t)) > 4096)
            abort();
    sigfillset(&action.sa_mask);
    sigaction(FREEZE, &action, NULL);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* QEMU's signals are not for this thread */
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    if (pthread_create(&thread, &small, serve, NULL) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
