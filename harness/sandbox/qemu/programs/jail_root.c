/* Builds the root of confined VMMs: jail_root DIRECTORY [PATH]... -- [OUTSIDE INSIDE]...
 *
 * The root is a tmpfs with the named files and directories of this host, at the same paths or, after
 * --, where they are wanted, and a /proc in which a process sees only itself; `/dev/kvm` becomes a device of its own. Nothing can be
 * written. It is the root of a new mount namespace, beside an empty network namespace. "ready" on
 * stdout says that both can be opened; they last as long as what has entered or opened them. This
 * program ends with its stdin. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FAILED 70
#define KVM "/dev/kvm"

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(FAILED);
}

/* Makes the directories above the last part of a path that is relative to the new root. */
static void make_parents(char *path)
{
    for (char *slash = path; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            fail(path);
    }
}

static void show(const char *outside, char *inside)
{
    const unsigned long fixed = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID;
    struct stat what;

    if (stat(outside, &what) != 0)
        fail(outside);
    make_parents(inside);
    if (strcmp(outside, KVM) == 0 && mknod(inside, S_IFCHR | 0666, what.st_rdev) == 0) {
        if (chmod(inside, 0666) != 0)
            fail(outside);
        return;
    }
    if (S_ISDIR(what.st_mode) ? mkdir(inside, 0755) != 0 && errno != EEXIST
                              : mknod(inside, S_IFREG | 0444, 0) != 0 && errno != EEXIST)
        fail(inside);
    if (mount(outside, inside, NULL, MS_BIND, NULL) != 0 ||
        mount(NULL, inside, NULL, fixed | (S_ISCHR(what.st_mode) ? 0 : MS_NODEV), NULL) != 0)
        fail(outside);
}

int main(int count, char **arguments)
{
    char path[4096];
    int same = 2;

    if (count < 2)
        return FAILED;
    if (unshare(CLONE_NEWNS | CLONE_NEWNET) != 0)
        fail("new namespaces");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        fail("private mounts");
    umask(0);
    if (mount("coppice", arguments[1], "tmpfs", MS_NOSUID | MS_NOEXEC, "size=256k,mode=755") != 0 ||
        chdir(arguments[1]) != 0)
        fail(arguments[1]);
    for (int i = 2; i < count; i++) {
        if (arguments[i][0] != '/' && strcmp(arguments[i], "--") != 0) {
            errno = EINVAL;
            fail(arguments[i]);
        }
        if (strlen(arguments[i]) >= sizeof path) {
            errno = ENAMETOOLONG;
            fail(arguments[i]);
        }
    }
    for (; same < count && strcmp(arguments[same], "--") != 0; same++)
        show(arguments[same], strcpy(path, arguments[same] + 1));
    for (int i = same + 1; i + 1 < count; i += 2)
        show(arguments[i], strcpy(path, arguments[i + 1] + 1));
    if (mkdir("proc", 0555) != 0 ||
        (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC,
               "hidepid=ptraceable,subset=pid") != 0 &&
         mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2") != 0))
        fail("/proc");
    if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 ||
        mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) != 0)
        fail("the root cannot be changed");
    if (write(STDOUT_FILENO, "ready", 5) != 5)
        fail("stdout");
    while (read(STDIN_FILENO, path, sizeof path) > 0)
        ;
    return 0;
}
