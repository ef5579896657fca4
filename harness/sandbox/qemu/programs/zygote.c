/* Makes a VMM a zygote: preloaded into QEMU, it forks the whole process, every thread of it.
 *
 * fork(2) copies memory but only the calling thread. So every other thread is held first, in a
 * signal's handler: its registers lie on its own stack then, in the frame that rt_sigreturn(2)
 * resumes from. In the copy each gets a new thread of the kernel, which returns from that frame
 * with the old stack and the old thread-local storage, and goes on as if nothing had happened.
 *
 * One SOCK_SEQPACKET socket, its number in COPPICE_ZYGOTE. Request: int32 numbers, and as many
 * open files beside them; the copy has each file in the place of its own file of that number.
 * Answer: int32, the copy's process id, or an errno below zero. The copy is a child of whoever
 * started the zygote, who can wait for it.
 *
 * Until its threads run, the copy must not take a lock: another thread may hold it, and is not
 * there. So no allocation and no stdio between holding and resuming, only system calls.
 * For x86-64 and glibc. Accelerators whose state is in the kernel (KVM) cannot be copied so.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 64
#define MOST_FILES 16
#define HOLD SIGILL /* QEMU blocks almost every signal in its threads; this one it lets through */
#define PATIENCE_S 5
#define FAILED 71

struct thread {
    pid_t tid;
    uintptr_t storage; /* thread-local: what its %fs points to */
    void *frame;
    int *error_at, error; /* the handler's own system calls change errno */
};

static struct thread held[MOST_THREADS];
static int threads;
static uint32_t arrived, releases;
static int line;
static size_t tid_offset; /* of the thread's id in glibc's description of it */

/* System calls and little else. */

static long futex(uint32_t *word, int what, uint32_t value)
{
    static const struct timespec patience = {.tv_sec = PATIENCE_S};

    return syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value,
                   what == FUTEX_WAIT && word == &arrived ? &patience : NULL, NULL, 0);
}

static uintptr_t storage(void)
{
    uintptr_t base;

    __asm__("mov %%fs:0, %0" : "=r"(base));
    return base;
}

static void number_path(char *into, const char *directory, int number)
{
    char digits[12];
    int count = 0;

    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (*directory)
        *into++ = *directory++;
    while (count)
        *into++ = digits[--count];
    *into = 0;
}

/* Calls `each` with every number that names an entry of a directory of /proc; false when one does. */
static bool for_numbers(const char *directory, bool (*each)(int number, void *with), void *with)
{
    int handle = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char room[4096] __attribute__((aligned(8)));
    bool good = handle >= 0;
    long got;

    while (good && (got = syscall(SYS_getdents64, handle, room, sizeof room)) > 0)
        for (long at = 0; good && at < got;) {
            struct dirent64 *one = (struct dirent64 *)(room + at);
            int number = 0;

            at += one->d_reclen;
            if (one->d_name[0] < '0' || one->d_name[0] > '9')
                continue;
            for (const char *digit = one->d_name; *digit; digit++)
                number = number * 10 + *digit - '0';
            if (number != handle)
                good = each(number, with);
        }
    if (handle >= 0)
        close(handle);
    return good;
}

/* Holding and letting go. */

static void hold(int signal, siginfo_t *info, void *frame)
{
    pid_t self = (pid_t)syscall(SYS_gettid);
    uint32_t before = __atomic_load_n(&releases, __ATOMIC_ACQUIRE);
    int error = errno;

    (void)signal;
    (void)info;
    for (int i = 0; i < threads; i++)
        if (held[i].tid == self)
            held[i] = (struct thread){self, storage(), frame, &errno, error};
    __atomic_add_fetch(&arrived, 1, __ATOMIC_RELEASE);
    futex(&arrived, FUTEX_WAKE, 1);
    while (__atomic_load_n(&releases, __ATOMIC_ACQUIRE) == before)
        futex(&releases, FUTEX_WAIT, before);
    errno = error;
}

