/* Makes the sandbox's disk envd's root; the agent keeps the initramfs. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/mnt"

static int check(int result, const char *what)
{
    if (result != 0)
        perror(what);
    return result;
}

/* Bind-mounts a file of the agent, which writes the guest's names there. */
static void bind_file(const char *file, const char *at)
{
    int fd = open(file, O_RDONLY | O_CREAT | O_CLOEXEC, 0444);

    if (fd >= 0)
        close(fd);
    fd = open(at, O_RDONLY | O_CREAT | O_CLOEXEC, 0444);
    if (fd >= 0)
        close(fd);
    check(mount(file, at, NULL, MS_BIND, NULL), at);
}

/* Servers in the sandbox listen on the loopback interface and are reached there. */
static void loopback_up(void)
{
    struct ifreq interface = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    check(fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &interface), "lo");
    if (fd >= 0)
        close(fd);
}

int root_enter(const char *device)
{
    static const struct { const char *type, *at, *options; } table[] = {
        {"proc", ROOT "/proc", ""}, {"sysfs", ROOT "/sys", ""}, {"devtmpfs", ROOT "/dev", ""},
        {"devpts", ROOT "/dev/pts", "gid=5,mode=620,ptmxmode=666"},
        {"tmpfs", ROOT "/dev/shm", "mode=1777"}, {"tmpfs", ROOT "/run", "mode=755"},
    };

    for (int tries = 0; access(device, F_OK) != 0 && tries < 2000; tries++)
        usleep(1000);
    loopback_up();
    mkdir(ROOT, 0755);
    if (check(unshare(CLONE_NEWNS), "unshare") || check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/") ||
        check(mount(device, ROOT, "ext4", MS_NOATIME, ""), device))
        return -1;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mkdir(table[i].at, 0755);
        check(mount(table[i].type, table[i].at, table[i].type, 0, table[i].options), table[i].at);
    }
    bind_file("/etc/hostname", ROOT "/etc/hostname");
    bind_file("/etc/machine-id", ROOT "/etc/machine-id");
    if (check(chdir(ROOT), ROOT) || check(mount(ROOT, "/", NULL, MS_MOVE, NULL), "move") || check(chroot("."), ROOT))
        return -1;
    symlink("/proc/self/fd", "/dev/fd");
    symlink("/proc/self/fd/0", "/dev/stdin");
    symlink("/proc/self/fd/1", "/dev/stdout");
    symlink("/proc/self/fd/2", "/dev/stderr");
    symlink("pts/ptmx", "/dev/ptmx");
    chmod("/dev/pts/ptmx", 0666);
    return check(chdir("/"), "/");
}
