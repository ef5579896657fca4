/* Connections to servers that run in the sandbox, for who calls its ports from outside.
 *
 * What a server says goes out as KIND_STDOUT under the connection's number, its end as KIND_EXIT.
 */
#include "envd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PENDING_MAX (256u * 1024u)
#define FIRST_NUMBER 0x40000000u /* beyond any process's */
#define SYN_TRIES 2

struct link {
    uint32_t number; /* 0: a free place */
    uint32_t asker;  /* the request that waits for the connection, while it is being made */
    int fd, dialing, family, held, shut;
    uint16_t port;
    uint8_t *pending;
    size_t pending_start, pending_end;
};

static struct link table[LINKS_MAX];
static uint32_t last_number;

static struct link *find(uint64_t number)
{
    for (int i = 0; number && i < LINKS_MAX; i++)
        if (table[i].number == number)
            return &table[i];
    return NULL;
}

static void drop(struct link *link)
{
    if (link->fd >= 0)
        close(link->fd);
    free(link->pending);
    *link = (struct link){0};
}

/* Begin to connect to the loopback's address of a family: 0, or an errno. */
static int dial(struct link *link, int family)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(link->port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(link->port),
                               .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const void *address = family == AF_INET ? (void *)&four : (void *)&six;
    int one = 1, tries = SYN_TRIES;

    if (link->fd >= 0)
        close(link->fd);
    link->family = family;
    link->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd < 0)
        return errno;
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(link->fd, IPPROTO_TCP, TCP_SYNCNT, &tries, sizeof tries);
    if (connect(link->fd, address, family == AF_INET ? sizeof four : sizeof six) != 0 &&
        errno != EINPROGRESS)
        return errno;
    return 0;
}

/* How a connection that is being made has come out; servers may listen on IPv6 alone. */
static void settle(struct link *link, int bad)
{
    if (bad && link->family == AF_INET) {
        bad = dial(link, AF_INET6);
        if (!bad)
            return;
    }
    if (bad) {
        line_error(link->asker, bad == EADDRNOTAVAIL || bad == EAFNOSUPPORT ? ECONNREFUSED : bad,
                   "port");
        drop(link);
        return;
    }
    link->dialing = 0;
    line_put(KIND_ANSWER, link->asker, &link->number, sizeof link->number);
}

static void do_dial(const struct frame *request, const struct asked *asked)
{
    struct link *link = NULL;
    int bad;

    for (int i = 0; i < LINKS_MAX && !link; i++)
        if (!table[i].number)
            link = &table[i];
    if (!link || !asked->number || asked->number > 65535) {
        line_error(request->id, link ? EINVAL : EMFILE, "port");
        return;
    }
    last_number = FIRST_NUMBER + (last_number + 1) % FIRST_NUMBER;
    *link = (struct link){.number = last_number, .asker = request->id, .fd = -1, .dialing = 1,
                          .port = (uint16_t)asked->number};
    bad = dial(link, AF_INET);
    if (bad)
        settle(link, bad);
}

static int do_send(struct link *link, const struct asked *asked)
{
    size_t have = link->pending_end - link->pending_start;
    uint8_t *room;

    if (link->dialing || link->shut)
        return EPIPE;
    if (have + asked->data_length > PENDING_MAX)
        return EAGAIN;
    room = malloc(have + asked->data_length + 1);
    if (!room)
        return ENOMEM;
    memcpy(room, link->pending + link->pending_start, have);
    memcpy(room + have, asked->data, asked->data_length);
    free(link->pending);
    link->pending = room;
    link->pending_start = 0;
    link->pending_end = have + asked->data_length;
    return 0;
}

/* One, or all of them: who asked for those is gone. */
static int do_drop(const struct asked *asked)
{
    struct link *link = find(asked->handle);

    if (link)
        drop(link);
    else if (asked->handle)
        return ESRCH;
    for (int i = 0; !asked->handle && i < LINKS_MAX; i++)
        if (table[i].number)
            drop(&table[i]);
    return 0;
}

int links_dispatch(const struct frame *request)
{
    struct link *link;
    struct asked asked;
    int bad;

    if (request->kind < DO_DIAL || request->kind > DO_DROP)
        return 0;
    bad = ask(request, &asked);
    link = find(asked.handle);
    if (!bad && request->kind == DO_DIAL)
        do_dial(request, &asked);
    else {
        switch (bad ? 0 : request->kind) {
        case 0: break;
        case DO_DROP: bad = do_drop(&asked); break;
        case DO_SEND: bad = link ? do_send(link, &asked) : EPIPE; break;
        case DO_HOLD: link ? (link->held = 1) : (bad = ESRCH); break;
        default: link ? (link->held = 0) : (bad = ESRCH);
        }
        if (bad)
            line_error(request->id, bad, "connection");
        else
            line_put(KIND_ANSWER, request->id, "", 0);
    }
    forget(&asked);
    return 1;
}

int links_poll_set(struct pollfd *set)
{
    int count = 0;

    for (int i = 0; i < LINKS_MAX; i++) {
        struct link *link = &table[i];
        short events = link->held || link->dialing ? 0 : POLLIN;

        if (!link->number)
            continue;
        if (link->dialing || link->pending_end > link->pending_start)
            events |= POLLOUT;
        if (events)
            set[count++] = (struct pollfd){.fd = link->fd, .events = events};
    }
    return count;
}

static void end(struct link *link, int number)
{
    uint32_t ending[2] = {(uint32_t)number, 0};

    line_put(KIND_EXIT, link->number, ending, sizeof ending);
    drop(link);
}

static void pump(struct link *link)
{
    static uint8_t chunk[CHUNK];
    ssize_t moved;

    if (link->dialing) {
        struct pollfd ready = {.fd = link->fd, .events = POLLOUT};
        int bad = 0;
        socklen_t size = sizeof bad;

        if (poll(&ready, 1, 0) == 1) {
            getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &bad, &size);
            settle(link, bad);
        }
        return;
    }
    if (link->pending_end > link->pending_start) {
        moved = send(link->fd, link->pending + link->pending_start,
                     link->pending_end - link->pending_start, MSG_NOSIGNAL);
        if (moved > 0)
            link->pending_start += (size_t)moved;
        else if (errno != EAGAIN && errno != EINTR) {
            link->shut = 1; /* what the server still says is worth hearing */
            link->pending_start = link->pending_end;
        }
    }
    if (link->held)
        return;
    moved = recv(link->fd, chunk, sizeof chunk, 0);
    if (moved > 0)
        line_put(KIND_STDOUT, link->number, chunk, (size_t)moved);
    else if (moved == 0)
        end(link, 0);
    else if (errno != EAGAIN && errno != EINTR)
        end(link, errno);
}

void links_pump(void)
{
    for (int i = 0; i < LINKS_MAX; i++)
        if (table[i].number)
            pump(&table[i]);
}
