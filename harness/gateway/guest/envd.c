/* Requests in, answers out: envd's loop, and the fields of both. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define USUAL_USER "user"

static char *text_of(char **room, const struct field *field)
{
    char *text = *room;

    memcpy(text, field->bytes, field->length);
    text[field->length] = 0;
    *room += field->length + 1;
    return text;
}

int ask(const struct frame *request, struct asked *out)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    size_t arguments = 0, variables = 0;
    struct field field;
    char *room;
    int more;

    *out = (struct asked){.path = "", .target = "", .user = "", .cwd = "", .label = ""};
    /* A string and its zero are shorter than the five bytes of a field's header and the string. */
    room = out->text = malloc(request->length + 1);
    out->arguments = calloc(request->length / 5 + 2, sizeof(char *));
    out->environment = calloc(request->length / 5 + 10, sizeof(char *));
    if (!room || !out->arguments || !out->environment)
        return ENOMEM;
    while ((more = field_next(&at, end, &field)) > 0)
        switch (field.tag) {
        case TAG_PATH: out->path = text_of(&room, &field); break;
        case TAG_TARGET: out->target = text_of(&room, &field); break;
        case TAG_USER: out->user = text_of(&room, &field); break;
        case TAG_CWD: out->cwd = text_of(&room, &field); break;
        case TAG_LABEL: out->label = text_of(&room, &field); break;
        case TAG_ARG: out->arguments[arguments++] = text_of(&room, &field); break;
        case TAG_ENV: out->environment[variables++] = text_of(&room, &field); break;
        case TAG_DATA: out->data = field.bytes; out->data_length = field.length; break;
        case TAG_PID: out->pid = field_number(&field); break;
        case TAG_OFFSET: out->offset = field_number(&field); break;
        case TAG_LENGTH: out->length = field_number(&field); break;
        case TAG_MODE: out->mode = field_number(&field); break;
        case TAG_COLUMNS: out->columns = field_number(&field); out->pty = 1; break;
        case TAG_ROWS: out->rows = field_number(&field); break;
        case TAG_DEPTH: out->depth = field_number(&field); break;
        case TAG_HANDLE: out->handle = field_number(&field); break;
        case TAG_NUMBER: out->number = field_number(&field); break;
        case TAG_TRUNCATE: out->truncate = 1; break;
        case TAG_RECURSIVE: out->recursive = 1; break;
        case TAG_KEEP_INPUT: out->keep_input = 1; break;
        default: return EINVAL;
        }
    return more < 0 ? EINVAL : 0;
}

void forget(struct asked *asked)
{
    free(asked->text);
    free(asked->arguments);
    free(asked->environment);
}

void reply_bytes(struct reply *reply, uint8_t tag, const void *bytes, size_t length)
{
    uint32_t word = (uint32_t)length;

    if (reply->length + 5 + length > sizeof reply->bytes)
        return;
    reply->bytes[reply->length] = tag;
    memcpy(reply->bytes + reply->length + 1, &word, 4);
    memcpy(reply->bytes + reply->length + 5, bytes, length);
    reply->length += 5 + length;
}

void reply_number(struct reply *reply, uint8_t tag, uint64_t number)
{
    reply_bytes(reply, tag, &number, sizeof number);
}

void reply_text(struct reply *reply, uint8_t tag, const char *text)
{
    reply_bytes(reply, tag, text, strlen(text));
}

/* Whether a file is still what it was when `seen` was last filled, which it is now. */
static int as_seen(const char *path, struct stat *seen)
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

