/* The guest of kvm-floor: a program without a kernel that answers frames of the agent's protocol
 * (harness/guest/PROTOCOL.md). It runs in user mode, has no clock, no files and no processes, and
 * makes no system call: what it needs, it asks of its VMM by writing to a port (layout.h).
 *
 * It serves HELLO, PING, IDENTITY, TOUCH and SHUTDOWN. Everything else is ENOSYS. All that it
 * writes to, its stack too, lies in one page. */
#include "layout.h"

#include "frame.h"
#include "siphash.h"

#include <errno.h>

#define HEADER 16u
#define ANSWER_ROOM 512u /* no answer is longer */
#define HOSTNAME_MOST 64u
#define NAME_MOST 40u

struct text {
    uint8_t length;
    uint8_t bytes[HOSTNAME_MOST];
};

struct name {
    uint8_t length;
    uint8_t bytes[NAME_MOST];
};

/* Everything that a checkpoint keeps. It lies in the shared page, below the stack. */
static struct {
    struct shared shared;
    uint8_t key[16], entropy[16];
    uint64_t drawn;
    uint32_t to_skip; /* bytes of a frame that is longer than `in` */
    uint8_t mac[6];
    struct text hostname;
    struct name machine_id, address;
} own __attribute__((section(".shared")));

void *memcpy(void *into, const void *from, size_t count)
{
    uint8_t *to = into;
    const uint8_t *bytes = from;

    while (count--)
        *to++ = *bytes++;
    return into;
}

void *memset(void *into, int value, size_t count)
{
    uint8_t *to = into;

    while (count--)
        *to++ = (uint8_t)value;
    return into;
}

static void ask(enum request what)
{
    __asm__ volatile("outb %%al, %%dx" : : "a"(0), "d"(what) : "memory");
}

static uint32_t load32(const uint8_t *from)
{
    uint32_t value;

    memcpy(&value, from, 4);
    return value;
}

static uint32_t check_of(const uint8_t *header)
{
    uint32_t hash = 2166136261u;

    for (int i = 0; i < 12; i++)
        hash = (hash ^ header[i]) * 16777619u;
    return hash;
}

/* Answers. */

static void put(const void *bytes, uint32_t length)
{
    memcpy(own.shared.out + own.shared.out_length, bytes, length);
    own.shared.out_length += length;
}

static void answer(uint8_t kind, uint32_t id, const void *payload, uint32_t length)
{
    uint8_t header[HEADER];
    uint16_t magic = FRAME_MAGIC;

    if (own.shared.out_length + HEADER + length > sizeof own.shared.out)
        ask(FOR_ROOM);
    memcpy(header, &magic, 2);
    header[2] = kind;
    header[3] = 0;
    memcpy(header + 4, &id, 4);
    memcpy(header + 8, &length, 4);
    uint32_t check = check_of(header);
    memcpy(header + 12, &check, 4);
    put(header, sizeof header);
    put(payload, length);
}

static uint32_t length_of(const char *text)
{
    uint32_t length = 0;

    while (text[length])
        length++;
    return length;
}

static void refuse(uint32_t id, uint32_t number, const char *why)
{
    uint8_t payload[96];
    uint32_t length = length_of(why);

    memcpy(payload, &number, 4);
    memcpy(payload + 4, why, length);
    answer(KIND_ERROR, id, payload, 4 + length);
}

/* Requests. */

static void ping(const struct frame *request)
{
    uint64_t found[3] = {0, 0, 0}; /* the last two are clocks, which it does not have */

    if (request->length < 8) {
        refuse(request->id, EINVAL, "ping without a clock");
        return;
    }
    found[0] = siphash(own.key, request->payload + 8, request->length - 8);
    answer(KIND_ANSWER, request->id, found, sizeof found);
}

static void hex(uint8_t *into, const uint8_t *from, uint32_t count)
{
    for (uint32_t i = 0; i < 2 * count; i++)
        into[i] = (uint8_t)"0123456789abcdef"[i % 2 ? from[i / 2] & 15 : from[i / 2] >> 4];
}

static uint8_t *line(uint8_t *at, const char *name, const void *value, uint32_t length)
{
    uint32_t named = length_of(name);

    memcpy(at, name, named);
    at[named] = '=';
    memcpy(at + named + 1, value, length);
    at[named + 1 + length] = '\n';
    return at + named + length + 2;
}

static uint64_t drawn(void)
{
    own.drawn++;
    return siphash(own.entropy, (const uint8_t *)&own.drawn, sizeof own.drawn);
}

static void hello(const struct frame *request)
{
    uint8_t text[ANSWER_ROOM - HEADER], mac[17], random[32], *at = text;
    uint64_t fresh[2] = {drawn(), drawn()};

    hex(random, (const uint8_t *)fresh, sizeof fresh);
    for (uint32_t i = 0; i < 6; i++) {
        hex(mac + 3 * i, own.mac + i, 1);
        if (i < 5)
            mac[3 * i + 2] = ':';
    }
    at = line(at, "protocol", "1", 1);
    at = line(at, "kernel", "none", 4);
    at = line(at, "hostname", own.hostname.bytes, own.hostname.length);
    at = line(at, "boot_id", "none", 4);
    at = line(at, "machine_id", own.machine_id.bytes, own.machine_id.length);
    at = line(at, "mac", mac, sizeof mac);
    at = line(at, "address", own.address.bytes, own.address.length);
    at = line(at, "random", random, sizeof random);
    at = line(at, "wall_ns", "0", 1);
    answer(KIND_ANSWER, request->id, text, (uint32_t)(at - text));
}

