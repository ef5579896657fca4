/* Sets a Linux guest's clock, names, entropy and addresses. */
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define INTERFACE "eth0"

/* From the kernel's random(4) interface; musl's compiler wrapper sees no kernel headers. */
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)
struct entropy {
    int credit_bits, length;
    uint8_t bytes[256];
};

int self_wall(uint64_t ns)
{
    struct timespec wall = {.tv_sec = (time_t)(ns / 1000000000u),
                            .tv_nsec = (long)(ns % 1000000000u)};
    return clock_settime(CLOCK_REALTIME, &wall);
}

int self_hostname(const struct field *field)
{
    return sethostname((const char *)field->bytes, field->length) ||
                   files_write_line("/etc/hostname", field)
               ? -1
               : 0;
}

int self_machine_id(const struct field *field)
{
    return files_write_line("/etc/machine-id", field);
}

/* Credits the bytes and reseeds the generator, so that restored twins differ from here on. */
int self_entropy(const struct field *field)
{
    struct entropy pool;
    size_t length = field->length;
    int fd, bad;

    if (length > sizeof pool.bytes)
        length = sizeof pool.bytes;
    pool.credit_bits = (int)length * 8;
    pool.length = (int)length;
    memcpy(pool.bytes, field->bytes, length);
    fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    bad = fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) != 0 || ioctl(fd, RNDRESEEDCRNG) != 0;
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

/* An ioctl on a temporary socket. */
static int configure(unsigned long what, struct ifreq *request)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int bad = fd < 0 || ioctl(fd, what, request) != 0;

    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

int self_mac(const struct field *field)
{
    struct ifreq request = {.ifr_name = INTERFACE};

    if (field->length != 6) {
        errno = EINVAL;
        return -1;
    }
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, field->bytes, 6);
    return configure(SIOCSIFHWADDR, &request);
}

int self_address(const struct field *field)
{
    struct ifreq request = {.ifr_name = INTERFACE};
    struct sockaddr_in *at = (struct sockaddr_in *)&request.ifr_addr;
    int prefix;

    at->sin_family = AF_INET;
    if (identity_parse_address(field, &at->sin_addr, &prefix) != 0)
        return -1;
    if (configure(SIOCSIFADDR, &request) != 0)
        return -1;
    at->sin_addr.s_addr = htonl(0xffffffffu << (32 - prefix));
    if (configure(SIOCSIFNETMASK, &request) != 0)
        return -1;
    if (configure(SIOCGIFFLAGS, &request) != 0)
        return -1;
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    return configure(SIOCSIFFLAGS, &request);
}

/* Setting the address has removed the routes of the former one. */
int self_route(const struct field *field)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = (char[]){INTERFACE}};
    struct sockaddr_in via = {.sin_family = AF_INET}, any = {.sin_family = AF_INET};
    char text[INET_ADDRSTRLEN];
    int fd, bad;

    snprintf(text, sizeof text, "%.*s", (int)field->length, (const char *)field->bytes);
    if (inet_pton(AF_INET, text, &via.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    memcpy(&route.rt_gateway, &via, sizeof via);
    memcpy(&route.rt_dst, &any, sizeof any);
    memcpy(&route.rt_genmask, &any, sizeof any);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bad = fd < 0 || (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST);
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}
