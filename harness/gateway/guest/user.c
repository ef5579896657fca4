/* The users of a sandbox: looked up by name, and borrowed for access to files. */
#include "envd.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_USER "user"

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

/* Who request last is remembered: to read the files takes longer than all else of a start. */
int user_find(const char *name, struct user *out)
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
        if (!found)
            return ENOENT;
        last.uid = found->pw_uid;
        last.gid = found->pw_gid;
        snprintf(last.name, sizeof last.name, "%s", found->pw_name);
        snprintf(last.home, sizeof last.home, "%s", found->pw_dir);
        snprintf(last.shell, sizeof last.shell, "%s", found->pw_shell);
        last.group_count = sizeof last.groups / sizeof *last.groups;
        if (getgrouplist(last.name, last.gid, last.groups, &last.group_count) < 0)
            last.group_count = 0;
    }
    *out = last;
    return 0;
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
