/* PID 1's duties on FreeBSD. In a guest the agent is PID 1 and its channel is com1; in a jail its
 * channel is stdin and stdout. */
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
#define NIC "vtnet0"
#define INTERFACE "eth0"

static int is_init(void)
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
        perror(at); /* a kernel without tmpfs: use the memory disk */
}

/* The root is a memory disk, which must be remounted to be writable. */
void system_mount(void)
{
    setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
    setenv("HOME", "/root", 1);
    unsetenv("COPPICE_RUN");
    if (!is_init())
        return;
    struct iovec options[] = {
        {(void *)(uintptr_t)"fstype", 7}, {(void *)(uintptr_t)"ufs", 4},
        {(void *)(uintptr_t)"fspath", 7}, {(void *)(uintptr_t)"/", 2},
        {(void *)(uintptr_t)"from", 5},   {(void *)(uintptr_t)"/dev/md0", 9},
        {(void *)(uintptr_t)"rw", 3},     {NULL, 0}, /* overrides the kernel's "ro" */
    };
    if (nmount(options, sizeof options / sizeof *options, MNT_UPDATE) != 0)
        perror("/");
    mount_tmpfs("/tmp");
    mount_tmpfs("/run");
}

/* The NIC gets the same name as on Linux. */
void system_quiet(void)
{
    struct ifreq request = {0};
    int fd = is_init() ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;

    if (fd < 0)
        return;
    strlcpy(request.ifr_name, NIC, sizeof request.ifr_name);
    request.ifr_data = (caddr_t)(uintptr_t)INTERFACE;
    (void)ioctl(fd, SIOCSIFNAME, &request); /* fails without a NIC, which is fine */
    close(fd);
}

void system_load_modules(void)
{
}

int system_open_line(void)
{
    if (is_init()) {
        for (int tries = 0; access(LINE, F_OK) != 0 && tries < 2000; tries++)
            usleep(1000);
        return line_open(LINE);
    }
    return line_use_stdio();
}

void system_hung_up(void)
{
    if (!is_init())
        _exit(0);
    usleep(10000); /* the harness may reconnect */
}

void system_halt(void)
{
    if (!is_init())
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

/* bhyve is stopped and continued by signals, so no doorbell is needed. */
void doorbell_wait(const struct frame *request)
{
    line_error(request->id, ENOSYS, "doorbell");
}
