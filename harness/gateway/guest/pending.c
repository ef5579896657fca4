/* Bytes that wait until a process or a server accepts them. */
#include "envd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int pending_add(struct pending *pending, const uint8_t *data, size_t length, size_t most)
{
    size_t have = pending_left(pending);
    uint8_t *bytes;

    if (have + length > most)
        return EAGAIN;
    bytes = malloc(have + length + 1);
    if (!bytes)
        return ENOMEM;
    if (have)
        memcpy(bytes, pending_data(pending), have);
    if (length)
        memcpy(bytes + have, data, length);
    free(pending->bytes);
    *pending = (struct pending){.bytes = bytes, .end = have + length};
    return 0;
}

size_t pending_left(const struct pending *pending)
{
    return pending->end - pending->start;
}

const uint8_t *pending_data(const struct pending *pending)
{
    return pending->bytes + pending->start;
}

void pending_drop(struct pending *pending, size_t length)
{
    pending->start += length;
}

void pending_free(struct pending *pending)
{
    free(pending->bytes);
    *pending = (struct pending){0};
}
