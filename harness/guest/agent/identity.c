/* Who this guest is: answers to nonces, and taking on an identity after a restore. */
#include "agent.h"
#include "siphash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
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

static uint8_t key[16]; /* all zero until the first identity */

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int set_wall(uint64_t ns)
{
    struct timespec wall = {.tv_sec = (time_t)(ns / 1000000000u),
                            .tv_nsec = (long)(ns % 1000000000u)};
    return clock_settime(CLOCK_REALTIME, &wall);
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
        set_wall(wall);
    answer[0] = identity_sign(request->payload + 8, request->length - 8);
    answer[1] = now_ns(CLOCK_REALTIME);
    answer[2] = now_ns(CLOCK_MONOTONIC);
    line_put(KIND_ANSWER, request->id, answer, sizeof answer);
}

static void read_word(const char *path, char *out, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, out, room - 1);

    out[got > 0 ? got : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    if (fd >= 0)
        close(fd);
}

/* -> "key=value" lines: what this guest is and how it calls itself now. */
void identity_hello(const struct frame *request)
{
    char text[1024], boot[64], machine[64], mac[64], random[33] = "";
    uint8_t bytes[16];
    struct utsname name;
    struct ifreq query = {.ifr_name = INTERFACE};
    char address[INET_ADDRSTRLEN] = "";
    int fd, length;

    uname(&name);
    read_word("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    read_word("/etc/machine-id", machine, sizeof machine);
    read_word("/sys/class/net/" INTERFACE "/address", mac, sizeof mac);
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

static int write_word(const char *path, const uint8_t *bytes, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    int bad = fd < 0 || write(fd, bytes, length) != (ssize_t)length || write(fd, "\n", 1) != 1;

    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

/* Credits the bytes and re-keys the generator, so that two restored twins part here. */
static int reseed(const uint8_t *bytes, size_t length)
{
    struct entropy pool;
    int fd, bad;

    if (length > sizeof pool.bytes)
        length = sizeof pool.bytes;
    pool.credit_bits = (int)length * 8;
    pool.length = (int)length;
    memcpy(pool.bytes, bytes, length);
    fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    bad = fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) != 0 || ioctl(fd, RNDRESEEDCRNG) != 0;
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

static int set_mac(int fd, const struct field *field)
{
    struct ifreq request = {.ifr_name = INTERFACE};

    if (field->length != 6) {
        errno = EINVAL;
        return -1;
    }
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, field->bytes, 6);
    return ioctl(fd, SIOCSIFHWADDR, &request);
}

static int set_address(int fd, const struct field *field)
{
    struct ifreq request = {.ifr_name = INTERFACE};
    struct sockaddr_in *at = (struct sockaddr_in *)&request.ifr_addr;
    char text[32];
    char *slash;
    int prefix;

    snprintf(text, sizeof text, "%.*s", (int)field->length, (const char *)field->bytes);
    slash = strchr(text, '/');
    prefix = slash ? atoi(slash + 1) : -1;
    if (slash)
        *slash = 0;
    at->sin_family = AF_INET;
    if (prefix < 1 || prefix > 32 || inet_pton(AF_INET, text, &at->sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    if (ioctl(fd, SIOCSIFADDR, &request) != 0)
        return -1;
    at->sin_addr.s_addr = htonl(0xffffffffu << (32 - prefix));
    if (ioctl(fd, SIOCSIFNETMASK, &request) != 0)
        return -1;
    if (ioctl(fd, SIOCGIFFLAGS, &request) != 0)
        return -1;
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &request);
}

void identity_take(const struct frame *request)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    struct field field;
    int more, bad = 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    while (!bad && (more = field_next(&at, end, &field)) != 0) {
        if (more < 0) {
            errno = EINVAL;
            bad = -1;
            break;
        }
        switch (field.tag) {
        case TAG_HOSTNAME:
            bad = sethostname((const char *)field.bytes, field.length) ||
                  write_word("/etc/hostname", field.bytes, field.length);
            break;
        case TAG_MACHINE_ID:
            bad = write_word("/etc/machine-id", field.bytes, field.length);
            break;
        case TAG_MAC: bad = set_mac(fd, &field); break;
        case TAG_ADDRESS: bad = set_address(fd, &field); break;
        case TAG_WALL_NS: bad = set_wall(field_number(&field)); break;
        case TAG_WALL_AT_RING_NS: /* exact, however long this request was on its way */
            bad = set_wall(field_number(&field) + doorbell_age_ns());
            break;
        case TAG_ENTROPY: bad = reseed(field.bytes, field.length); break;
        case TAG_KEY:
            if (field.length == sizeof key)
                memcpy(key, field.bytes, sizeof key);
            else {
                errno = EINVAL;
                bad = -1;
            }
            break;
        default: errno = EINVAL; bad = -1;
        }
    }
    if (bad) {
        char what[32];
        snprintf(what, sizeof what, "identity field %d", field.tag);
        line_error(request->id, errno, what);
    } else
        line_put(KIND_ANSWER, request->id, "", 0);
    if (fd >= 0)
        close(fd);
}
