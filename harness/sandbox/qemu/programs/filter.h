/* The system calls of a VMM that runs: a seccomp filter, for jail.c and zygote.c.
 *
 * Everything that is not listed is ENOSYS: the C library and QEMU then do without. A VMM gets its
 * files, sockets and tap as descriptors, so it makes no sockets; it starts threads, no processes;
 * it changes neither identities nor namespaces, mounts, limits or other processes. */
#ifndef COPPICE_FILTER_H
#define COPPICE_FILTER_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct filter_step { /* struct sock_filter: musl has no headers of Linux */
    uint16_t code;
    uint8_t if_true, if_false;
    uint32_t value;
};
struct filter_program {
    uint16_t length;
    struct filter_step *steps;
};
struct filtered_call { /* struct seccomp_data */
    int32_t number;
    uint32_t architecture;
    uint64_t instruction, arguments[6];
};

#define FILTER_MOST 600
#define LOAD 0x20u          /* BPF_LD | BPF_W | BPF_ABS */
#define IF_EQUAL 0x15u      /* BPF_JMP | BPF_JEQ | BPF_K */
#define IF_AT_LEAST 0x35u   /* BPF_JMP | BPF_JGE | BPF_K */
#define IF_ANY_BIT 0x45u    /* BPF_JMP | BPF_JSET | BPF_K */
#define GIVE 0x06u          /* BPF_RET | BPF_K */
#define ALLOW 0x7fff0000u   /* SECCOMP_RET_ALLOW */
#define REFUSE(error) (0x00050000u | (error)) /* SECCOMP_RET_ERRNO */
#define KILL 0x80000000u    /* SECCOMP_RET_KILL_PROCESS */
#define OF_X86_64 0xc000003eu
#define X32 0x40000000u
#define LOW(argument) ((uint32_t)offsetof(struct filtered_call, arguments) + 8 * (argument))
#define MAKES_A_THREAD 0x00010000u /* CLONE_THREAD */
#define NEW_NAMESPACES 0x7e020000u /* every CLONE_NEW* of clone */

static const uint16_t filter_allows[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
    SYS_preadv2, SYS_pwritev2, SYS_close, SYS_lseek, SYS_fsync, SYS_fdatasync, SYS_ftruncate,
    SYS_fallocate, SYS_sync_file_range, SYS_fadvise64, SYS_copy_file_range, SYS_flock,
    SYS_open, SYS_openat, SYS_access, SYS_faccessat, SYS_stat, SYS_fstat, SYS_lstat, SYS_newfstatat,
    SYS_statx, SYS_statfs, SYS_fstatfs, SYS_readlink, SYS_readlinkat, SYS_getdents64, SYS_getcwd,
    SYS_fchdir, SYS_fcntl, SYS_dup, SYS_dup2, SYS_dup3, SYS_pipe, SYS_pipe2, SYS_umask,
    SYS_mmap, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_madvise, SYS_msync, SYS_mincore, SYS_brk,
    SYS_memfd_create, SYS_membarrier, SYS_get_mempolicy, SYS_set_mempolicy, SYS_mbind,
    SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_epoll_create, SYS_epoll_create1,
    SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait, SYS_eventfd, SYS_eventfd2, SYS_signalfd,
    SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_shutdown,
    SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait,
    SYS_rt_sigsuspend, SYS_sigaltstack, SYS_pause, SYS_tgkill, SYS_restart_syscall,
    SYS_futex, 449 /* futex_waitv */, 454, 455, 456 /* futex_wake, wait, requeue */,
    SYS_set_robust_list, SYS_get_robust_list, SYS_set_tid_address, 334 /* rseq */, SYS_arch_prctl,
    SYS_exit, SYS_exit_group, SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_getparam,
    SYS_sched_getscheduler, SYS_getpriority, SYS_getcpu,
    SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday,
    SYS_time, SYS_times, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime,
    SYS_timer_getoverrun, SYS_timer_delete, SYS_getitimer, SYS_setitimer, SYS_alarm,
    SYS_getpid, SYS_getppid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
    SYS_getpgrp, SYS_getrusage, SYS_getrlimit, SYS_uname, SYS_sysinfo, SYS_getrandom,
};

static const uint32_t filter_ioctls[] = {
    0x5401 /* TCGETS */, 0x541b /* FIONREAD */, 0x5421 /* FIONBIO */, 0x5450, 0x5451 /* FIO*CLEX */,
    0x1260, 0x80081272 /* BLKGETSIZE, 64 */, 0x1268, 0x127b /* sector sizes */,
    /* Of a tap: its features, its interface, offloads, send buffer, header size and byte order. */
    0x800454cf, 0x800454d2, 0x400454d0, 0x400454d4, 0x800454d7, 0x400454d8, 0x400454dc, 0x400454de,
};

static const uint32_t filter_prctls[] = {
    15, 16 /* PR_SET_NAME, PR_GET_NAME */, 3 /* PR_GET_DUMPABLE */, 29, 30 /* timer slack */,
    33, 34 /* PR_MCE_KILL */, 0x53564d41 /* PR_SET_VMA: names of mappings */,
};

struct filter {
    struct filter_step steps[FILTER_MOST];
    uint16_t length;
};

static void filter_add(struct filter *f, unsigned code, uint32_t value, unsigned yes, unsigned no)
{
    f->steps[f->length++] =
        (struct filter_step){(uint16_t)code, (uint8_t)yes, (uint8_t)no, value};
}

/* Continues after the next `count` steps unless the loaded word is `value`. */
static void filter_only_for(struct filter *f, uint32_t value, unsigned count)
{
    filter_add(f, IF_EQUAL, value, 0, count);
}

