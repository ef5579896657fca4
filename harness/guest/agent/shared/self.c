/* The agent of a sandbox that runs on its host's kernel. Nothing in this program can set a clock, a
 * host's name, a card or the kernel's random state: whoever starts the sandbox gives it namespaces
 * that have their names already. It is left with a key of its own. */
#include "../agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int named; /* whether a path names the line, which may be gone for a while */

static int not_ours(void)
{
    errno = EPERM;
    return -1;
}

int self_wall(uint64_t ns)
{
    (void)ns;
    return not_ours();
}

int self_hostname(const struct field *field)
{
    (void)field;
    return not_ours();
}

int self_machine_id(const struct field *field)
{
    (void)field;
    return not_ours();
}

int self_entropy(const struct field *field)
{
    (void)field;
    return not_ours();
}

int self_mac(const struct field *field)
{
    (void)field;
    return not_ours();
}

int self_address(const struct field *field)
{
    (void)field;
    return not_ours();
}

void system_mount(void)
{
    unsetenv("COPPICE_RUN"); /* marks this process; what it starts is found with it */
    setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
    setenv("HOME", "/root", 1);
}

void system_quiet(void)
{
}

void system_load_modules(void)
{
}

/* Standard input and output, or what COPPICE_LINE names. Both then lead nowhere. */
int system_open_line(void)
{
    const char *path = getenv("COPPICE_LINE");
    int nowhere;

    if (path) {
        named = 1;
        if (line_open(path) == 0)
            return 0;
        fprintf(stderr, "coppice agent: cannot open %s: %s\n", path, strerror(errno));
        return -1;
    }
    line_use(fcntl(0, F_DUPFD_CLOEXEC, 3), fcntl(1, F_DUPFD_CLOEXEC, 3));
    nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nowhere >= 0) {
        dup2(nowhere, 0);
        dup2(nowhere, 1);
    }
    return line_fd() < 0 ? -1 : 0;
}

/* As PID 1 of its namespace it takes along all that runs there. */
void system_hung_up(void)
{
    if (!named)
        _exit(0);
    usleep(10000);
}

void system_halt(void)
{
    _exit(0);
}

uint64_t doorbell_age_ns(void)
{
    return 0;
}

/* A host's kernel stops and continues a process by itself: there is nothing to wait at. */
void doorbell_wait(const struct frame *request)
{
    line_error(request->id, ENOSYS, "doorbell");
}