static bool hold_one(int tid, void *with)
{
    (void)with;
    if (tid == (pid_t)syscall(SYS_gettid))
        return true;
    for (int i = 0; i < threads; i++)
        if (held[i].tid == tid)
            return true;
    if (threads == MOST_THREADS)
        return false;
    held[threads++].tid = tid;
    if (syscall(SYS_tgkill, getpid(), tid, HOLD) != 0)
        threads--; /* it has ended */
    return true;
}

static void let_go(void)
{
    __atomic_add_fetch(&releases, 1, __ATOMIC_RELEASE);
    futex(&releases, FUTEX_WAKE, MOST_THREADS);
}

/* Holds every thread but this one; a thread may start others until it is held itself. */
static bool hold_all(void)
{
    int before;

    threads = 0;
    __atomic_store_n(&arrived, 0, __ATOMIC_RELEASE);
    do {
        before = threads;
        if (!for_numbers("/proc/self/task", hold_one, NULL))
            return false;
        for (uint32_t now; (now = __atomic_load_n(&arrived, __ATOMIC_ACQUIRE)) < (uint32_t)threads;)
            if (futex(&arrived, FUTEX_WAIT, now) != 0 && errno == ETIMEDOUT)
                return false;
    } while (threads > before);
    return true;
}

/* In the copy. */

static void fail(const char *why, const char *what)
{
    char text[160] = "the copy of a VMM cannot run: ";

    strncat(text, why, 60);
    strncat(text, what, 60);
    strcat(text, "\n");
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(FAILED + 1);
    _exit(FAILED);
}

/* An eventfd of its own in the place of one shared with the zygote, with what it had counted. */
static void event_anew(int number)
{
    static const char mark[] = "eventfd-count:";
    char path[48], text[512];
    unsigned long long count = 0;
    int flags = fcntl(number, F_GETFL), info, fresh;
    ssize_t got;

    number_path(path, "/proc/self/fdinfo/", number);
    info = open(path, O_RDONLY | O_CLOEXEC);
    got = info < 0 ? -1 : read(info, text, sizeof text - 1);
    close(info);
    text[got < 0 ? 0 : got] = 0;
    if (!strstr(text, mark))
        fail("an eventfd cannot be read", "");
    for (const char *at = strstr(text, mark) + sizeof mark - 1; *at && *at != '\n'; at++)
        if (*at > ' ')
            count = count * 16 + (unsigned)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
    fresh = eventfd((unsigned)count, EFD_CLOEXEC | (flags & O_NONBLOCK ? EFD_NONBLOCK : 0));
    if (fresh < 0 || dup3(fresh, number, O_CLOEXEC) < 0)
        fail("an eventfd cannot be made", "");
    close(fresh);
}

struct replaced {
    const int32_t *numbers;
    int count;
};

/* What an open file of the zygote's becomes in the copy; false for one that two cannot share. */
static bool file_anew(int number, void *with)
{
    static const char event[] = "anon_inode:[eventfd]", signals[] = "anon_inode:[signalfd]";
    static const char tap[] = "/dev/net/tun";
    const struct replaced *new = with;
    char path[48], what[60];
    ssize_t length;

    for (int i = 0; i < new->count; i++)
        if (new->numbers[i] == number)
            return true;
    number_path(path, "/proc/self/fd/", number);
    length = readlink(path, what, sizeof what - 1);
    what[length < 0 ? 0 : length] = 0;
    if (!strcmp(what, event))
        event_anew(number);
    else if (!strcmp(what, tap) || (what[0] != '/' && strcmp(what, signals) != 0))
        fail("it would share ", what);
    return true;
}

/* A new thread that returns from the frame of a held one. */
static void resume(const struct thread *one)
{
    register long flags __asm__("rdi") = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                         CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                                         CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    register void *stack __asm__("rsi") = one->frame;
    register uintptr_t parent __asm__("rdx") = one->storage + tid_offset;
    register uintptr_t child __asm__("r10") = one->storage + tid_offset;
    register uintptr_t base __asm__("r8") = one->storage;
    long result = SYS_clone;

    *one->error_at = one->error;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tmov %[back], %%eax\n\tsyscall\n1:"
                     : "+a"(result)
                     : "r"(flags), "r"(stack), "r"(parent), "r"(child), "r"(base),
                       [back] "i"(SYS_rt_sigreturn)
                     : "rcx", "r11", "memory", "cc");
    if (result < 0)
        fail("a thread cannot be made", "");
}

