/* envd: the daemon that serves the E2B API's processes and files inside a sandbox.
 *
 * In a microVM the agent starts it; it makes the disk its root and serves a virtio port of its own.
 * In a container it is the first process, and its standard input is the channel. It uses the agent's
 * frames (../../guest/agent/frame.h) with the kinds and tags below; ../envd is the host's side. It
 * has one thread, which blocks on file access only.
 */
#ifndef COPPICE_ENVD_H
#define COPPICE_ENVD_H

#include "frame.h"

#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

enum request_kind {
    DO_HELLO = 1,
    DO_START = 2,       /* -> u32 pid */
    DO_INPUT = 3,       /* EAGAIN: the buffer is full, try again */
    DO_CLOSE_INPUT = 4,
    DO_SIGNAL = 5,      /* SIGKILL is answered once the process and its group have been reaped */
    DO_RESIZE = 6,
    DO_PROCESSES = 7,   /* -> a SAY_ENTRY for each, then an answer */
    DO_PAUSE = 8,       /* stop reading a process's output */
    DO_RESUME = 9,
    DO_STAT = 10,
    DO_LIST = 11,       /* -> a SAY_ENTRY for each, then an answer; EOVERFLOW: too many */
    DO_MAKE = 12,
    DO_MOVE = 13,
    DO_REMOVE = 14,
    DO_OPEN = 15,       /* -> u32 handle, u64 size, path; /proc and /sys give no true size */
    DO_READ = 16,       /* -> bytes; fewer than LENGTH at the end of the file only */
    DO_WRITE = 17,      /* LENGTH, with the first piece: bytes of the whole file, if known */
    DO_CLOSE = 18,      /* MODE: keep a new file (1) or discard it (0) */
    DO_WATCH = 19,      /* -> u32 watch, then SAY_EVENT with this id */
    DO_UNWATCH = 20,
    DO_STATS = 21,
    DO_DIAL = 22,       /* NUMBER: a port -> u32 connection, the id of its data and its end */
    DO_SEND = 23,       /* EAGAIN: the buffer is full, try again */
    DO_PAUSE_CONNECTION = 24, /* stop reading from a server */
    DO_RESUME_CONNECTION = 25,
    DO_DROP = 26,       /* HANDLE: a connection; 0: all of them */
    DO_EVENTS = 27,     /* sends the file events so far, then an answer */
};

enum reply_kind { SAY_ENTRY = 132, SAY_EVENT = 133, SAY_PTY = 134 };

/* Additions to the tags of frame.h. */
enum {
    TAG_PID = 64, TAG_NAME = 65, TAG_USER = 66, TAG_COLUMNS = 67, TAG_ROWS = 68, TAG_DEPTH = 69,
    TAG_TARGET = 70, TAG_TYPE = 71, TAG_SIZE = 72, TAG_OWNER = 73, TAG_GROUP = 74,
    TAG_MTIME_NS = 75, TAG_RECURSIVE = 76, TAG_HANDLE = 77, TAG_NUMBER = 78, TAG_LABEL = 79,
    TAG_KEEP_INPUT = 80, TAG_EVENT = 81,
};

/* The upload of a new file is written under a name with this prefix until it is complete. */
#define PART ".coppice-part-"

#define PROCESSES_MAX 256
#define WATCHES_MAX 64
#define CONNECTIONS_MAX 128
#define CHUNK (32u * 1024u)

/* A request's fields; text is copied and terminated. Arguments and environment end with NULL. */
struct request {
    char *text;
    char *path, *target, *user, *cwd, *label;
    char **arguments, **environment;
    const uint8_t *data;
    size_t data_length;
    uint64_t pid, offset, length, mode, columns, rows, depth, handle, number;
    int truncate, recursive, keep_input, pty;
};
int request_parse(const struct frame *frame, struct request *out); /* 0 or an errno; free in any case */
void request_free(struct request *request);

/* The fields of an answer. */
struct reply {
    uint8_t bytes[FRAME_MAX];
    size_t length;
};
void reply_number(struct reply *reply, uint8_t tag, uint64_t number);
void reply_bytes(struct reply *reply, uint8_t tag, const void *bytes, size_t length);
void reply_text(struct reply *reply, uint8_t tag, const char *text);

/* A user of the sandbox; "" is the default user. */
struct user {
    uid_t uid;
    gid_t gid;
    char name[LOGIN_NAME_MAX], home[PATH_MAX], shell[PATH_MAX];
    gid_t *groups;
    int group_count;
};
const struct user *user_find(const char *name); /* valid until the next call; NULL: unknown */
/* Names, or numbers where there are none; valid until the next call. */
const char *user_name(uid_t uid);
const char *group_name(gid_t gid);
/* File access has this user's rights until `user_leave`. */
void user_enter(const struct user *user);
void user_leave(void);
/* An absolute path without ".", ".." and double slashes; relative ones, and ~, start at the home
 * directory, as in E2B's API. 0, or ENAMETOOLONG. */
int user_path(const struct user *user, const char *path, char out[PATH_MAX]);

/* Bytes that wait to be written. */
struct pending {
    uint8_t *bytes;
    size_t start, end;
};
int pending_add(struct pending *pending, const uint8_t *data, size_t length, size_t most);
size_t pending_left(const struct pending *pending);
const uint8_t *pending_data(const struct pending *pending);
void pending_drop(struct pending *pending, size_t length);
void pending_free(struct pending *pending);

/* A process that was started; descriptors that it lacks are -1. */
struct child {
    pid_t pid;
    int pidfd, in, out, err, terminal;
    int without_cwd; /* its directory was not entered */
};
/* 0 or an errno, then of the directory or of the command. */
int spawn(const struct request *request, const struct user *user, const char *cwd,
          struct child *child);
void close_fd(int *fd);

int root_enter(const char *device);
int processes_dispatch(const struct frame *frame);
int processes_poll_set(struct pollfd *set, int *timeout_ms);
void processes_pump(void);
int files_dispatch(const struct frame *frame);
int tree_dispatch(const struct frame *frame);
int connections_dispatch(const struct frame *frame);
int connections_poll_set(struct pollfd *set);
void connections_pump(void);
int watch_dispatch(const struct frame *frame);
int watch_fd(void);
void watch_pump(void);
void entry_put(const char *path, const char *name, struct reply *reply);

#endif
