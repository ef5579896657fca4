/* Attempts something that a sandbox must not be able to do: `attack NAME [ARGUMENT]`. Exits with 0
 * if it succeeded, 1 if the kernel refused, with errno on stdout, 2 if the name is unknown.
 *
 * `attack serve NUMBER` stays: it reads "NAME ARGUMENT" from that descriptor, attempts it in this
 * process, and answers with a line of the errno. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *argument;

static long number(void)
{
    return strtol(argument, NULL, 10);
}

static long signal_process(void) { return kill((pid_t)number(), 0); }
static long kill_everything(void) { return kill(-1, SIGUSR1); } /* every process that is visible */
static long trace_process(void) { return ptrace(PTRACE_SEIZE, (pid_t)number(), NULL, NULL); }

static long read_process(void)
{
    char into[8];
    struct { void *at; size_t length; } here = {into, sizeof into}, there = {(void *)0x400000, 8};
    return syscall(SYS_process_vm_readv, number(), &here, 1, &there, 1, 0);
}

static long open_file(void) { return open(argument, O_RDONLY); }
static long write_file(void)
{
    int fd = open(argument, O_WRONLY);
    return fd < 0 ? -1 : write(fd, "1", 1);
}

/* Guesses a file handle (inode 2 is the root of ext4): handles open any file of a file system. */
static long open_by_handle(void)
{
    struct { uint32_t bytes; int type; uint32_t inode, generation; } handle = {8, 1, 2, 0};
    int mount = open("/", O_RDONLY);
    return syscall(SYS_open_by_handle_at, mount, &handle, O_RDONLY);
}

static long make_device(void)
{
    unlink("/tmp/device");
    if (mknod("/tmp/device", S_IFBLK | 0600, makedev((unsigned)number(), 0)) != 0)
        return -1;
    return open("/tmp/device", O_RDONLY);
}

static long make_memory_device(void)
{
    unlink("/tmp/memory");
    if (mknod("/tmp/memory", S_IFCHR | 0600, makedev(1, 1)) != 0)
        return -1;
    return open("/tmp/memory", O_RDWR);
}

static long mount_tmpfs(void) { return mount("none", "/tmp", "tmpfs", 0, ""); }
static long mount_proc(void) { return mount("none", "/tmp", "proc", 0, ""); }
static long mount_cgroup(void) { return mount("none", "/tmp", "cgroup", 0, "memory"); }
static long remount_proc(void) { return mount("", "/proc/sys", "", MS_REMOUNT | MS_BIND, ""); }
static long unmount_mask(void) { return umount2("/proc/sys", MNT_DETACH); }
static long new_user_namespace(void) { return unshare(CLONE_NEWUSER); }
static long new_cgroup_namespace(void) { return unshare(CLONE_NEWCGROUP); }

static long enter_namespace(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/mnt", argument);
    int fd = open(path, O_RDONLY);
    return fd < 0 ? -1 : setns(fd, 0);
}

static long add_key(void) { return syscall(SYS_add_key, "user", "n", "v", 1, -4); }
static long find_key(void) { return syscall(SYS_keyctl, 10, -4, "user", argument, 0); }
static long request_key(void) { return syscall(SYS_request_key, "user", argument, NULL, 0); }

static long abstract_socket(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memcpy(to.sun_path + 1, argument, strlen(argument));
    return connect(fd, (struct sockaddr *)&to,
                   (socklen_t)(sizeof(sa_family_t) + 1 + strlen(argument)));
}

static long shared_memory(void) { return shmget((key_t)number(), 4096, 0); }
static long packet_socket(void) { return socket(AF_PACKET, SOCK_RAW, 0x0300); }
static long raw_socket(void) { return socket(AF_INET, SOCK_RAW, 1); }
static long hypervisor_socket(void) { return socket(AF_VSOCK, SOCK_STREAM, 0); }
static long load_module(void) { return syscall(SYS_init_module, "no module", 9, ""); }
static long load_kernel(void) { return syscall(SYS_kexec_load, 0, 0, NULL, 0); }
static long load_bpf(void) { return syscall(SYS_bpf, 5, "", 48); }
static long perf(void)
{
    uint32_t attribute[32] = {1, sizeof attribute}; /* a software clock for all processes */
    return syscall(SYS_perf_event_open, attribute, -1, 0, -1, 0);
}
static long io_uring(void) { char room[120] = {0}; return syscall(SYS_io_uring_setup, 1, room); }
static long fault_handler(void) { return syscall(SYS_userfaultfd, 0); }
static long kernel_log(void) { char text[64]; return syscall(SYS_syslog, 3, text, sizeof text); }

