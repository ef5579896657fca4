/* The agent's requests; each handler sends its answer on the channel. */
#ifndef COPPICE_AGENT_H
#define COPPICE_AGENT_H

#include "frame.h"

#include <netinet/in.h>
#include <poll.h>

/* system.c: PID 1's duties. */
void system_mount(void);
void system_quiet(void);
void system_load_modules(void);
/* Opens the channel to the harness. 0, or -1 when there is none. */
int system_open_line(void);
/* Called when the harness has closed the channel. */
void system_hung_up(void);
void system_halt(void);

/* self.c: sets the guest's clock, names, entropy and addresses. 0, or -1 and errno. shared/self.c
 * is for sandboxes on their host's kernel, which must not change the host's. */
int self_wall(uint64_t ns);
int self_hostname(const struct field *field);
int self_machine_id(const struct field *field);
int self_entropy(const struct field *field);
int self_mac(const struct field *field);
int self_address(const struct field *field);
int self_route(const struct field *field);

/* identity.c */
/* Parses "10.0.0.2/16". 0, or -1 and errno. */
int identity_parse_address(const struct field *field, struct in_addr *address, int *prefix);
void identity_ping(const struct frame *request);
void identity_hello(const struct frame *request);
void identity_take(const struct frame *request);

/* The hash of a nonce under the guest's key, which proves its identity. */
uint64_t identity_sign(const uint8_t *bytes, size_t length);

/* doorbell.c */
void doorbell_wait(const struct frame *request);
/* Nanoseconds since the doorbell was last answered. */
uint64_t doorbell_age_ns(void);

/* process.c */
#define CHILDREN_MAX 32
void process_start(const struct frame *request);
void process_stdin(const struct frame *request);
void process_signal(const struct frame *request);
/* Fills `set` with what to poll; returns its length, and the timeout in ms (-1: none). */
int process_poll_set(struct pollfd *set, int *timeout_ms);
/* Moves stdin and output, reaps, and enforces time limits. Called after every poll. */
void process_pump(void);

/* files.c */
/* Replaces a file's content with a field and a newline. 0, or -1 and errno. */
int files_write_line(const char *path, const struct field *field);
void files_read(const struct frame *request);
void files_write(const struct frame *request);

/* memory.c */
void memory_touch(const struct frame *request);
void memory_report(const struct frame *request);

#endif