/* Allows one of some values of a call's argument. */
static void filter_argument(struct filter *f, uint32_t call, unsigned argument,
                            const uint32_t *values, unsigned count, unsigned error)
{
    filter_only_for(f, call, 2 * count + 2);
    filter_add(f, LOAD, LOW(argument), 0, 0);
    for (unsigned i = 0; i < count; i++) {
        filter_add(f, IF_EQUAL, values[i], 0, 1);
        filter_add(f, GIVE, ALLOW, 0, 0);
    }
    filter_add(f, GIVE, REFUSE(error), 0, 0);
}

/* Searches the sorted, allowed numbers from..to-1 by halving: installing a filter makes the kernel
 * try it on every number. Returns whether all jumps are short enough for their 8 bits. */
static int filter_search(struct filter *f, const uint16_t *sorted, unsigned from, unsigned to)
{
    if (to - from <= 3) {
        for (unsigned i = from; i < to; i++) {
            filter_add(f, IF_EQUAL, sorted[i], 0, 1);
            filter_add(f, GIVE, ALLOW, 0, 0);
        }
        filter_add(f, GIVE, REFUSE(ENOSYS), 0, 0);
        return 1;
    }
    unsigned middle = (from + to) / 2, branch = f->length;
    filter_add(f, IF_AT_LEAST, sorted[middle], 0, 0);
    int short_enough = filter_search(f, sorted, from, middle);
    unsigned distance = f->length - branch - 1u;
    f->steps[branch].if_true = (uint8_t)distance;
    return filter_search(f, sorted, middle, to) && short_enough && distance < 256;
}

/* From now on this thread, and what it starts, makes only these calls. The one execve that is
 * allowed has its path at `program`; 0: none is. Returns 0 or -1. */
static int filter_install(uintptr_t program)
{
    static struct filter f;
    uint16_t sorted[sizeof filter_allows / sizeof *filter_allows];
    unsigned count = sizeof sorted / sizeof *sorted;
    struct filter_program whole;

    for (unsigned i = 0; i < count; i++) {
        unsigned at = i;
        for (; at && sorted[at - 1] > filter_allows[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = filter_allows[i];
    }
    f.length = 0;
    filter_add(&f, LOAD, offsetof(struct filtered_call, architecture), 0, 0);
    filter_add(&f, IF_EQUAL, OF_X86_64, 1, 0);
    filter_add(&f, GIVE, KILL, 0, 0);
    filter_add(&f, LOAD, offsetof(struct filtered_call, number), 0, 0);
    filter_add(&f, IF_AT_LEAST, X32, 0, 1);
    filter_add(&f, GIVE, KILL, 0, 0);
    /* Under KVM the one that is called most: any request of KVM, then any of vhost-net (which work
     * on descriptors of that device alone), and the listed ones. */
    filter_only_for(&f, SYS_ioctl, 5 + 2 * sizeof filter_ioctls / sizeof *filter_ioctls + 2);
    filter_add(&f, LOAD, LOW(1), 0, 0);
    filter_add(&f, 0x54u /* AND */, 0xff00, 0, 0);
    filter_add(&f, IF_EQUAL, 0xae00, 1, 0);
    filter_add(&f, IF_EQUAL, 0xaf00, 0, 1);
    filter_add(&f, GIVE, ALLOW, 0, 0);
    filter_add(&f, LOAD, LOW(1), 0, 0);
    for (unsigned i = 0; i < sizeof filter_ioctls / sizeof *filter_ioctls; i++) {
        filter_add(&f, IF_EQUAL, filter_ioctls[i], 0, 1);
        filter_add(&f, GIVE, ALLOW, 0, 0);
    }
    filter_add(&f, GIVE, REFUSE(ENOTTY), 0, 0);
    filter_argument(&f, SYS_prctl, 0, filter_prctls, sizeof filter_prctls / sizeof *filter_prctls,
                    EPERM);
    filter_only_for(&f, SYS_clone, 5); /* threads alone */
    filter_add(&f, LOAD, LOW(0), 0, 0);
    filter_add(&f, IF_ANY_BIT, NEW_NAMESPACES, 1, 0);
    filter_add(&f, IF_ANY_BIT, MAKES_A_THREAD, 1, 0);
    filter_add(&f, GIVE, REFUSE(EPERM), 0, 0);
    filter_add(&f, GIVE, ALLOW, 0, 0);
    filter_only_for(&f, SYS_prlimit64, 6); /* only to read them */
    filter_add(&f, LOAD, LOW(2), 0, 0);
    filter_add(&f, IF_EQUAL, 0, 0, 3);
    filter_add(&f, LOAD, LOW(2) + 4, 0, 0);
    filter_add(&f, IF_EQUAL, 0, 0, 1);
    filter_add(&f, GIVE, ALLOW, 0, 0);
    filter_add(&f, GIVE, REFUSE(EPERM), 0, 0);
    if (program) {
        filter_only_for(&f, SYS_execve, 6);
        filter_add(&f, LOAD, LOW(0) + 4, 0, 0);
        filter_add(&f, IF_EQUAL, (uint32_t)((uint64_t)program >> 32), 0, 3);
        filter_add(&f, LOAD, LOW(0), 0, 0);
        filter_add(&f, IF_EQUAL, (uint32_t)program, 0, 1);
        filter_add(&f, GIVE, ALLOW, 0, 0);
        filter_add(&f, GIVE, REFUSE(EPERM), 0, 0);
    }
    if (!filter_search(&f, sorted, 0, count)) {
        errno = E2BIG;
        return -1;
    }
    whole = (struct filter_program){f.length, f.steps};
    return (int)syscall(SYS_prctl, PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &whole, 0, 0);
}

#endif