/* Takes what it can hold of an identity; whether that was all. */
static int take(const struct field *field)
{
    switch (field->tag) {
    case TAG_KEY:
        if (field->length != sizeof own.key)
            return 0;
        memcpy(own.key, field->bytes, sizeof own.key);
        return 1;
    case TAG_ENTROPY:
        for (uint64_t half = 0; half < 2; half++) {
            own.drawn = siphash(own.entropy, field->bytes, field->length) + half;
            uint64_t mixed = drawn();
            memcpy(own.entropy + 8 * half, &mixed, 8);
        }
        return 1;
    case TAG_MAC:
        if (field->length != sizeof own.mac)
            return 0;
        memcpy(own.mac, field->bytes, sizeof own.mac);
        return 1;
    case TAG_HOSTNAME:
        if (field->length > HOSTNAME_MOST)
            return 0;
        own.hostname.length = (uint8_t)field->length;
        memcpy(own.hostname.bytes, field->bytes, field->length);
        return 1;
    case TAG_MACHINE_ID:
    case TAG_ADDRESS: {
        struct name *name = field->tag == TAG_ADDRESS ? &own.address : &own.machine_id;

        if (field->length > NAME_MOST)
            return 0;
        name->length = (uint8_t)field->length;
        memcpy(name->bytes, field->bytes, field->length);
        return 1;
    }
    case TAG_WALL_NS:
    case TAG_WALL_AT_RING_NS: /* it has no clock to set */
    case TAG_ROUTE:
        return 1;
    default:
        return 0;
    }
}

static void identity(const struct frame *request)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    struct field field;

    while (at < end) {
        if (end - at < 5)
            goto malformed;
        field = (struct field){.tag = at[0], .length = load32(at + 1), .bytes = at + 5};
        if (field.length > (uint32_t)(end - field.bytes) || !take(&field))
            goto malformed;
        at = field.bytes + field.length;
    }
    answer(KIND_ANSWER, request->id, "", 0);
    return;
malformed:
    refuse(request->id, EINVAL, "identity");
}

/* Writes a word to each page of so many MiB, each one more than the last, and sums what is read
 * back. The memory is plugged in first, and stays. */
static void touch(const struct frame *request)
{
    uint64_t first, sum = 0;
    uint32_t mib;

    if (request->length != 12) {
        refuse(request->id, EINVAL, "touch");
        return;
    }
    mib = load32(request->payload);
    memcpy(&first, request->payload + 4, 8);
    if (mib > own.shared.plugged_mib) {
        own.shared.plug_mib = mib;
        ask(FOR_MEMORY);
    }
    if (mib > own.shared.plugged_mib) {
        refuse(request->id, ENOMEM, "touch");
        return;
    }
    for (uint64_t page = 0; page < (uint64_t)mib * 256; page++) {
        volatile uint64_t *word = (volatile uint64_t *)(WORKING + page * PAGE);

        *word = first + page;
        sum += *word;
        if (page % (64 * 256) == 64 * 256 - 1)
            ask(FOR_ROOM); /* shows its VMM that it has not hung */
    }
    answer(KIND_ANSWER, request->id, &sum, sizeof sum);
}

static void serve(const struct frame *request)
{
    switch (request->kind) {
    case KIND_HELLO: hello(request); break;
    case KIND_PING: ping(request); break;
    case KIND_IDENTITY: identity(request); break;
    case KIND_TOUCH: touch(request); break;
    case KIND_SHUTDOWN:
        answer(KIND_ANSWER, request->id, "", 0);
        for (;;)
            ask(FOR_THE_END);
    case KIND_EXEC: refuse(request->id, ENOSYS, "no kernel, so no processes"); break;
    default: refuse(request->id, ENOSYS, "not served by a guest without a kernel");
    }
}

/* The bytes of `in` that are done with. A frame that is not there as a whole stays. */
static uint32_t consume(void)
{
    struct shared *shared = &own.shared;
    uint32_t at = 0;

    if (own.to_skip) {
        at = own.to_skip < shared->in_length ? own.to_skip : shared->in_length;
        own.to_skip -= at;
    }
    while (shared->in_length - at >= HEADER) {
        const uint8_t *header = shared->in + at;
        uint32_t left = shared->in_length - at;
        struct frame frame = {.kind = header[2], .flags = header[3], .id = load32(header + 4),
                              .length = load32(header + 8), .payload = header + HEADER};

        if ((header[0] | header[1] << 8) != (int)FRAME_MAGIC ||
            load32(header + 12) != check_of(header)) {
            at++; /* noise: look at the next byte */
            continue;
        }
        if (frame.length > sizeof shared->in - HEADER) {
            if (!(frame.flags & FLAG_MORE))
                refuse(frame.id, frame.kind == KIND_EXEC ? ENOSYS : E2BIG, "too long for it");
            own.to_skip = frame.length > left - HEADER ? frame.length - (left - HEADER) : 0;
            at += own.to_skip ? left : HEADER + frame.length;
            continue;
        }
        if (left < HEADER + frame.length)
            break;
        serve(&frame);
        at += HEADER + frame.length;
    }
    return at;
}

/* The entry: answers that it has started, then requests, for ever. */
__attribute__((section(".entry"), noreturn)) void start(void)
{
    answer(KIND_HELLO, 0, "", 0);
    for (;;) {
        uint32_t done = consume(), left = own.shared.in_length - done;

        for (uint32_t i = 0; i < left; i++)
            own.shared.in[i] = own.shared.in[done + i];
        own.shared.in_length = left;
        ask(FOR_INPUT);
    }
}
