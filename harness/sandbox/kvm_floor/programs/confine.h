/* Confines the VMM to what it does once it serves: a seccomp filter, and no user of this system. */
#ifndef COPPICE_FLOOR_CONFINE_H
#define COPPICE_FLOOR_CONFINE_H

#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534
#define KVM_REQUESTS 0xae00u /* the type of every ioctl of KVM, in bits 8 to 15 */
#define CALL(name) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* -1 when it cannot be confined. COPPICE_CONFINEMENT=none: it is not meant to be; partial: as far
 * as this host can. */
static int confine(void)
{
    static struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        /* First the calls between a request and its answer. */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_REQUESTS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 25 /* ENOTTY */),
        CALL(epoll_pwait), CALL(recvmsg), CALL(sendto), CALL(setitimer), CALL(recvfrom),
        CALL(epoll_ctl), CALL(mmap), CALL(munmap), CALL(madvise), CALL(mprotect), CALL(close), CALL(brk),
        CALL(write), CALL(writev), CALL(rt_sigreturn), CALL(clock_gettime), CALL(exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog filter = {sizeof steps / sizeof *steps, steps};
    const char *chosen = getenv("COPPICE_CONFINEMENT");
    int failed = chosen && strcmp(chosen, "partial") == 0 ? 0 : -1;

    if (chosen && strcmp(chosen, "none") == 0)
        return 0;
    if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
                           setresuid(NOBODY, NOBODY, NOBODY) < 0) && failed)
        return failed;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 && failed)
        return failed;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) < 0 ? failed : 0;
}

#endif
