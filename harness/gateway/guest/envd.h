/* envd: what runs the E2B API's processes and files inside a sandbox, for the gateway on the host.
 *
 * In a microVM it is started by the agent, makes the disk its root, and serves one virtio port of its
 * own; in a container it is the first process, and its standard input is the line. It speaks the
 * agent's frames (../../guest/agent/frame.h) with the kinds and tags below. ../envd.py is the other
 * side. It has one thread: nothing here blocks but files.
 */
#ifndef COPPICE_ENVD_H
#define COPPICE_ENVD_H

#include "frame.h"

#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

enum request {
    DO_HELLO = 1,
    DO_START = 2,       /* -> u32 pid */
    DO_INPUT = 3,       /* EAGAIN: its buffer is full, ask again */
    DO_CLOSE_INPUT = 4,
    DO_SIGNAL = 5,
    DO_RESIZE = 6,
    DO_PROCESSES = 7,   /* -> one SAY_ENTRY each, then an answer */
    DO_PAUSE = 8,       /* leave a process's output in its pipes */
    DO_RESUME = 9,
    DO_STAT = 10,
    DO_LIST = 11,       /* -> one SAY_ENTRY each, then an answer */
    DO_MAKE = 12,
    DO_MOVE = 13,
    DO_REMOVE = 14,
    DO_OPEN = 15,       /* -> u32 handle, u64 size */
    DO_READ = 16,
    DO_WRITE = 17,
    DO_CLOSE = 18,      /* MODE: keep what was written (1), or remove it (0) */
    DO_WATCH = 19,      /* -> u32 watch, then SAY_EVENT with this id */
    DO_UNWATCH = 20,
    DO_STATS = 21,
    DO_DIAL = 22,       /* NUMBER: a port -> u32 connection, under which its words and end come */
    DO_SEND = 23,       /* EAGAIN: its buffer is full, ask again */
    DO_HOLD = 24,       /* leave what a server says where it is */
    DO_LET = 25,
    DO_DROP = 26,       /* HANDLE: a connection; 0: all of them */
};

enum saying { SAY_ENTRY = 132, SAY_EVENT = 133, SAY_PTY = 134 };

/* Beside those of frame.h. */
enum {
    TAG_PID = 64, TAG_NAME = 65, TAG_USER = 66, TAG_COLUMNS = 67, TAG_ROWS = 68, TAG_DEPTH = 69,
    TAG_TARGET = 70, TAG_TYPE = 71, TAG_SIZE = 72, TAG_OWNER = 73, TAG_GROUP = 74,
    TAG_MTIME_NS = 75, TAG_RECURSIVE = 76, TAG_HANDLE = 77, TAG_NUMBER = 78, TAG_LABEL = 79,
    TAG_KEEP_INPUT = 80, TAG_EVENT = 81,
};

/* What is being uploaded has this before its name until it is whole, and a letter: n of a new file,
 * o of one that it replaces. */
#define PART ".coppice-part-"

#define PROCESSES_MAX 256
#define WATCHES_MAX 64
#define LINKS_MAX 128
#define CHUNK (32u * 1024u)

/* A request's fields, copied so that text ends with a zero. Arguments and environment are arrays
 * that end with NULL. */
struct asked {
    char *text;
    char *path, *target, *user, *cwd, *label;
    char **arguments, **environment;
    const uint8_t *data;
    size_t data_length;
    uint64_t pid, offset, length, mode, columns, rows, depth, handle, number;
    int truncate, recursive, keep_input, pty;
};
int ask(const struct frame *request, struct asked *out); /* 0 or an errno; `forget` in any case */
void forget(struct asked *asked);

/* An answer of fields. */
struct reply {
    uint8_t bytes[FRAME_MAX];
    size_t length;
};
void reply_number(struct reply *reply, uint8_t tag, uint64_t number);
void reply_bytes(struct reply *reply, uint8_t tag, const void *bytes, size_t length);
void reply_text(struct reply *reply, uint8_t tag, const char *text);

/* Who asks: "" is the sandbox's usual user. */
struct person {
    uid_t uid;
    gid_t gid;
    char name[64], home[256], shell[64];
    gid_t groups[32];
    int group_count;
};
int person_find(const char *name, struct person *out);
/* Files are touched as this person until `person_leave`. */
void person_enter(const struct person *person);
void person_leave(void);
/* A path as E2B has it: relative to the home directory, ~ too. */
int person_path(const struct person *person, const char *path, char *out, size_t room);

int root_enter(const char *device);
int processes_dispatch(const struct frame *request);
int processes_poll_set(struct pollfd *set, int *timeout_ms);
void processes_pump(void);
int files_dispatch(const struct frame *request);
int tree_dispatch(const struct frame *request);
int links_dispatch(const struct frame *request);
int links_poll_set(struct pollfd *set);
void links_pump(void);
int watch_dispatch(const struct frame *request);
int watch_fd(void);
void watch_pump(void);
void entry_put(const char *path, const char *name, struct reply *reply);

#endif
