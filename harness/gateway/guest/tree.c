/* Directory entries: stat, list, make, move, remove. */
#include "envd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes of a listing, with what the gateway's memory takes for an entry beside its text. */
#define LISTING_MAX (15u * 1024u * 1024u)
#define ENTRY_BYTES 128u

static void owner_of(const struct stat *info, struct reply *reply)
{
    reply_text(reply, TAG_OWNER, user_name(info->st_uid));
    reply_text(reply, TAG_GROUP, group_name(info->st_gid));
}

/* The fields of an entry; none, and errno, if it cannot be seen. A symbolic link has the fields of the file
 * that it points to, and its target. */
void entry_put(const char *path, const char *name, struct reply *reply)
{
    struct stat info, link;
    char target[PATH_MAX];

    reply->length = 0;
    if (lstat(path, &link) != 0)
        return;
    info = link;
    if (S_ISLNK(link.st_mode)) {
        ssize_t length = readlink(path, target, sizeof target);
        if (length > 0)
            reply_bytes(reply, TAG_TARGET, target, (size_t)length);
        if (stat(path, &info) != 0)
            info = link;
    }
    reply_text(reply, TAG_PATH, path);
    reply_text(reply, TAG_NAME, name);
    reply_number(reply, TAG_MODE, info.st_mode);
    reply_number(reply, TAG_SIZE, (uint64_t)info.st_size);
    reply_number(reply, TAG_MTIME_NS,
                 (uint64_t)info.st_mtim.tv_sec * 1000000000u + (uint64_t)info.st_mtim.tv_nsec);
    owner_of(&info, reply);
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? slash + 1 : path;
}

static int list(uint32_t id, const char *path, uint64_t depth, size_t *left)
{
    static struct reply reply;
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort), bad = count < 0 ? errno : 0;

    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        char below[PATH_MAX];
        int length = snprintf(below, sizeof below, "%s/%s", strcmp(path, "/") ? path : "", name);

        if (bad != EOVERFLOW && strcmp(name, ".") && strcmp(name, "..") && length < (int)sizeof below) {
            struct stat info;
            entry_put(below, name, &reply);
            if (reply.length && reply.length + ENTRY_BYTES > *left)
                bad = EOVERFLOW;
            else if (reply.length) {
                *left -= reply.length + ENTRY_BYTES;
                line_put(SAY_ENTRY, id, reply.bytes, reply.length);
                /* Unreadable directories are skipped. */
                if (depth > 1 && lstat(below, &info) == 0 && S_ISDIR(info.st_mode) &&
                    list(id, below, depth - 1, left) == EOVERFLOW)
                    bad = EOVERFLOW;
            }
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return bad;
}

static int make(const char *path)
{
    char above[PATH_MAX];
    struct stat info;

    if (stat(path, &info) == 0)
        return S_ISDIR(info.st_mode) ? EEXIST : ENOTDIR;
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(above, sizeof above, "%.*s", (int)(slash - path), path);
        if (mkdir(above, 0755) != 0 && errno != EEXIST && access(above, F_OK) != 0)
            return errno;
    }
    return mkdir(path, 0755) != 0 ? errno : 0;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static int move(const char *from, const char *to)
{
    char above[PATH_MAX];
    const char *slash = strrchr(to, '/');
    int bad = 0;

    if (access(from, F_OK) != 0)
        return errno;
    snprintf(above, sizeof above, "%.*s", (int)(slash - to), to);
    if (*above)
        bad = make(above);
    if (bad && bad != EEXIST)
        return bad;
    return rename(from, to) != 0 ? errno : 0;
}

int tree_dispatch(const struct frame *frame)
{
    static struct reply reply;
    struct request request;
    const struct user *user = NULL;
    char path[PATH_MAX], target[PATH_MAX];
    size_t left = LISTING_MAX;
    int bad;

    if (frame->kind < DO_STAT || frame->kind > DO_REMOVE)
        return 0;
    bad = request_parse(frame, &request);
    if (!bad)
        bad = (user = user_find(request.user)) ? 0 : EPERM;
    if (!bad)
        bad = user_path(user, request.path, path);
    if (!bad)
        bad = user_path(user, request.target, target);
    reply.length = 0;
    if (!bad) {
        user_enter(user);
        switch (frame->kind) {
        case DO_LIST: bad = list(frame->id, path, request.depth ? request.depth : 1, &left); break;
        case DO_MAKE:
            bad = make(path);
            if (!bad && user->uid == 0)
                chown(path, user->uid, user->gid);
            break;
        case DO_MOVE: bad = move(path, target); break;
        case DO_REMOVE:
            if (nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS) != 0)
                bad = errno == ENOENT ? 0 : errno; /* already removed */
            break;
        }
        if (!bad && frame->kind != DO_REMOVE && frame->kind != DO_LIST) {
            const char *shown = frame->kind == DO_MOVE ? target : path;
            entry_put(shown, name_of(shown), &reply);
            if (!reply.length)
                bad = errno == ENOTDIR ? ENOENT : errno;
        }
        user_leave();
    }
    if (bad)
        line_error(frame->id, bad, request.path);
    else
        line_put(KIND_ANSWER, frame->id, reply.bytes, reply.length);
    request_free(&request);
    return 1;
}
