/* Directories watched with inotify; events are sent as they arrive. */
#include "envd.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
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

/* inotify has a single descriptor for a directory with several watches: each gets the events. */
static int add(uint32_t watch, const char *path, const char *below, int recursive)
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
            if (strcmp(own, ".") && strcmp(own, "..") && lstat(under, &info) == 0 &&
                S_ISDIR(info.st_mode))
                add(watch, under, name, 1);
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
    static struct reply reply, entry;
    char name[PATH_MAX], path[PATH_MAX];

    snprintf(name, sizeof name, "%s%s%s", directory->below, *directory->below ? "/" : "", event->name);
    snprintf(path, sizeof path, "%s/%s", directory->path, event->name);
    if (directory->recursive && event->mask & IN_ISDIR && what == CREATED)
        add(directory->watch, path, name, 1);
    reply.length = 0;
    reply_text(&reply, TAG_NAME, name);
    reply_number(&reply, TAG_EVENT, (uint64_t)what);
    entry_put(path, event->name, &entry);
    if (entry.length && reply.length + 5 + entry.length < FRAME_MAX)
        reply_bytes(&reply, TAG_DATA, entry.bytes, entry.length);
    line_put(SAY_EVENT, directory->watch, reply.bytes, reply.length);
}

/* An upload is written under another name and renamed: report the creation and write that the user
 * would expect. */
static void handle_event(struct directory *directory, const struct inotify_event *event)
{
    static uint32_t uploaded; /* the cookie of the rename of an upload */
    static int replaces;
    int what = event->mask & (IN_CREATE | IN_MOVED_TO) ? CREATED
               : event->mask & IN_MODIFY               ? WROTE
               : event->mask & IN_DELETE               ? REMOVED
               : event->mask & IN_MOVED_FROM           ? RENAMED
               : event->mask & IN_ATTRIB               ? CHANGED_MODE
                                                       : 0;

    if (!what || !event->len)
        return;
    if (!strncmp(event->name, PART, sizeof PART - 1)) {
        if (event->mask & IN_MOVED_FROM) {
            uploaded = event->cookie;
            replaces = event->name[sizeof PART - 1] == 'o';
        }
        return;
    }
    if (event->mask & IN_MOVED_TO && event->cookie == uploaded) {
        if (!replaces)
            send_event(directory, event, CREATED);
        what = WROTE;
    }
    send_event(directory, event, what);
}

void watch_pump(void)
{
    char room[16384] __attribute__((aligned(8)));
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
}

int watch_dispatch(const struct frame *frame)
{
    struct request request;
    struct user user;
    char path[PATH_MAX];
    int bad;

    if (frame->kind != DO_WATCH && frame->kind != DO_UNWATCH)
        return 0;
    bad = request_parse(frame, &request);
    if (!bad && frame->kind == DO_UNWATCH) {
        for (int i = 0; i < DIRECTORIES_MAX; i++)
            if (directories[i].descriptor && directories[i].watch == (uint32_t)request.handle)
                drop(&directories[i]);
    } else if (!bad) {
        if (fd < 0)
            fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        bad = fd < 0 ? errno : user_find(request.user, &user) ? EPERM : 0;
        if (!bad)
            bad = user_path(&user, request.path, path, sizeof path);
        if (!bad) {
            user_enter(&user);
            bad = add((uint32_t)request.handle, path, "", request.recursive);
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
