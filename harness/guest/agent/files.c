/* Files of the guest, read and written in pieces that fit a frame. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct piece {
    char path[4096];
    uint64_t offset, length, mode;
    int truncate;
    const uint8_t *data;
    size_t data_length;
};

static int parse(const struct frame *request, struct piece *piece)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    struct field field;
    int more;

    *piece = (struct piece){.mode = 0644};
    while ((more = field_next(&at, end, &field)) > 0) {
        switch (field.tag) {
        case TAG_PATH:
            if (field.length >= sizeof piece->path)
                return ENAMETOOLONG;
            memcpy(piece->path, field.bytes, field.length);
            break;
        case TAG_OFFSET: piece->offset = field_number(&field); break;
        case TAG_LENGTH: piece->length = field_number(&field); break;
        case TAG_MODE: piece->mode = field_number(&field); break;
        case TAG_TRUNCATE: piece->truncate = 1; break;
        case TAG_DATA:
            piece->data = field.bytes;
            piece->data_length = field.length;
            break;
        }
    }
    return more < 0 || !piece->path[0] ? EINVAL : 0;
}

int files_write_line(const char *path, const struct field *field)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    int failed = fd < 0 || write(fd, field->bytes, field->length) != (ssize_t)field->length ||
                 write(fd, "\n", 1) != 1;

    if (fd >= 0)
        close(fd);
    return failed ? -1 : 0;
}

/* Until `want` bytes or the end of the file: files of /proc are read in pieces of their own choice.
 * -1 and errno. */
static ssize_t read_at(int fd, uint8_t *bytes, size_t want, off_t offset)
{
    size_t done = 0;
    ssize_t got = 1;

    while (done < want && got > 0) {
        got = pread(fd, bytes + done, want - done, offset + (off_t)done);
        if (got > 0)
            done += (size_t)got;
    }
    return got < 0 && !done ? -1 : (ssize_t)done;
}

/* -> the bytes; fewer than requested at the end of the file. */
void files_read(const struct frame *request)
{
    static uint8_t bytes[FRAME_MAX];
    struct piece piece;
    int bad = parse(request, &piece);
    int fd = bad ? -1 : open(piece.path, O_RDONLY | O_CLOEXEC);
    size_t want = piece.length < sizeof bytes ? (size_t)piece.length : sizeof bytes;
    ssize_t got = fd < 0 ? -1 : read_at(fd, bytes, want, (off_t)piece.offset);

    if (got < 0)
        line_error(request->id, bad ? bad : errno, piece.path);
    else
        line_put(KIND_ANSWER, request->id, bytes, (size_t)got);
    if (fd >= 0)
        close(fd);
}

void files_write(const struct frame *request)
{
    struct piece piece;
    int bad = parse(request, &piece);
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (piece.truncate ? O_TRUNC : 0);
    int fd = bad ? -1 : open(piece.path, flags, (mode_t)piece.mode);
    ssize_t wrote = fd < 0 ? -1 : pwrite(fd, piece.data, piece.data_length, (off_t)piece.offset);

    if (wrote < 0 || (size_t)wrote != piece.data_length)
        line_error(request->id, bad ? bad : wrote >= 0 ? ENOSPC : errno, piece.path);
    else
        line_put(KIND_ANSWER, request->id, "", 0);
    if (fd >= 0)
        close(fd);
}
