/* Reads and writes frames on the channel to the harness. */
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define HEADER 16u
#define ROOM (2u * (FRAME_MAX + HEADER))
#define OPEN_TRIES 2000
#define OPEN_PAUSE_US 1000

static int line = -1, line_out = -1;
static uint8_t inbox[ROOM], outbox[ROOM];
static size_t in_start, in_end, out_end;

static uint32_t fnv1a(const uint8_t *bytes, size_t count)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}

int field_next(const uint8_t **at, const uint8_t *end, struct field *out)
{
    if (*at == end)
        return 0;
    if (end - *at < 5)
        return -1;
    out->tag = **at;
    out->length = load32(*at + 1);
    if ((size_t)(end - *at - 5) < out->length)
        return -1;
    out->bytes = *at + 5;
    *at += 5 + out->length;
    return 1;
}

uint64_t field_number(const struct field *field)
{
    uint64_t value = 0;
    memcpy(&value, field->bytes, field->length < 8 ? field->length : 8);
    return value;
}

int line_open(const char *path)
{
    struct termios raw;

    line = line_out = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (line >= 0 && tcgetattr(line, &raw) == 0) { /* a UART, not a virtio port */
        cfmakeraw(&raw);
        cfsetspeed(&raw, B115200);
        tcsetattr(line, TCSANOW, &raw);
    }
    return line < 0 ? -1 : 0;
}

/* Waits for the open to succeed, not for the path to appear: Linux shows a virtio port in /dev
 * before it can be opened (ENXIO). */
int line_open_patiently(const char *path)
{
    int tries = 0;

    while (line_open(path) < 0) {
        if (++tries == OPEN_TRIES)
            return -1;
        usleep(OPEN_PAUSE_US);
    }
    return 0;
}

void line_use(int in, int out)
{
    line = in;
    line_out = out;
}

int line_use_stdio(void)
{
    int null;

    line_use(fcntl(0, F_DUPFD_CLOEXEC, 3), fcntl(1, F_DUPFD_CLOEXEC, 3));
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
    }
    return line < 0 ? -1 : 0;
}

int line_fd(void)
{
    return line;
}

/* 0 to retry after EINTR, or after EAGAIN once ready: gVisor returns EAGAIN for blocking host
 * sockets at times. -1 for other errors. */
static int again(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};

    int number = errno;

    if (number == EAGAIN)
        poll(&ready, 1, -1);
    return number == EINTR || number == EAGAIN ? 0 : -1;
}

int line_fill(int wait)
{
    if (in_start == in_end)
        in_start = in_end = 0;
    else if (in_start > ROOM / 2) {
        memmove(inbox, inbox + in_start, in_end - in_start);
        in_end -= in_start;
        in_start = 0;
    }
    if (!wait) {
        struct pollfd ready = {.fd = line, .events = POLLIN};
        if (poll(&ready, 1, 0) <= 0 || !(ready.revents & POLLIN))
            return 0;
    }
    ssize_t got = read(line, inbox + in_end, ROOM - in_end);
    if (got <= 0)
        return got < 0 ? again(line, POLLIN) : -1;
    in_end += (size_t)got;
    return 0;
}

/* A request in several frames: the payloads so far. */
static struct {
    uint8_t *bytes;
    size_t length;
    uint32_t id;
    uint8_t kind;
    int bad, whole; /* an errno; all of it has come */
} parts;

static void forget_parts(void)
{
    free(parts.bytes);
    memset(&parts, 0, sizeof parts);
}

/* 1 with the whole request when this was its last or only frame. One that is too long is refused. */
static int assemble(struct frame *frame)
{
    int more = frame->flags & FLAG_MORE;
    uint8_t *grown;

    if (parts.id != frame->id || parts.kind != frame->kind)
        forget_parts(); /* its sender is gone */
    if (!more && !parts.kind)
        return 1;
    parts.id = frame->id;
    parts.kind = frame->kind;
    if (parts.length + frame->length > REQUEST_MAX)
        parts.bad = E2BIG;
    else if (!parts.bad) {
        grown = realloc(parts.bytes, parts.length + frame->length + 1);
        if (grown) {
            memcpy(grown + parts.length, frame->payload, frame->length);
            parts.bytes = grown;
            parts.length += frame->length;
        } else
            parts.bad = ENOMEM;
    }
    if (more)
        return 0;
    parts.whole = 1;
    frame->payload = parts.bytes;
    frame->length = (uint32_t)parts.length;
    if (parts.bad)
        line_error(frame->id, parts.bad, "request");
    return !parts.bad;
}

int line_next(struct frame *out)
{
    if (parts.whole)
        forget_parts();
    while (in_end - in_start >= HEADER) {
        const uint8_t *head = inbox + in_start;
        uint32_t length = load32(head + 8);

        if ((head[0] | head[1] << 8) != (int)FRAME_MAGIC || length > FRAME_MAX ||
            load32(head + 12) != fnv1a(head, 12)) {
            in_start++; /* noise: look for the next header */
            continue;
        }
        if (in_end - in_start < HEADER + length)
            return 0;
        out->kind = head[2];
        out->flags = head[3];
        out->id = load32(head + 4);
        out->length = length;
        out->payload = head + HEADER;
        in_start += HEADER + length;
        if (assemble(out))
            return 1;
    }
    return 0;
}

void line_put(uint8_t kind, uint32_t id, const void *payload, size_t length)
{
    uint8_t *head;
    uint32_t word;

    if (out_end + HEADER + length > ROOM)
        line_flush();
    head = outbox + out_end;
    head[0] = FRAME_MAGIC & 0xff;
    head[1] = FRAME_MAGIC >> 8;
    head[2] = kind;
    head[3] = 0;
    memcpy(head + 4, &id, 4);
    word = (uint32_t)length;
    memcpy(head + 8, &word, 4);
    word = fnv1a(head, 12);
    memcpy(head + 12, &word, 4);
    if (length)
        memcpy(head + HEADER, payload, length);
    out_end += HEADER + length;
}

void line_error(uint32_t id, int number, const char *what)
{
    char text[256];
    uint32_t code = (uint32_t)number;
    int length;

    memcpy(text, &code, 4);
    length = snprintf(text + 4, sizeof text - 4, "%.160s%s: %s", what, strlen(what) > 160 ? "..." : "",
                      strerror(number));
    if (length > (int)sizeof text - 5)
        length = (int)sizeof text - 5;
    line_put(KIND_ERROR, id, text, 4 + (size_t)length);
}

void line_flush(void)
{
    size_t sent = 0;

    while (sent < out_end) {
        ssize_t wrote = write(line_out, outbox + sent, out_end - sent);
        if (wrote < 0 && again(line_out, POLLOUT) == 0)
            continue;
        if (wrote <= 0)
            break; /* the harness has gone; it will ask again */
        sent += (size_t)wrote;
    }
    out_end = 0;
}
