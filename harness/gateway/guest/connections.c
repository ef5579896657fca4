/* Connections to servers in the sandbox, for callers outside.
 *
 * Data from a server is sent as KIND_STDOUT with the connection's number, its end as KIND_EXIT.
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
#define FIRST_NUMBER 0x40000000u /* above every PID */
#define SYN_TRIES 2

struct connection {
    uint32_t number; /* 0: unused */
    uint32_t request; /* the id of the request that waits for the connection */
    int fd, dialing, family, paused, shut;
    uint16_t port;
    struct pending pending;
};

static struct connection table[CONNECTIONS_MAX];
static uint32_t last_number;

static struct connection *find(uint64_t number)
{
    for (int i = 0; number && i < CONNECTIONS_MAX; i++)
        if (table[i].number == number)
            return &table[i];
    return NULL;
}

static void drop(struct connection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd);
    pending_free(&connection->pending);
    *connection = (struct connection){0};
}

/* Start to connect to the loopback address of a family: 0, or an errno. */
static int dial(struct connection *connection, int family)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(connection->port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(connection->port),
                               .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const void *address = family == AF_INET ? (void *)&four : (void *)&six;
    int one = 1, tries = SYN_TRIES;

    if (connection->fd >= 0)
        close(connection->fd);
    connection->family = family;
    connection->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        return errno;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_SYNCNT, &tries, sizeof tries);
    if (connect(connection->fd, address, family == AF_INET ? sizeof four : sizeof six) != 0 &&
        errno != EINPROGRESS)
        return errno;
    return 0;
}

/* Report the result of a connection attempt; a server may listen on IPv6 only, so that is tried second. */
static void settle(struct connection *connection, int bad)
{
    if (bad && connection->family == AF_INET) {
        bad = dial(connection, AF_INET6);
        if (!bad)
            return;
    }
    if (bad) {
        line_error(connection->request, bad == EADDRNOTAVAIL || bad == EAFNOSUPPORT ? ECONNREFUSED : bad,
                   "port");
        drop(connection);
        return;
    }
    connection->dialing = 0;
    line_put(KIND_ANSWER, connection->request, &connection->number, sizeof connection->number);
}

static void do_dial(const struct frame *frame, const struct request *request)
{
    struct connection *connection = NULL;
    int bad;

    for (int i = 0; i < CONNECTIONS_MAX && !connection; i++)
        if (!table[i].number)
            connection = &table[i];
    if (!connection || !request->number || request->number > 65535) {
        line_error(frame->id, connection ? EINVAL : EMFILE, "port");
        return;
    }
    last_number = FIRST_NUMBER + (last_number + 1) % FIRST_NUMBER;
    *connection = (struct connection){.number = last_number, .request = frame->id, .fd = -1, .dialing = 1,
                          .port = (uint16_t)request->number};
    bad = dial(connection, AF_INET);
    if (bad)
        settle(connection, bad);
}

static int do_send(struct connection *connection, const struct request *request)
{
    if (connection->dialing || connection->shut)
        return EPIPE;
    return pending_add(&connection->pending, request->data, request->data_length, PENDING_MAX);
}

/* One, or all of them: who request for those is gone. */
static int do_drop(const struct request *request)
{
    struct connection *connection = find(request->handle);

    if (connection)
        drop(connection);
    else if (request->handle)
        return ESRCH;
    for (int i = 0; !request->handle && i < CONNECTIONS_MAX; i++)
        if (table[i].number)
            drop(&table[i]);
    return 0;
}

int connections_dispatch(const struct frame *frame)
{
    struct connection *connection;
    struct request request;
    int bad;

    if (frame->kind < DO_DIAL || frame->kind > DO_DROP)
        return 0;
    bad = request_parse(frame, &request);
    connection = find(request.handle);
    if (!bad && frame->kind == DO_DIAL)
        do_dial(frame, &request);
    else {
        switch (bad ? 0 : frame->kind) {
        case 0: break;
        case DO_DROP: bad = do_drop(&request); break;
        case DO_SEND: bad = connection ? do_send(connection, &request) : EPIPE; break;
        case DO_PAUSE_CONNECTION: connection ? (connection->paused = 1) : (bad = ESRCH); break;
        default: connection ? (connection->paused = 0) : (bad = ESRCH);
        }
        if (bad)
            line_error(frame->id, bad, "connection");
        else
            line_put(KIND_ANSWER, frame->id, "", 0);
    }
    request_free(&request);
    return 1;
}

int connections_poll_set(struct pollfd *set)
{
    int count = 0;

    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        struct connection *connection = &table[i];
        short events = connection->paused || connection->dialing ? 0 : POLLIN;

        if (!connection->number)
            continue;
        if (connection->dialing || pending_left(&connection->pending))
            events |= POLLOUT;
        if (events)
            set[count++] = (struct pollfd){.fd = connection->fd, .events = events};
    }
    return count;
}

static void end(struct connection *connection, int number)
{
    uint32_t ending[2] = {(uint32_t)number, 0};

    line_put(KIND_EXIT, connection->number, ending, sizeof ending);
    drop(connection);
}

static void pump(struct connection *connection)
{
    static uint8_t chunk[CHUNK];
    ssize_t moved;

    if (connection->dialing) {
        struct pollfd ready = {.fd = connection->fd, .events = POLLOUT};
        int bad = 0;
        socklen_t size = sizeof bad;

        if (poll(&ready, 1, 0) == 1) {
            getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &bad, &size);
            settle(connection, bad);
        }
        return;
    }
    if (pending_left(&connection->pending)) {
        moved = send(connection->fd, pending_data(&connection->pending),
                     pending_left(&connection->pending), MSG_NOSIGNAL);
        if (moved > 0)
            pending_drop(&connection->pending, (size_t)moved);
        else if (errno != EAGAIN && errno != EINTR) {
            connection->shut = 1; /* the server may still send */
            pending_free(&connection->pending);
        }
    }
    if (connection->paused)
        return;
    moved = recv(connection->fd, chunk, sizeof chunk, 0);
    if (moved > 0)
        line_put(KIND_STDOUT, connection->number, chunk, (size_t)moved);
    else if (moved == 0)
        end(connection, 0);
    else if (errno != EAGAIN && errno != EINTR)
        end(connection, errno);
}

void connections_pump(void)
{
    for (int i = 0; i < CONNECTIONS_MAX; i++)
        if (table[i].number)
            pump(&table[i]);
}
