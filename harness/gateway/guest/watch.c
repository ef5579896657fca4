/* Directories watched with inotify; events are sent as they arrive. */
#include "envd.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECTORIES_MAX 4096
#define EVENTS (IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB)
enum { CREATED = 1, WROTE = 2, REMOVED = 3, RENAMED = 4, CHANGED_MODE = 5 };

struct directory {
    int descriptor; /* of inotify; 0: unused */
    uint32_t watch;
    int recursive;
    char *path, *below; /* relative to the watched directory */
};

static struct directory directories[DIRECTORIES_MAX];
static int fd = -1;

int watch_fd(void)
{
    return fd;
}

static void say(uint32_t watch, const char *path, const char *below, int what)
{
    static struct reply reply, entry;
    const char *slash = strrchr(path, '/');

    reply.length = 0;
    reply_text(&reply, TAG_NAME, below);
    reply_number(&reply, TAG_EVENT, (uint64_t)what);
    entry_put(path, slash ? slash + 1 : path, &entry);
    if (entry.length && reply.length + 5 + entry.length < FRAME_MAX)
        reply_bytes(&reply, TAG_DATA, entry.bytes, entry.length);
    line_put(SAY_EVENT, watch, reply.bytes, reply.length);
}

/* inotify has a single descriptor for a directory with several watches: each gets the events. With
 * `late`, for a directory that was created in a watched one, its entries are reported too: they may
 * be older than its watch. */
static int add(uint32_t watch, const char *path, const char *below, int recursive, int late)
{
    struct directory *place = NULL;
    int descriptor = inotify_add_watch(fd, path, EVENTS | IN_ONLYDIR);

    if (descriptor < 0)
        return errno;
    for (int i = 0; i < DIRECTORIES_MAX && !place; i++)
        if (!directories[i].descriptor)
            place = &directories[i];
    if (!place)
        return ENOSPC;
    *place = (struct directory){descriptor, watch, recursive, strdup(path), strdup(below)};
    if (recursive) {
        struct dirent **entries;
        int count = scandir(path, &entries, NULL, NULL);

        for (int i = 0; i < count; i++) {
            char under[PATH_MAX], name[PATH_MAX];
            struct stat info;
            const char *own = entries[i]->d_name;

            snprintf(under, sizeof under, "%s/%s", path, own);
            snprintf(name, sizeof name, "%s%s%s", below, *below ? "/" : "", own);
            if (strcmp(own, ".") && strcmp(own, "..") && lstat(under, &info) == 0) {
                if (late)
                    say(watch, under, name, CREATED);
                if (S_ISDIR(info.st_mode))
                    add(watch, under, name, 1, late);
            }
            free(entries[i]);
        }
        if (count >= 0)
            free(entries);
    }
    return 0;
}

static void drop(struct directory *directory)
{
    int descriptor = directory->descriptor, shared = 0;

    free(directory->path);
    free(directory->below);
    *directory = (struct directory){0};
    for (int i = 0; i < DIRECTORIES_MAX; i++)
        shared |= directories[i].descriptor == descriptor;
    if (!shared)
        inotify_rm_watch(fd, descriptor);
}

static void send_event(struct directory *directory, const struct inotify_event *event, int what)
{
    char name[PATH_MAX], path[PATH_MAX];

    snprintf(name, sizeof name, "%s%s%s", directory->below, *directory->below ? "/" : "", event->name);
    snprintf(path, sizeof path, "%s/%s", directory->path, event->name);
    say(directory->watch, path, name, what);
    if (directory->recursive && event->mask & IN_ISDIR && what == CREATED)
        add(directory->watch, path, name, 1, 1);
}

/* A new file is uploaded under another name and renamed: report the creation and write that the
 * user would expect. */
static void handle_event(struct directory *directory, const struct inotify_event *event)
{
    static uint32_t uploaded; /* the cookie of the rename of an upload */
    int what = event->mask & (IN_CREATE | IN_MOVED_TO) ? CREATED
               : event->mask & IN_MODIFY               ? WROTE
               : event->mask & IN_DELETE               ? REMOVED
               : event->mask & IN_MOVED_FROM           ? RENAMED
               : event->mask & IN_ATTRIB               ? CHANGED_MODE
                                                       : 0;

    if (!what || !event->len)
        return;
    if (!strncmp(event->name, PART, sizeof PART - 1)) {
        if (event->mask & IN_MOVED_FROM)
            uploaded = event->cookie;
        return;
    }
    if (event->mask & IN_MOVED_TO && event->cookie == uploaded) {
        send_event(directory, event, CREATED);
        what = WROTE;
    }
    send_event(directory, event, what);
}

static size_t pump(void)
{
    static char room[16384] __attribute__((aligned(8)));
    ssize_t got = read(fd, room, sizeof room);

    for (char *at = room; got > 0 && at < room + got;) {
        const struct inotify_event *event = (const struct inotify_event *)at;

        for (int i = 0; i < DIRECTORIES_MAX; i++)
            if (directories[i].descriptor == event->wd && directories[i].descriptor) {
                if (event->mask & IN_IGNORED)
                    directories[i].descriptor = 0, free(directories[i].path), free(directories[i].below);
                else
                    handle_event(&directories[i], event);
            }
        at += sizeof *event + event->len;
    }
    return got > 0 ? (size_t)got : 0;
}

void watch_pump(void)
{
    pump();
}

/* Sends all events up to now; those that come meanwhile may wait. */
static void send_events(void)
{
    int queued = 0;
    size_t sent = 0, got;

    if (fd >= 0 && ioctl(fd, FIONREAD, &queued) == 0)
        while (sent < (size_t)queued && (got = pump()))
            sent += got;
}

int watch_dispatch(const struct frame *frame)
{
    struct request request;
    const struct user *user = NULL;
    char path[PATH_MAX];
    int bad;

    if (frame->kind != DO_WATCH && frame->kind != DO_UNWATCH && frame->kind != DO_EVENTS)
        return 0;
    bad = request_parse(frame, &request);
    if (!bad && frame->kind == DO_EVENTS)
        send_events();
    else if (!bad && frame->kind == DO_UNWATCH) {
        for (int i = 0; i < DIRECTORIES_MAX; i++)
            if (directories[i].descriptor && directories[i].watch == (uint32_t)request.handle)
                drop(&directories[i]);
    } else if (!bad) {
        if (fd < 0)
            fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        bad = fd < 0 ? errno : (user = user_find(request.user)) ? 0 : EPERM;
        if (!bad)
            bad = user_path(user, request.path, path);
        if (!bad) {
            user_enter(user);
            bad = add((uint32_t)request.handle, path, "", request.recursive, 0);
            user_leave();
        }
    }
    if (bad)
        line_error(frame->id, bad, request.path);
    else
        line_put(KIND_ANSWER, frame->id, "", 0);
    request_free(&request);
    return 1;
}
