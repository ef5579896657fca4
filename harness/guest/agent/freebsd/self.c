/* What a FreeBSD guest is told to be. In a jail its clock and its card are not its own to set: who
 * makes the jail gives it those, and the agent leaves them. */
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/in_var.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/sysctl.h>
#include <time.h>
#include <unistd.h>

#define INTERFACE "eth0"

static int jailed(void)
{
    int yes = 0;
    size_t length = sizeof yes;

    return sysctlbyname("security.jail.jailed", &yes, &length, NULL, 0) == 0 && yes;
}

int self_wall(uint64_t ns)
{
    struct timespec wall = {.tv_sec = (time_t)(ns / 1000000000u),
                            .tv_nsec = (long)(ns % 1000000000u)};

    return jailed() ? 0 : clock_settime(CLOCK_REALTIME, &wall);
}

static int write_word(const char *path, const struct field *field)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    int bad = fd < 0 || write(fd, field->bytes, field->length) != (ssize_t)field->length ||
              write(fd, "\n", 1) != 1;

    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

int self_hostname(const struct field *field)
{
    return sethostname((const char *)field->bytes, (int)field->length);
}

int self_machine_id(const struct field *field)
{
    return write_word("/etc/machine-id", field);
}

/* What is written to it is mixed into the generator, which is seeded anew by it. */
int self_entropy(const struct field *field)
{
    int fd, bad;

    if (jailed())
        return 0;
    fd = open("/dev/random", O_WRONLY | O_CLOEXEC);
    bad = fd < 0 || write(fd, field->bytes, field->length) != (ssize_t)field->length;
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

static int configure(unsigned long what, void *request)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int bad = fd < 0 || ioctl(fd, what, request) != 0;

    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

static int has_card(void)
{
    return !jailed() && if_nametoindex(INTERFACE) != 0;
}

int self_mac(const struct field *field)
{
    struct ifreq request = {.ifr_name = INTERFACE};

    if (!has_card())
        return 0;
    if (field->length != 6) {
        errno = EINVAL;
        return -1;
    }
    request.ifr_addr.sa_family = AF_LINK;
    request.ifr_addr.sa_len = 6;
    memcpy(request.ifr_addr.sa_data, field->bytes, 6);
    return configure(SIOCSIFLLADDR, &request);
}

int self_address(const struct field *field)
{
    struct in_aliasreq request = {.ifra_name = INTERFACE};
    struct ifreq old = {.ifr_name = INTERFACE};
    char text[32];
    char *slash;
    int prefix;

    if (!has_card())
        return 0;
    snprintf(text, sizeof text, "%.*s", (int)field->length, (const char *)field->bytes);
    slash = strchr(text, '/');
    prefix = slash ? atoi(slash + 1) : -1;
    if (slash)
        *slash = 0;
    request.ifra_addr.sin_family = request.ifra_mask.sin_family = AF_INET;
    request.ifra_addr.sin_len = request.ifra_mask.sin_len = sizeof request.ifra_addr;
    if (prefix < 1 || prefix > 32 || inet_pton(AF_INET, text, &request.ifra_addr.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    request.ifra_mask.sin_addr.s_addr = htonl(0xffffffffu << (32 - prefix));
    while (configure(SIOCDIFADDR, &old) == 0) /* one address: a restored twin had another */
        ;
    return configure(SIOCAIFADDR, &request);
}
