/* Sets a FreeBSD guest's clock, names, entropy and addresses. In a jail clock and NIC are set from
 * outside, so the agent ignores them. */
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/in_var.h>
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

int self_hostname(const struct field *field)
{
    return sethostname((const char *)field->bytes, (int)field->length);
}

int self_machine_id(const struct field *field)
{
    return files_write_line("/etc/machine-id", field);
}

/* Writing to it reseeds the generator. */
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

static int has_nic(void)
{
    return !jailed() && if_nametoindex(INTERFACE) != 0;
}

int self_mac(const struct field *field)
{
    struct ifreq request = {.ifr_name = INTERFACE};

    if (!has_nic())
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
    int prefix;

    if (!has_nic())
        return 0;
    request.ifra_addr.sin_family = request.ifra_mask.sin_family = AF_INET;
    request.ifra_addr.sin_len = request.ifra_mask.sin_len = sizeof request.ifra_addr;
    if (identity_parse_address(field, &request.ifra_addr.sin_addr, &prefix) != 0)
        return -1;
    request.ifra_mask.sin_addr.s_addr = htonl(0xffffffffu << (32 - prefix));
    while (configure(SIOCDIFADDR, &old) == 0) /* a restored twin's address is replaced */
        ;
    return configure(SIOCAIFADDR, &request);
}

/* The gateway, which alone gives routes, has no guests with this kernel. */
int self_route(const struct field *field)
{
    (void)field;
    errno = ENOSYS;
    return -1;
}
