/* The framed protocol between the harness and the agent (see ../PROTOCOL.md).
 *
 * Every frame is a 16-byte little-endian header and a payload:
 *
 *   u16 magic   0xC0B1
 *   u8  kind    enum kind
 *   u8  flags   enum flag
 *   u32 id      chosen by the caller, repeated in every frame that answers it
 *   u32 length  bytes of payload, at most FRAME_MAX; see FLAG_MORE for more
 *   u32 check   FNV-1a of the twelve bytes before it
 *
 * The check lets a reader find the next frame on a UART that also carries kernel messages.
 * Requests and answers with several fields use (u8 tag, u32 length, bytes) triples.
 */
#ifndef COPPICE_FRAME_H
#define COPPICE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 1
#define FRAME_MAGIC 0xC0B1u
#define FRAME_MAX (64u * 1024u)
#define REQUEST_MAX (3u * 1024u * 1024u) /* Linux accepts 2 MiB of arguments */

enum kind {
    KIND_HELLO = 1,
    KIND_PING = 2,
    KIND_IDENTITY = 3,
    KIND_EXEC = 4,
    KIND_STDIN = 5,
    KIND_SIGNAL = 6,
    KIND_READ = 7,
    KIND_WRITE = 8,
    KIND_TOUCH = 9,
    KIND_MEMORY = 10,
    KIND_SHUTDOWN = 11,
    KIND_ARM = 12,
    KIND_ANSWER = 128,
    KIND_STDOUT = 129,
    KIND_STDERR = 130,
    KIND_EXIT = 131,
    KIND_ERROR = 255,
};

enum flag {
    FLAG_KEEP_STDIN = 1, /* of EXEC: STDIN frames will follow */
    FLAG_MORE = 2,       /* of a request: the next frame, of the same kind and id, continues it */
};

enum tag {
    TAG_HOSTNAME = 1,
    TAG_MACHINE_ID = 2,
    TAG_MAC = 3,
    TAG_ADDRESS = 4, /* "10.0.0.2/16" */
    TAG_WALL_NS = 5,
    TAG_ENTROPY = 6,
    TAG_KEY = 7,
    TAG_WALL_AT_RING_NS = 8, /* the wall clock when the doorbell was last answered */
    TAG_ROUTE = 9, /* the address of the default route's gateway; after TAG_ADDRESS */
    TAG_ARG = 16,
    TAG_ENV = 17,
    TAG_CWD = 18,
    TAG_TIMEOUT_MS = 19,
    TAG_STDIN = 20,
    TAG_PATH = 32,
    TAG_OFFSET = 33,
    TAG_LENGTH = 34,
    TAG_MODE = 35,
    TAG_DATA = 36,
    TAG_TRUNCATE = 37,
};

struct frame {
    uint8_t kind;
    uint8_t flags;
    uint32_t id;
    uint32_t length;
    const uint8_t *payload;
};

struct field {
    uint8_t tag;
    uint32_t length;
    const uint8_t *bytes;
};

/* Next field of a payload; 1 when one was read, 0 at the end, -1 when it is malformed. */
int field_next(const uint8_t **at, const uint8_t *end, struct field *out);
uint64_t field_number(const struct field *field);

/* The channel to the harness: a path, two descriptors, or stdin and stdout (which then lead to
 * /dev/null). 0, or -1 and errno. */
int line_open(const char *path);
/* The same for a device that may still be starting. */
int line_open_patiently(const char *path);
void line_use(int in, int out);
int line_use_stdio(void);
int line_fd(void);
/* Reads available bytes, blocking if `wait`. -1 when the other side has closed it. */
int line_fill(int wait);
/* Takes the next whole request from what was read. 0 when there is none. Its payload stays until the
 * next call. */
int line_next(struct frame *out);
/* Answers are buffered, and sent in one write by line_flush. */
void line_put(uint8_t kind, uint32_t id, const void *payload, size_t length);
void line_error(uint32_t id, int number, const char *what);
void line_flush(void);

#endif
