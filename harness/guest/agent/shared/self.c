/* The agent of a sandbox on its host's kernel. It cannot set a clock, a host name, a NIC or the
 * kernel's random state: the substrate gives the sandbox namespaces that have them already. Only
 * the key is the agent's own. */
#include "../agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int reopens; /* the channel is a path, which may be closed for a while */

static int not_permitted(void)
{
    errno = EPERM;
    return -1;
}

int self_wall(uint64_t ns)
{
    (void)ns;
    return not_permitted();
}

int self_hostname(const struct field *field)
{
    (void)field;
    return not_permitted();
}

int self_machine_id(const struct field *field)
{
    (void)field;
    return not_permitted();
}

int self_entropy(const struct field *field)
{
    (void)field;
    return not_permitted();
}

int self_mac(const struct field *field)
{
    (void)field;
    return not_permitted();
}

int self_address(const struct field *field)
{
    (void)field;
    return not_permitted();
}

int self_route(const struct field *field)
{
    (void)field;
    return not_permitted();
}

void system_mount(void)
{
    unsetenv("COPPICE_RUN"); /* marks this process; its children end with it */
    setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
    setenv("HOME", "/root", 1);
}

void system_quiet(void)
{
}

void system_load_modules(void)
{
}

/* Stdin and stdout, or the path in COPPICE_LINE. */
int system_open_line(void)
{
    const char *path = getenv("COPPICE_LINE");

    if (path) {
        reopens = 1;
        if (line_open(path) == 0)
            return 0;
        fprintf(stderr, "coppice agent: cannot open %s: %s\n", path, strerror(errno));
        return -1;
    }
    return line_use_stdio();
}

/* PID 1 of a namespace: its exit ends all processes there. */
void system_hung_up(void)
{
    if (!reopens)
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

/* The host's kernel stops and continues processes, so no doorbell is needed. */
void doorbell_wait(const struct frame *request)
{
    line_error(request->id, ENOSYS, "doorbell");
}
