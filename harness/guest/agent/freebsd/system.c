/* What the agent does on FreeBSD instead of what it does on Linux: as the first process of a guest,
 * which has com1 for its line, or in a jail, where its line is its standard input and output. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/param.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/sysctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define LINE "/dev/cuau0"
#define CARD "vtnet0"
#define INTERFACE "eth0"

static int first(void)
{
    return getpid() == 1;
}

static void mount_tmpfs(const char *at)
{
    struct iovec options[] = {
        {(void *)(uintptr_t)"fstype", 7}, {(void *)(uintptr_t)"tmpfs", 6},
        {(void *)(uintptr_t)"fspath", 7}, {(void *)(uintptr_t)at, strlen(at) + 1},
    };
    if (nmount(options, sizeof options / sizeof *options, 0) != 0)
        perror(at); /* a kernel without it: the memory disk serves */
}

/* The root is a disk in memory, and writable once it is mounted anew. */
void system_mount(void)
{
    setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
    setenv("HOME", "/root", 1);
    unsetenv("COPPICE_RUN");
    if (!first())
        return;
    struct iovec options[] = {
        {(void *)(uintptr_t)"fstype", 7}, {(void *)(uintptr_t)"ufs", 4},
        {(void *)(uintptr_t)"fspath", 7}, {(void *)(uintptr_t)"/", 2},
        {(void *)(uintptr_t)"from", 5},   {(void *)(uintptr_t)"/dev/md0", 9},
        {(void *)(uintptr_t)"rw", 3},     {NULL, 0}, /* or the kernel's own "ro" is kept */
    };
    if (nmount(options, sizeof options / sizeof *options, MNT_UPDATE) != 0)
        perror("/");
    mount_tmpfs("/tmp");
    mount_tmpfs("/run");
}

/* Cards are called the same everywhere. */
void system_quiet(void)
{
    struct ifreq request = {0};
    int fd = first() ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;

    if (fd < 0)
        return;
    strlcpy(request.ifr_name, CARD, sizeof request.ifr_name);
    request.ifr_data = (caddr_t)(uintptr_t)INTERFACE;
    (void)ioctl(fd, SIOCSIFNAME, &request); /* one without a card has none to name */
    close(fd);
}

void system_load_modules(void)
{
}

int system_open_line(void)
{
    int nowhere;

    if (first()) {
        for (int tries = 0; access(LINE, F_OK) != 0 && tries < 2000; tries++)
            usleep(1000);
        return line_open(LINE);
    }
    line_use(fcntl(0, F_DUPFD_CLOEXEC, 3), fcntl(1, F_DUPFD_CLOEXEC, 3));
    nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nowhere >= 0) {
        dup2(nowhere, 0);
        dup2(nowhere, 1);
    }
    return line_fd() < 0 ? -1 : 0;
}

void system_hung_up(void)
{
    if (!first())
        _exit(0);
    usleep(10000); /* it may come back */
}

void system_halt(void)
{
    if (!first())
        _exit(0);
    sync();
    reboot(RB_POWEROFF);
    for (;;)
        pause();
}

uint64_t doorbell_age_ns(void)
{
    return 0;
}

/* bhyve is stopped and continued by signals: the agent may as well wait where it reads. */
void doorbell_wait(const struct frame *request)
{
    line_error(request->id, ENOSYS, "doorbell");
}
