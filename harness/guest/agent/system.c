/* PID 1's duties on Linux: file systems, modules, the channel, power off. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Without a console the kernel starts PID 1 without these descriptors; messages of the agent then
 * go to the kernel's log. */
static void complete_stdio(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 2);
    if (fd == 2) {
        int log = open("/dev/kmsg", O_WRONLY);
        if (log >= 0)
            dup2(log, 2);
        fd = log;
    }
    if (fd > 2)
        close(fd);
}

void system_mount(void)
{
    static const struct { const char *type, *at, *options; } table[] = {
        {"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
        {"tmpfs", "/tmp", "mode=1777"}, {"tmpfs", "/run", "mode=755"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mkdir(table[i].at, 0755);
        mount(table[i].type, table[i].at, table[i].type, 0, table[i].options);
    }
    complete_stdio();
    setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
    setenv("HOME", "/root", 1);
}

/* Disables periodic kernel work that wakes an idle guest: proactive compaction, statistics every
 * second, writeback (there is no disk), detection of hung tasks. */
void system_quiet(void)
{
    static const struct { const char *path, *value; } table[] = {
        {"/proc/sys/vm/compaction_proactiveness", "0"},
        {"/proc/sys/vm/stat_interval", "3600"},
        {"/proc/sys/vm/dirty_writeback_centisecs", "0"},
        {"/proc/sys/kernel/hung_task_timeout_secs", "0"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int fd = open(table[i].path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            continue; /* a kernel without this setting */
        if (write(fd, table[i].value, strlen(table[i].value)) < 0)
            perror(table[i].path);
        close(fd);
    }
}

static int chosen(const struct dirent *entry)
{
    return strstr(entry->d_name, ".ko") != NULL;
}

/* Loads NN-name.ko in the order of their numbers, which follows their dependencies. */
static void load_modules(const char *directory)
{
    struct dirent **entries;
    int count = scandir(directory, &entries, chosen, alphasort);

    for (int i = 0; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
            perror(path);
        close(fd);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

void system_load_modules(void)
{
    load_modules("/modules");
    /* QEMU's microvm has no PCI bus; a bhyve guest has its NIC on it. */
    if (access("/sys/bus/pci/devices/0000:00:00.0", F_OK) == 0)
        load_modules("/modules/pci");
}

/* The channel is the virtio port, unless the kernel arguments name another (coppice.line=ttyS0). */
int system_open_line(void)
{
    char arguments[4096] = "", path[64];
    char *named;
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t got = read(fd, arguments, sizeof arguments - 1);
        arguments[got > 0 ? got : 0] = 0;
        close(fd);
    }
    named = strstr(arguments, "coppice.line=");
    if (named) {
        named += strlen("coppice.line=");
        named[strcspn(named, " \n")] = 0;
    }
    snprintf(path, sizeof path, "/dev/%s", named ? named : "vport0p1");
    if (line_open_patiently(path) == 0)
        return 0;
    fprintf(stderr, "coppice agent: cannot open %s: %s\n", path, strerror(errno));
    return -1;
}

void system_hung_up(void)
{
    usleep(10000); /* the harness may reconnect */
}

void system_halt(void)
{
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}