/* This thread goes on as the zygote's first one, whose id is the process's. */
static _Noreturn void become(const struct thread *one)
{
    pid_t *tid = (pid_t *)(one->storage + tid_offset);

    *one->error_at = one->error;
    *tid = getpid();
    syscall(SYS_set_tid_address, tid);
    __asm__ volatile("mov %0, %%edi\n\tmov %1, %%rsi\n\tmov %2, %%eax\n\tsyscall\n\t"
                     "mov %3, %%rsp\n\tmov %4, %%eax\n\tsyscall"
                     :
                     : "i"(ARCH_SET_FS), "r"(one->storage), "i"(SYS_arch_prctl), "r"(one->frame),
                       "i"(SYS_rt_sigreturn)
                     : "rdi", "rsi", "rax", "rcx", "r11", "memory");
    __builtin_unreachable();
}

static _Noreturn void live(pid_t zygote, const int32_t *numbers, const int *files, int count)
{
    const struct thread *first = NULL;
    struct replaced new = {numbers, count};

    close(line);
    for (int i = 0; i < count; i++) {
        if (dup3(files[i], numbers[i], O_CLOEXEC) < 0)
            fail("an open file cannot take its place", "");
        close(files[i]);
    }
    for_numbers("/proc/self/fd", file_anew, &new);
    for (int i = 0; i < threads; i++)
        if (held[i].tid == zygote)
            first = &held[i];
        else
            resume(&held[i]);
    if (!first)
        fail("its first thread has ended", "");
    become(first);
}

/* In the zygote. */

static int32_t copy(const int32_t *numbers, const int *files, int count)
{
    pid_t zygote = getpid();
    long made = -EAGAIN;

    if (hold_all()) {
        made = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0);
        if (made == 0)
            live(zygote, numbers, files, count);
        made = made < 0 ? -errno : made;
    }
    let_go();
    return (int32_t)made;
}

static void *serve(void *nothing)
{
    int32_t numbers[MOST_FILES], answer;
    char room[CMSG_SPACE(sizeof(int) * MOST_FILES)] __attribute__((aligned(8)));
    struct iovec words = {numbers, sizeof numbers};

    for (;;) {
        struct msghdr message = {
            .msg_iov = &words, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
        ssize_t got = recvmsg(line, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        int count = (int)(got / (ssize_t)sizeof *numbers), *files;

        if (got <= 0)
            return nothing; /* nobody asks any more */
        if (!head || head->cmsg_len != CMSG_LEN(sizeof(int) * (size_t)count))
            return nothing;
        files = (int *)CMSG_DATA(head);
        answer = copy(numbers, files, count);
        for (int i = 0; i < count; i++)
            close(files[i]);
        send(line, &answer, sizeof answer, MSG_NOSIGNAL);
    }
}

/* QEMU asks that guest memory be left out of copies; here it must be in them. */
int madvise(void *start, size_t length, int advice)
{
    return advice == MADV_DONTFORK ? 0 : (int)syscall(SYS_madvise, start, length, advice);
}

__attribute__((constructor)) static void begin(void)
{
    const char *given = getenv("COPPICE_ZYGOTE");
    struct sigaction action = {.sa_sigaction = hold, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t every, before;
    pthread_attr_t small;
    pthread_t thread;

    if (!given)
        return;
    line = atoi(given);
    while (*(pid_t *)(storage() + tid_offset) != getpid())
        if ((tid_offset += sizeof(pid_t)) > 4096)
            abort();
    sigfillset(&action.sa_mask);
    sigaction(HOLD, &action, NULL);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* no signal of QEMU's is for this thread */
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    if (pthread_create(&thread, &small, serve, NULL) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