static long set_clock(void)
{
    struct timespec then = {.tv_sec = 1000000000};
    return clock_settime(CLOCK_REALTIME, &then);
}

static long set_hostname(void) { return sethostname("taken", 5); }
static long set_priority(void) { struct sched_param most = {50}; return syscall(
    SYS_sched_setscheduler, 0, SCHED_FIFO, &most); }

/* Forks until the limit is reached; every process spins. */
static long fork_bomb(void)
{
    for (;;)
        if (fork() < 0)
            for (volatile long i = 0; i < 100000; i++)
                ;
    return 0;
}

static long memory_bomb(void)
{
    for (;;) {
        char *room = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED)
            return -1;
        memset(room, 1, 1 << 20);
    }
}

static long become_user(void)
{
    uid_t user = (uid_t)number();
    return setresuid(user, user, user);
}

static long change_root(void) { return chroot("/proc"); }
static long make_file(void) { return open(argument, O_WRONLY | O_CREAT, 0600); }
static long open_to_write(void) { return open(argument, O_RDWR); }
static long run_program(void) { char *none[] = {(char *)argument, NULL}; return execv(argument, none); }
static long raise_limit(void)
{
    struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY};
    return setrlimit(RLIMIT_NPROC, &most);
}

static long fork_once(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    return child;
}

static long connect_to_port(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number())};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, sizeof to);
}

/* Succeeds if /proc shows a process besides this one. */
static long see_a_process(void)
{
    DIR *all = opendir("/proc");
    char self[32] = "";
    struct dirent *one;
    if (!all || readlink("/proc/self", self, sizeof self - 1) < 0)
        return -1;
    while ((one = readdir(all)))
        if (one->d_name[0] >= '0' && one->d_name[0] <= '9' && strcmp(one->d_name, self) != 0)
            return 0;
    errno = ESRCH;
    return -1;
}

static void *wait_for_ever(void *nothing) { pause(); return nothing; }

/* Starts threads until it is refused; succeeds with more than a thousand. */
static long thread_bomb(void)
{
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int i = 0; i < 1000; i++)
        if ((errno = pthread_create(&thread, &small, wait_for_ever, NULL)) != 0)
            return -1;
    return 0;
}

#define TRY(name) {#name, name}
static const struct { const char *name; long (*try)(void); } attacks[] = {
    TRY(signal_process), TRY(kill_everything), TRY(trace_process), TRY(read_process),
    TRY(open_file), TRY(write_file), TRY(open_by_handle), TRY(make_device),
    TRY(make_memory_device), TRY(mount_tmpfs), TRY(mount_proc), TRY(mount_cgroup),
    TRY(remount_proc), TRY(unmount_mask), TRY(new_user_namespace), TRY(new_cgroup_namespace),
    TRY(enter_namespace), TRY(add_key), TRY(find_key), TRY(request_key), TRY(abstract_socket),
    TRY(shared_memory), TRY(packet_socket), TRY(raw_socket), TRY(hypervisor_socket),
    TRY(load_module), TRY(load_kernel), TRY(load_bpf), TRY(perf), TRY(io_uring),
    TRY(fault_handler), TRY(kernel_log), TRY(set_clock), TRY(set_hostname), TRY(set_priority),
    TRY(fork_bomb), TRY(memory_bomb), TRY(become_user), TRY(change_root), TRY(make_file),
    TRY(open_to_write), TRY(run_program), TRY(raise_limit), TRY(fork_once), TRY(connect_to_port),
    TRY(see_a_process), TRY(thread_bomb),
};

/* The errno of an attack, 0 if it succeeded, -1 if there is none of that name. */
static int attempt(const char *name)
{
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++)
        if (strcmp(attacks[i].name, name) == 0) {
            errno = 0;
            return attacks[i].try() < 0 ? errno : 0;
        }
    return -1;
}

static int serve(int channel)
{
    char asked[4096], answer[16];
    ssize_t got;
    while ((got = read(channel, asked, sizeof asked - 1)) > 0) {
        asked[got] = 0;
        char *space = strchr(asked, ' ');
        argument = space ? space + 1 : "";
        if (space)
            *space = 0;
        int length = snprintf(answer, sizeof answer, "%d\n", attempt(asked));
        if (write(channel, answer, (size_t)length) < 0)
            return 1;
    }
    return 0;
}

int main(int count, char **words)
{
    argument = count > 2 ? words[2] : "";
    signal(SIGUSR1, SIG_IGN);
    if (count > 2 && strcmp(words[1], "serve") == 0)
        return serve((int)number());
    int result = count > 1 ? attempt(words[1]) : -1;
    if (result < 0)
        return 2;
    printf("%d\n", result);
    return result != 0;
}
