/* What stands in the sandbox's directories: looked at, listed, made, moved, removed. */
#include "envd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_ENTRIES 20000

static void owner_of(const struct stat *info, struct reply *reply)
{
    struct passwd *owner = getpwuid(info->st_uid);
    struct group *group = getgrgid(info->st_gid);
    char number[16];

    snprintf(number, sizeof number, "%u", info->st_uid);
    reply_text(reply, TAG_OWNER, owner ? owner->pw_name : number);
    snprintf(number, sizeof number, "%u", info->st_gid);
    reply_text(reply, TAG_GROUP, group ? group->gr_name : number);
}

/* Fields of one entry; none when it is not there (any more). A link is described by what it leads
 * to, and its target beside it. */
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

static int list(uint32_t id, const char *path, uint64_t depth, int *left)
{
    static struct reply reply;
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort), bad = count < 0 ? errno : 0;

    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        char below[PATH_MAX];
        int whole = snprintf(below, sizeof below, "%s/%s", strcmp(path, "/") ? path : "", name);

        if (strcmp(name, ".") && strcmp(name, "..") && whole < (int)sizeof below && *left > 0) {
            struct stat info;
            entry_put(below, name, &reply);
            if (reply.length) {
                --*left;
                line_put(SAY_ENTRY, id, reply.bytes, reply.length);
                if (depth > 1 && lstat(below, &info) == 0 && S_ISDIR(info.st_mode))
                    list(id, below, depth - 1, left); /* one that may not be read is left out */
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

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
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

static void trim(char *path)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
}

int tree_dispatch(const struct frame *request)
{
    static struct reply reply;
    struct asked asked;
    struct person person;
    char path[PATH_MAX], target[PATH_MAX];
    int bad, left = MOST_ENTRIES;

    if (request->kind < DO_STAT || request->kind > DO_REMOVE)
        return 0;
    bad = ask(request, &asked);
    if (!bad)
        bad = person_find(asked.user, &person) ? EPERM : 0;
    if (!bad)
        bad = person_path(&person, asked.path, path, sizeof path);
    if (!bad)
        bad = person_path(&person, asked.target, target, sizeof target);
    reply.length = 0;
    if (!bad) {
        trim(path);
        trim(target);
        person_enter(&person);
        switch (request->kind) {
        case DO_LIST: bad = list(request->id, path, asked.depth ? asked.depth : 1, &left); break;
        case DO_MAKE:
            bad = make(path);
            if (!bad && person.uid == 0)
                chown(path, person.uid, person.gid);
            break;
        case DO_MOVE: bad = move(path, target); break;
        case DO_REMOVE:
            if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS) != 0)
                bad = errno == ENOENT ? 0 : errno; /* what is not there is removed */
            break;
        }
        if (!bad && request->kind != DO_REMOVE && request->kind != DO_LIST) {
            const char *shown = request->kind == DO_MOVE ? target : path;
            entry_put(shown, name_of(shown), &reply);
            if (!reply.length)
                bad = ENOENT;
        }
        person_leave();
    }
    if (bad)
        line_error(request->id, bad, asked.path);
    else
        line_put(KIND_ANSWER, request->id, reply.bytes, reply.length);
    forget(&asked);
    return 1;
}
