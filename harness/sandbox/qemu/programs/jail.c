/* Starts a VMM confined: jail [NAME=VALUE]... -- PROGRAM [ARGUMENT]...
 *
 *   report=N   the descriptor to write the VMM's PID to (an int32; a negated errno without one)
 *   mounts=N   a mount namespace to enter, the root that jail_root.c has built
 *   network=N  a network namespace to enter
 *   user=N     the user and group to become, without any capability
 *   group=N    a descriptor of a version 2 control group to be born in
 *   tasks=N    a descriptor of a version 1 control group's file `tasks`; several
 *   files=N, open=N, processes=N   limits: bytes of a file, open files, processes of this user
 *   zygote=1   the program forks VMMs: it keeps the capabilities for that, and gets no filter and
 *              no PID namespace, which its forks get (zygote.c)
 *   filter=0   no seccomp filter
 *   huge=0     no transparent huge pages
 *
 * The VMM is a child of the process that started this one (CLONE_PARENT), which can wait for it.
 * Writing to `tasks` moves one thread, and being born in a group moves none: moving a process by
 * cgroup.procs instead waits for all CPUs, 6 ms and more. */
#define _GNU_SOURCE
#include "filter.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define FAILED 70
#define MOST_GROUPS 8
#define INTO_A_GROUP 0x200000000ull /* CLONE_INTO_CGROUP */
#define LAST_CAPABILITY 63
#define LOCKED_BITS 0x2f /* of prctl(2): root has no privileges, and cannot get them back */
#define BIT(capability) (1ull << (capability))
/* DAC_OVERRIDE (for a control group that is root's), SETGID, SETUID, SYS_ADMIN */
#define OF_A_ZYGOTE (BIT(1) | BIT(6) | BIT(7) | BIT(21))

struct clone_request { /* struct clone_args, as of Linux 5.7 */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

static struct {
    long report, mounts, network, user, group, zygote, filter, huge, files, open, processes;
    long tasks[MOST_GROUPS];
    int groups;
} wanted = {.report = -1, .mounts = -1, .network = -1, .user = -1, .group = -1, .filter = 1, .huge = 1};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "the VMM cannot be confined: %s: %s\n", what, strerror(errno));
    _exit(FAILED);
}

static void take(const char *argument)
{
    static const struct { const char *name; long *into; } known[] = {
        {"report", &wanted.report}, {"mounts", &wanted.mounts}, {"network", &wanted.network},
        {"user", &wanted.user}, {"group", &wanted.group}, {"zygote", &wanted.zygote},
        {"filter", &wanted.filter}, {"huge", &wanted.huge},
        {"files", &wanted.files}, {"open", &wanted.open},
        {"processes", &wanted.processes},
    };
    const char *equals = strchr(argument, '=');
    size_t length = equals ? (size_t)(equals - argument) : 0;

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (length == strlen(known[i].name) && memcmp(argument, known[i].name, length) == 0) {
            *known[i].into = strtol(equals + 1, NULL, 10);
            return;
        }
    errno = EINVAL;
    if (length != 5 || memcmp(argument, "tasks", length) != 0 || wanted.groups == MOST_GROUPS)
        fail(argument);
    wanted.tasks[wanted.groups++] = strtol(equals + 1, NULL, 10);
}

static void keep_within(int what, long most)
{
    struct rlimit limit;

    if (getrlimit(what, &limit) != 0)
        fail("a limit");
    if ((rlim_t)most < limit.rlim_max) /* the caller's own limit may be lower, and stays */
        limit.rlim_max = (rlim_t)most;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(what, &limit) != 0)
        fail("a limit");
}

static void enter(long namespace, int kind, const char *what)
{
    if (namespace >= 0 && setns((int)namespace, kind) != 0)
        fail(what);
}

static void set_capabilities(uint64_t held, uint64_t inheritable)
{
    struct { uint32_t version; int32_t pid; } head = {0x20080522, 0};
    struct { uint32_t effective, permitted, inheritable; } sets[2];

    for (int half = 0; half < 2; half++) {
        sets[half].effective = sets[half].permitted = (uint32_t)(held >> (32 * half));
        sets[half].inheritable = (uint32_t)(inheritable >> (32 * half));
    }
    if (syscall(SYS_capset, &head, sets) != 0)
        fail("its capabilities");
}

