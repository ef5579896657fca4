/* The guest's identity: answers to nonces, and the identity it is given after a restore. */
#include "agent.h"
#include "siphash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifdef __FreeBSD__
#include <ifaddrs.h>
#include <net/if_dl.h>
#include <sys/sysctl.h>
#endif

#define INTERFACE "eth0"

static uint8_t key[16]; /* all zero until the first identity */

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t identity_sign(const uint8_t *bytes, size_t length)
{
    return siphash(key, bytes, length);
}

/* u64 wall clock (ns, 0: leave it), nonce -> u64 SipHash(key, nonce), u64 wall, u64 monotonic. */
void identity_ping(const struct frame *request)
{
    uint64_t answer[3], wall;

    if (request->length < 8) {
        line_error(request->id, EINVAL, "ping without a clock");
        return;
    }
    memcpy(&wall, request->payload, 8);
    if (wall)
        self_wall(wall);
    answer[0] = identity_sign(request->payload + 8, request->length - 8);
    answer[1] = now_ns(CLOCK_REALTIME);
    answer[2] = now_ns(CLOCK_MONOTONIC);
    line_put(KIND_ANSWER, request->id, answer, sizeof answer);
}

static void read_line(const char *path, char *out, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, out, room - 1);

    out[got > 0 ? got : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    if (fd >= 0)
        close(fd);
}

#ifdef __FreeBSD__
static void read_boot_id(char *out, size_t room)
{
    uint8_t bytes[16];
    size_t length = sizeof bytes;

    *out = 0;
    if (sysctlbyname("kern.boot_id", bytes, &length, NULL, 0) == 0)
        for (size_t i = 0; i < length; i++)
            snprintf(out + 2 * i, room - 2 * i, "%02x", bytes[i]);
}

static void read_mac(char *out, size_t room)
{
    struct ifaddrs *all = NULL, *entry;

    *out = 0;
    if (getifaddrs(&all) != 0)
        return;
    for (entry = all; entry; entry = entry->ifa_next)
        if (entry->ifa_addr && entry->ifa_addr->sa_family == AF_LINK &&
            strcmp(entry->ifa_name, INTERFACE) == 0) {
            const struct sockaddr_dl *link = (const void *)entry->ifa_addr;
            const uint8_t *mac = (const uint8_t *)LLADDR(link);
            snprintf(out, room, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                     mac[4], mac[5]);
        }
    freeifaddrs(all);
}
#else
static void read_boot_id(char *out, size_t room)
{
    read_line("/proc/sys/kernel/random/boot_id", out, room);
}

static void read_mac(char *out, size_t room)
{
    read_line("/sys/class/net/" INTERFACE "/address", out, room);
}
#endif

/* -> "key=value" lines: the guest's kernel, names and addresses. */
void identity_hello(const struct frame *request)
{
    char text[1024], boot[64], machine[64], mac[64], random[33] = "";
    uint8_t bytes[16];
    struct utsname name;
    struct ifreq query = {.ifr_name = INTERFACE};
    char address[INET_ADDRSTRLEN] = "";
    int fd, length;

    uname(&name);
    read_boot_id(boot, sizeof boot);
    read_line("/etc/machine-id", machine, sizeof machine);
    read_mac(mac, sizeof mac);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        if (ioctl(fd, SIOCGIFADDR, &query) == 0)
            inet_ntop(AF_INET, &((struct sockaddr_in *)&query.ifr_addr)->sin_addr, address,
                      sizeof address);
        close(fd);
    }
    fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, bytes, sizeof bytes) == sizeof bytes)
            for (size_t i = 0; i < sizeof bytes; i++)
                snprintf(random + 2 * i, 3, "%02x", bytes[i]);
        close(fd);
    }
    length = snprintf(text, sizeof text,
                      "protocol=%d\nkernel=%s\nhostname=%s\nboot_id=%s\nmachine_id=%s\nmac=%s\n"
                      "address=%s\nrandom=%s\nwall_ns=%llu\n",
                      PROTOCOL_VERSION, name.release, name.nodename, boot, machine, mac, address,
                      random, (unsigned long long)now_ns(CLOCK_REALTIME));
    line_put(KIND_ANSWER, request->id, text, (size_t)length);
}

int identity_parse_address(const struct field *field, struct in_addr *address, int *prefix)
{
    char text[32];
    char *slash;

    snprintf(text, sizeof text, "%.*s", (int)field->length, (const char *)field->bytes);
    slash = strchr(text, '/');
    *prefix = slash ? atoi(slash + 1) : -1;
    if (slash)
        *slash = 0;
    if (*prefix < 1 || *prefix > 32 || inet_pton(AF_INET, text, address) != 1) {
        errno = EINVAL;
        return -1;
    }
    return 0;
}

void identity_take(const struct frame *request)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    struct field field;
    int more, failed = 0;

    while (!failed && (more = field_next(&at, end, &field)) != 0) {
        if (more < 0) {
            errno = EINVAL;
            failed = -1;
            break;
        }
        switch (field.tag) {
        case TAG_HOSTNAME: failed = self_hostname(&field); break;
        case TAG_MACHINE_ID: failed = self_machine_id(&field); break;
        case TAG_MAC: failed = self_mac(&field); break;
        case TAG_ADDRESS: failed = self_address(&field); break;
        case TAG_ROUTE: failed = self_route(&field); break;
        case TAG_WALL_NS: failed = self_wall(field_number(&field)); break;
        case TAG_WALL_AT_RING_NS: /* exact, whatever the delay of this request */
            failed = self_wall(field_number(&field) + doorbell_age_ns());
            break;
        case TAG_ENTROPY: failed = self_entropy(&field); break;
        case TAG_KEY:
            if (field.length == sizeof key)
                memcpy(key, field.bytes, sizeof key);
            else {
                errno = EINVAL;
                failed = -1;
            }
            break;
        default: errno = EINVAL; failed = -1;
        }
    }
    if (failed) {
        char what[32];
        snprintf(what, sizeof what, "identity field %d", field.tag);
        line_error(request->id, errno, what);
    } else
        line_put(KIND_ANSWER, request->id, "", 0);
}