/* Who asked last is remembered: to read the files takes longer than all else of a start. */
int person_find(const char *name, struct person *out)
{
    static struct stat passwd, group;
    static struct person last;
    int same = as_seen("/etc/passwd", &passwd);
    struct passwd *found;

    same &= as_seen("/etc/group", &group);
    if (!*name)
        name = USUAL_USER;
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

void person_enter(const struct person *person)
{
    if (person->uid == 0)
        return;
    setgroups((size_t)person->group_count, person->groups);
    setfsgid(person->gid);
    setfsuid(person->uid);
}

void person_leave(void)
{
    setfsuid(0);
    setfsgid(0);
}

int person_path(const struct person *person, const char *path, char *out, size_t room)
{
    int length;

    if (*path == '/')
        length = snprintf(out, room, "%s", path);
    else if (*path == '~' && (path[1] == '/' || path[1] == 0))
        length = snprintf(out, room, "%s%s", person->home, path + 1);
    else
        length = snprintf(out, room, "%s%s%s", person->home, *path ? "/" : "", path);
    return length < 0 || (size_t)length >= room ? ENAMETOOLONG : 0;
}

/* "key value" lines: use of processor (in ticks), memory and disk. */
static void stats(const struct frame *request)
{
    char text[4096] = "";
    size_t length = 0;
    struct statvfs disk = {0};
    static const char *const paths[] = {"/proc/stat", "/proc/meminfo"};

    for (size_t i = 0; i < 2; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, text + length, 1600);

        length += got > 0 ? (size_t)got : 0;
        if (length && text[length - 1] != '\n')
            text[length++] = '\n';
        if (fd >= 0)
            close(fd);
    }
    statvfs("/", &disk);
    length += (size_t)snprintf(text + length, sizeof text - length, "disk %llu %llu\n",
                               (unsigned long long)disk.f_blocks * disk.f_frsize,
                               (unsigned long long)(disk.f_blocks - disk.f_bfree) * disk.f_frsize);
    line_put(KIND_ANSWER, request->id, text, length);
}

static void dispatch(const struct frame *request)
{
    static const char hello[] = "envd=1\n";

    if (request->kind == DO_HELLO)
        line_put(KIND_ANSWER, request->id, hello, sizeof hello - 1);
    else if (request->kind == DO_STATS)
        stats(request);
    else if (!processes_dispatch(request) && !files_dispatch(request) && !tree_dispatch(request) &&
             !watch_dispatch(request) && !links_dispatch(request))
        line_error(request->id, ENOSYS, "unknown request");
}

static void survive(int number)
{
    (void)number;
}

static void serve(void)
{
    static struct pollfd set[2 + 4 * PROCESSES_MAX + LINKS_MAX];

    for (;;) {
        struct frame request;
        int timeout_ms;
        int count = 2 + processes_poll_set(set + 2, &timeout_ms);

        count += links_poll_set(set + count);
        set[0] = (struct pollfd){.fd = line_fd(), .events = POLLIN};
        set[1] = (struct pollfd){.fd = watch_fd(), .events = POLLIN};
        poll(set, (nfds_t)count, timeout_ms);
        if (set[0].revents & POLLHUP)
            usleep(20000); /* nobody has connected to the line, or it is being handed on */
        else if (set[0].revents & POLLIN && line_fill(1) < 0)
            usleep(20000);
        while (line_next(&request))
            dispatch(&request);
        if (set[1].revents & POLLIN)
            watch_pump();
        processes_pump();
        links_pump();
        line_flush();
    }
}

static void leave_standard_streams(void)
{
    int nothing = open("/dev/null", O_RDWR);

    for (int fd = 0; fd < 3; fd++)
        dup2(nothing, fd);
    if (nothing > 2)
        close(nothing);
}

static void prepare(void)
{
    prctl(PR_SET_NAME, "envd");
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* what a command leaves behind is ours to reap */
    signal(SIGPIPE, survive); /* not SIG_IGN, which a command would inherit */
}

/* The first process of a container, whose root is there. */
static int serve_standard_input(void)
{
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return 1;
    line_use(fd, fd);
    prepare();
    leave_standard_streams();
    serve();
    return 0;
}

/* envd PORT DEVICE: returns to its caller once it is ready to serve. envd alone: see above. */
int main(int count, char **words)
{
    int ready[2];
    char ok = 0;

    if (count == 1)
        return serve_standard_input();
    if (count != 3 || pipe(ready) != 0)
        return 64;
    if (fork() != 0) {
        close(ready[1]);
        return read(ready[0], &ok, 1) == 1 && ok ? 0 : 1;
    }
    setsid();
    prepare();
    for (int tries = 0; access(words[1], F_OK) != 0 && tries < 2000; tries++)
        usleep(1000);
    if (line_open(words[1]) < 0) {
        perror(words[1]);
        return 1;
    }
    if (root_enter(words[2]) != 0)
        return 1;
    close(ready[0]);
    ok = 1;
    if (write(ready[1], &ok, 1) != 1)
        return 1;
    close(ready[1]);
    leave_standard_streams();
    serve();
}
