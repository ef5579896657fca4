/* Files, read and written in pieces through handles, with the rights of the requesting user. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define HANDLES_MAX 256

struct handle {
    int fd; /* -1: free */
    int bad; /* the first error of a write */
    int replaces, begun; /* writes to a file that exists; its old content is gone */
    uint64_t reserved; /* bytes */
    int directory; /* of the upload of a new file: it is renamed when it is complete; or -1 */
    char part[NAME_MAX + 1], name[NAME_MAX + 1];
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
    char above[PATH_MAX];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(above, sizeof above, "%.*s", (int)(slash - path), path);
        if (mkdir(above, 0755) != 0 && errno != EEXIST && access(above, F_OK) != 0)
            return errno;
    }
    return 0;
}

/* The upload of a new file has another name until it is complete: it is there whole or not at all. */
static int open_part(struct handle *handle, const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    char above[PATH_MAX];

    if (strlen(name) > NAME_MAX)
        return ENAMETOOLONG;
    snprintf(above, sizeof above, "%.*s", (int)(name - path), path);
    snprintf(handle->name, sizeof handle->name, "%s", name);
    snprintf(handle->part, sizeof handle->part, PART "%d-%.200s", (int)(handle - handles), name);
    handle->directory = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (handle->directory < 0)
        return errno;
    unlinkat(handle->directory, handle->part, 0);
    handle->fd = openat(handle->directory, handle->part,
                        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (handle->fd >= 0) {
        fchmod(handle->fd, 0644); /* whatever the umask is */
        return 0;
    }
    int bad = errno;
    close_fd(&handle->directory);
    return bad;
}

/* A file that exists keeps its inode, with its links, owner, mode and attributes. */
static int open_to_write(struct handle *handle, const char *path)
{
    struct stat info;
    int bad = make_parents(path), create = 0;

    if (bad)
        return bad;
    if (stat(path, &info) != 0) { /* follows symbolic links, as a shell does */
        if (errno != ENOENT)
            return errno;
        if (lstat(path, &info) != 0)
            return open_part(handle, path);
        create = O_CREAT; /* a dangling link: create its target */
    } else if (S_ISDIR(info.st_mode))
        return EISDIR;
    else
        handle->replaces = S_ISREG(info.st_mode);
    handle->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | create, 0644);
    return handle->fd < 0 ? errno : 0;
}

/* Empties a file that is to be replaced, unless it is known that the new content does not fit.
 * `length` is that of the new content, 0 if unknown. */
static int begin_to_replace(struct handle *handle, uint64_t length)
{
    struct statvfs disk;
    struct stat info;

    if (fstat(handle->fd, &info) != 0 || fstatvfs(handle->fd, &disk) != 0)
        return errno;
    if (disk.f_blocks && /* of /proc and the like there are none */
        length > disk.f_bavail * disk.f_frsize + (uint64_t)info.st_blocks * 512)
        return ENOSPC;
    if (ftruncate(handle->fd, 0) != 0)
        return errno;
    handle->begun = 1;
    /* What was freed must not be taken by others meanwhile. Not every file system can do this. */
    if (length && fallocate(handle->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)length) == 0)
        handle->reserved = length;
    else if (length && errno == ENOSPC)
        return ENOSPC;
    return 0;
}

/* `answer` has room for 12 bytes and the path. */
static int do_open(const struct request *request, const char *path, uint8_t *answer)
{
    struct handle *handle = unused_handle();
    struct stat info;
    uint32_t number;
    uint64_t size = 0;
    int bad = 0;

    if (!handle)
        return EMFILE;
    *handle = (struct handle){.fd = -1, .directory = -1};
    if (request->truncate)
        bad = open_to_write(handle, path);
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
    memcpy(answer + 12, path, strlen(path));
    return bad;
}

static int do_close(struct handle *handle, int keep)
{
    int bad = handle->bad;

    if (handle->replaces && keep && !bad && !handle->begun)
        bad = begin_to_replace(handle, 0); /* with nothing */
    if (handle->reserved) {
        off_t written = lseek(handle->fd, 0, SEEK_CUR);
        if (written >= 0 && (uint64_t)written < handle->reserved && ftruncate(handle->fd, written) != 0 && !bad)
            bad = errno;
    }
    if (close(handle->fd) != 0 && !bad)
        bad = errno;
    handle->fd = -1;
    if (handle->directory >= 0) {
        if (!bad && keep && renameat(handle->directory, handle->part, handle->directory, handle->name) != 0)
            bad = errno;
        if (bad || !keep)
            unlinkat(handle->directory, handle->part, 0);
        close_fd(&handle->directory);
    }
    return bad;
}

static int do_write(struct handle *handle, const struct request *request)
{
    size_t done = 0;

    if (handle->replaces && !handle->begun && !handle->bad)
        handle->bad = begin_to_replace(handle, request->length);
    while (!handle->bad && done < request->data_length) {
        ssize_t wrote = write(handle->fd, request->data + done, request->data_length - done);
        if (wrote > 0)
            done += (size_t)wrote;
        else if (errno != EINTR)
            handle->bad = wrote == 0 ? ENOSPC : errno;
    }
    return handle->bad;
}

/* Reads until `want` bytes or the end of the file: files of /proc are read in pieces of their own
 * choice. -1 and errno. */
static ssize_t do_read(int fd, uint8_t *bytes, size_t want, off_t offset)
{
    size_t done = 0;

    while (done < want) {
        ssize_t got = pread(fd, bytes + done, want - done, offset + (off_t)done);

        if (got < 0 && errno == ESPIPE)
            got = read(fd, bytes + done, want - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && !done)
            return -1;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

int files_dispatch(const struct frame *frame)
{
    static uint8_t bytes[FRAME_MAX];
    struct request request;
    const struct user *user = NULL;
    struct handle *handle;
    char path[PATH_MAX];
    uint8_t answer[12 + PATH_MAX];
    int bad;

    if (frame->kind < DO_OPEN || frame->kind > DO_CLOSE)
        return 0;
    bad = request_parse(frame, &request);
    handle = find(request.handle);
    if (!bad && frame->kind == DO_OPEN) {
        bad = (user = user_find(request.user)) ? 0 : EPERM;
        if (!bad)
            bad = user_path(user, request.path, path);
        if (!bad) {
            user_enter(user);
            bad = do_open(&request, path, answer);
            user_leave();
        }
        if (!bad)
            line_put(KIND_ANSWER, frame->id, answer, 12 + strlen(path));
    } else if (!bad && !handle)
        bad = EBADF;
    else if (!bad && frame->kind == DO_READ) {
        size_t want = request.length < sizeof bytes ? (size_t)request.length : sizeof bytes;
        ssize_t got = do_read(handle->fd, bytes, want, (off_t)request.offset);

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
