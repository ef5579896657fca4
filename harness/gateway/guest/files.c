/* Files, read and written in pieces through handles, with the rights of the requesting user. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HANDLES_MAX 256

struct handle {
    int fd; /* -1: free */
    int part; /* an upload: `path` becomes `final` when it is complete */
    int bad;  /* the first error of a write */
    char *path, *final;
};

static struct handle handles[HANDLES_MAX];
static int initialised;

static struct handle *find(uint64_t number)
{
    return number < HANDLES_MAX && initialised && handles[number].fd >= 0 ? &handles[number] : NULL;
}

static struct handle *unused_handle(void)
{
    if (!initialised)
        for (int i = 0; i < HANDLES_MAX; i++)
            handles[i].fd = -1;
    initialised = 1;
    for (int i = 0; i < HANDLES_MAX; i++)
        if (handles[i].fd < 0)
            return &handles[i];
    return NULL;
}

/* Creates a file's parent directories with the user's rights. */
static int make_parents(const char *path)
{
    char above[4096];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(above, sizeof above, "%.*s", (int)(slash - path), path);
        if (mkdir(above, 0755) != 0 && errno != EEXIST)
            return errno == EEXIST ? 0 : access(above, F_OK) == 0 ? 0 : errno;
    }
    return 0;
}

static int open_to_write(struct handle *handle, const char *path, const struct user *user)
{
    char final[4096], part[4200];
    const char *name;
    struct stat info;
    int bad = make_parents(path), old = 0;

    if (bad)
        return bad;
    if (!realpath(path, final)) { /* follow a symbolic link, as a shell does */
        if (errno != ENOENT)
            return errno;
        if (lstat(path, &info) == 0) { /* a dangling link: create its target */
            handle->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
            return handle->fd < 0 ? errno : 0;
        }
        snprintf(final, sizeof final, "%s", path);
    }
    if (stat(final, &info) == 0) {
        old = 1;
        if (S_ISDIR(info.st_mode))
            return EISDIR;
        if (!S_ISREG(info.st_mode) || faccessat(AT_FDCWD, final, W_OK, 0) != 0) {
            handle->fd = open(final, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
            return handle->fd < 0 ? errno : 0;
        }
    } else
        info.st_mode = 0644, info.st_uid = user->uid, info.st_gid = user->gid;
    name = strrchr(final, '/');
    snprintf(part, sizeof part, "%.*s/" PART "%c%d-%.200s", (int)(name - final), final,
             old ? 'o' : 'n', (int)(handle - handles), name + 1);
    unlink(part);
    handle->fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (handle->fd < 0) /* the directory may be read-only and the file writable */
        handle->fd = open(final, O_WRONLY | O_TRUNC | O_CLOEXEC);
    else {
        fchmod(handle->fd, info.st_mode & 07777);
        if (fchown(handle->fd, info.st_uid, info.st_gid) != 0 && user->uid == 0)
            bad = errno;
        handle->part = 1;
        handle->path = strdup(part);
        handle->final = strdup(final);
    }
    return handle->fd < 0 ? errno : bad;
}

static int do_open(const struct request *request, const struct user *user, const char *path,
                   uint8_t answer[12])
{
    struct handle *handle = unused_handle();
    struct stat info;
    uint32_t number;
    uint64_t size = 0;
    int bad = 0;

    if (!handle)
        return EMFILE;
    *handle = (struct handle){.fd = -1};
    if (request->truncate)
        bad = open_to_write(handle, path, user);
    else {
        handle->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (handle->fd < 0 || fstat(handle->fd, &info) != 0)
            bad = errno;
        else if (S_ISDIR(info.st_mode))
            bad = EISDIR;
        else
            size = (uint64_t)info.st_size;
        if (bad && handle->fd >= 0) {
            close(handle->fd);
            handle->fd = -1;
        }
    }
    number = (uint32_t)(handle - handles);
    memcpy(answer, &number, 4);
    memcpy(answer + 4, &size, 8);
    return bad;
}

static int do_close(struct handle *handle, int keep)
{
    int bad = handle->bad;

    if (close(handle->fd) != 0 && !bad)
        bad = errno;
    handle->fd = -1;
    if (handle->part && (bad || !keep))
        unlink(handle->path);
    else if (handle->part && rename(handle->path, handle->final) != 0) {
        bad = errno;
        unlink(handle->path);
    }
    free(handle->path);
    free(handle->final);
    return bad;
}

static int do_write(struct handle *handle, const struct request *request)
{
    size_t done = 0;

    while (!handle->bad && done < request->data_length) {
        ssize_t wrote = write(handle->fd, request->data + done, request->data_length - done);
        if (wrote > 0)
            done += (size_t)wrote;
        else if (errno != EINTR)
            handle->bad = wrote == 0 ? ENOSPC : errno;
    }
    return handle->bad;
}

int files_dispatch(const struct frame *frame)
{
    static uint8_t bytes[FRAME_MAX];
    struct request request;
    struct user user;
    struct handle *handle;
    char path[4096];
    uint8_t answer[12];
    int bad;

    if (frame->kind < DO_OPEN || frame->kind > DO_CLOSE)
        return 0;
    bad = request_parse(frame, &request);
    handle = find(request.handle);
    if (!bad && frame->kind == DO_OPEN) {
        bad = user_find(request.user, &user) ? EPERM : 0;
        if (!bad)
            bad = user_path(&user, request.path, path, sizeof path);
        if (!bad) {
            user_enter(&user);
            bad = do_open(&request, &user, path, answer);
            user_leave();
        }
        if (!bad)
            line_put(KIND_ANSWER, frame->id, answer, sizeof answer);
    } else if (!bad && !handle)
        bad = EBADF;
    else if (!bad && frame->kind == DO_READ) {
        size_t want = request.length < sizeof bytes ? (size_t)request.length : sizeof bytes;
        ssize_t got = pread(handle->fd, bytes, want, (off_t)request.offset);

        if (got < 0 && errno == ESPIPE)
            got = read(handle->fd, bytes, want);
        if (got < 0)
            bad = errno;
        else
            line_put(KIND_ANSWER, frame->id, bytes, (size_t)got);
    } else if (!bad) {
        bad = frame->kind == DO_WRITE ? do_write(handle, &request)
                                        : do_close(handle, request.mode != 0);
        if (!bad)
            line_put(KIND_ANSWER, frame->id, "", 0);
    }
    if (bad)
        line_error(frame->id, bad, frame->kind == DO_OPEN ? request.path : "file");
    request_free(&request);
    return 1;
}