static void become_the_user(void)
{
    uint64_t kept = wanted.zygote ? OF_A_ZYGOTE : 0;

    /* SETGID, SETUID and SETPCAP are for what follows; nothing outside the bounding set can be
     * made inheritable later. */
    set_capabilities(kept | BIT(6) | BIT(7) | BIT(8), kept);
    for (int i = 0; i <= LAST_CAPABILITY; i++)
        if (prctl(24 /* PR_CAPBSET_DROP */, i, 0, 0, 0) != 0 && errno != EINVAL)
            fail("its bounding set");
    if (!wanted.zygote && prctl(28 /* PR_SET_SECUREBITS */, LOCKED_BITS, 0, 0, 0) != 0)
        fail("its secure bits");
    if (wanted.zygote && prctl(8 /* PR_SET_KEEPCAPS */, 1, 0, 0, 0) != 0)
        fail("its capabilities");
    if (setgroups(0, NULL) != 0 || setresgid((gid_t)wanted.user, (gid_t)wanted.user,
                                             (gid_t)wanted.user) != 0 ||
        setresuid((uid_t)wanted.user, (uid_t)wanted.user, (uid_t)wanted.user) != 0)
        fail("its user");
    set_capabilities(kept, kept);
    for (int i = 0; i <= LAST_CAPABILITY; i++)
        if (kept & BIT(i) && prctl(47 /* PR_CAP_AMBIENT */, 2 /* RAISE */, i, 0, 0) != 0)
            fail("its ambient capabilities");
}

/* The program's path where no VMM can map memory: in the first page, below vm.mmap_min_addr. The
 * filter allows the execve of a path there, and of no other, so that the VMM cannot exec again. */
static const char *place(const char *program)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    char *volatile at = page == MAP_FAILED ? NULL : page + 16;

    if (!at || strlen(program) > 4000)
        return program;
    /* strcpy would be free to assume that nothing is there. */
    for (size_t i = 0; i <= strlen(program); i++)
        at[i] = program[i];
    return at;
}

static void close_later(long descriptor)
{
    if (descriptor >= 0 && fcntl((int)descriptor, F_SETFD, FD_CLOEXEC) != 0)
        fail("a descriptor");
}

static _Noreturn void start(char **program)
{
    const char *path;

    close_later(wanted.report);
    close_later(wanted.mounts);
    close_later(wanted.network);
    close_later(wanted.group);
    for (int i = 0; i < wanted.groups; i++)
        close_later(wanted.tasks[i]);

    for (int i = 0; i < wanted.groups; i++)
        if (write((int)wanted.tasks[i], "0", 1) != 1)
            fail("its control group");
    enter(wanted.network, CLONE_NEWNET, "its network namespace");
    enter(wanted.mounts, CLONE_NEWNS, "its mount namespace");
    if (wanted.mounts >= 0 && sethostname("vmm", 3) != 0)
        fail("its hostname");
    keep_within(RLIMIT_CORE, 0);
    if (wanted.files)
        keep_within(RLIMIT_FSIZE, wanted.files);
    if (wanted.open)
        keep_within(RLIMIT_NOFILE, wanted.open);
    if (!wanted.huge && prctl(41 /* PR_SET_THP_DISABLE */, 1, 0, 0, 0) != 0 && errno != EINVAL)
        fail("its pages"); /* EINVAL: a kernel without them */
    signal(SIGXFSZ, SIG_IGN); /* a file that is too large is an error, not the VMM's end */
    umask(077);
    path = place(program[0]);
    if (wanted.user >= 0) {
        become_the_user();
        if (wanted.processes)
            keep_within(RLIMIT_NPROC, wanted.processes);
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        fail("no_new_privs");
    if (wanted.filter && !wanted.zygote && filter_install((uintptr_t)path) != 0)
        fail("its seccomp filter");
    syscall(SYS_execve, path, program, environ);
    fail("its program");
}

int main(int count, char **arguments)
{
    struct clone_request request = {.flags = CLONE_PARENT}; /* which implies the exit signal */
    int at = 1;

    for (; at < count && strcmp(arguments[at], "--") != 0; at++)
        take(arguments[at]);
    errno = EINVAL;
    if (at + 1 >= count)
        fail("no program is named");
    if (wanted.mounts >= 0)
        request.flags |= CLONE_NEWIPC | CLONE_NEWUTS | (wanted.zygote ? 0 : CLONE_NEWPID);
    if (wanted.group >= 0) {
        request.flags |= INTO_A_GROUP;
        request.cgroup = (uint64_t)wanted.group;
    }
    long made = syscall(SYS_clone3, &request, sizeof request);
    if (made == 0)
        start(arguments + at + 1);
    int32_t answer = (int32_t)(made < 0 ? -errno : made);
    if (write((int)wanted.report, &answer, sizeof answer) != sizeof answer)
        fail("its PID cannot be reported");
    return made < 0 ? FAILED : 0;
}
