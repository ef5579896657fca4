/* The users of a sandbox: looked up by name, and borrowed for access to files. */
#include "envd.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_USER "user"
#define GROUPS_MAX 65536 /* Linux's; the C library has the one of 2004 */

/* Whether a file is unchanged since the last call; updates `seen`. */
static int unchanged(const char *path, struct stat *seen)
{
    struct stat now = {0};
    int same;

    stat(path, &now);
    same = now.st_ino == seen->st_ino && now.st_size == seen->st_size &&
           now.st_mtim.tv_sec == seen->st_mtim.tv_sec && now.st_mtim.tv_nsec == seen->st_mtim.tv_nsec &&
           now.st_ctim.tv_sec == seen->st_ctim.tv_sec && now.st_ctim.tv_nsec == seen->st_ctim.tv_nsec;
    *seen = now;
    return same;
}

static int find_groups(struct user *user)
{
    int count = 32, room = 0;

    while (count > room && count <= GROUPS_MAX) {
        gid_t *groups = realloc(user->groups, (size_t)count * sizeof *groups);

        if (!groups)
            return -1;
        user->groups = groups;
        room = count;
        if (getgrouplist(user->name, user->gid, groups, &count) >= 0) {
            user->group_count = count;
            return 0;
        }
    }
    return -1;
}

/* The last user is remembered: reading the files takes longer than the rest of a start. */
const struct user *user_find(const char *name)
{
    static struct stat passwd, group;
    static struct user last;
    int same = unchanged("/etc/passwd", &passwd);
    struct passwd *found;

    same &= unchanged("/etc/group", &group);
    if (!*name)
        name = DEFAULT_USER;
    if (!same || strcmp(last.name, name) != 0) {
        last.name[0] = 0;
        found = getpwnam(name);
        if (!found || strlen(found->pw_name) >= sizeof last.name ||
            strlen(found->pw_dir) >= sizeof last.home || strlen(found->pw_shell) >= sizeof last.shell)
            return NULL;
        last.uid = found->pw_uid;
        last.gid = found->pw_gid;
        snprintf(last.name, sizeof last.name, "%s", found->pw_name);
        snprintf(last.home, sizeof last.home, "%s", found->pw_dir);
        snprintf(last.shell, sizeof last.shell, "%s", found->pw_shell);
        if (find_groups(&last) != 0) {
            last.name[0] = 0;
            return NULL;
        }
    }
    return &last;
}

/* The last names are remembered, since a directory's entries mostly have one owner. */
const char *user_name(uid_t uid)
{
    static struct stat seen;
    static char name[LOGIN_NAME_MAX];
    static uid_t last;

    if (!unchanged("/etc/passwd", &seen) || !*name || last != uid) {
        const struct passwd *found = getpwuid(uid);

        last = uid;
        snprintf(name, sizeof name, "%u", uid);
        if (found)
            snprintf(name, sizeof name, "%s", found->pw_name);
    }
    return name;
}

const char *group_name(gid_t gid)
{
    static struct stat seen;
    static char name[LOGIN_NAME_MAX];
    static gid_t last;

    if (!unchanged("/etc/group", &seen) || !*name || last != gid) {
        const struct group *found = getgrgid(gid);

        last = gid;
        snprintf(name, sizeof name, "%u", gid);
        if (found)
            snprintf(name, sizeof name, "%s", found->gr_name);
    }
    return name;
}

void user_enter(const struct user *user)
{
    if (user->uid == 0)
        return;
    setgroups((size_t)user->group_count, user->groups);
    setfsgid(user->gid);
    setfsuid(user->uid);
}

void user_leave(void)
{
    setfsuid(0);
    setfsgid(0);
}

/* Removes empty and "." components, and ".." with the component before it. Like E2B's envd, it does
 * not look at symbolic links. `path` begins with a slash. */
static void normalise(char *path)
{
    char *out = path;
    const char *in = path;

    while (*(in += strspn(in, "/"))) {
        size_t length = strcspn(in, "/");

        if (length == 2 && in[0] == '.' && in[1] == '.') {
            while (out > path && *--out != '/')
                ;
        } else if (length != 1 || *in != '.') {
            *out++ = '/';
            memmove(out, in, length);
            out += length;
        }
        in += length;
    }
    if (out == path)
        *out++ = '/';
    *out = 0;
}

int user_path(const struct user *user, const char *path, char out[PATH_MAX])
{
    char whole[2 * PATH_MAX];
    int length;

    if (*path == '/')
        length = snprintf(whole, sizeof whole, "%s", path);
    else if (*path == '~' && (path[1] == '/' || path[1] == 0))
        length = snprintf(whole, sizeof whole, "/%s%s", user->home, path + 1);
    else
        length = snprintf(whole, sizeof whole, "/%s/%s", user->home, path);
    if (length < 0 || (size_t)length >= sizeof whole)
        return ENAMETOOLONG;
    normalise(whole);
    if (strlen(whole) >= PATH_MAX)
        return ENAMETOOLONG;
    strcpy(out, whole);
    return 0;
}
