/* What the agent can do; each function answers `request` on the line. */
#ifndef COPPICE_AGENT_H
#define COPPICE_AGENT_H

#include "frame.h"

#include <poll.h>

/* system.c: PID 1's duties. */
void system_mount(void);
void system_quiet(void);
void system_load_modules(void);
/* Opens the line; 0, or -1 when there is none. */
int system_open_line(void);
/* The harness has hung up. */
void system_hung_up(void);
void system_halt(void);

/* self.c: what the guest is to itself, set from outside; 0, or -1 and errno. shared/self.c is for
 * sandboxes that run on their host's kernel, whose clock and names are not theirs to set. */
int self_wall(uint64_t ns);
int self_hostname(const struct field *field);
int self_machine_id(const struct field *field);
int self_entropy(const struct field *field);
int self_mac(const struct field *field);
int self_address(const struct field *field);

/* identity.c */
void identity_ping(const struct frame *request);
void identity_hello(const struct frame *request);
void identity_take(const struct frame *request);

/* The keyed hash that shows who answers. */
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
/* Fills `set` with what to wait for; returns how many, and the wait in ms (-1: for ever). */
int process_poll_set(struct pollfd *set, int *timeout_ms);
/* Moves output, reaps, ends what has outlived its time; called after every poll. */
void process_pump(void);

/* files.c */
void files_read(const struct frame *request);
void files_write(const struct frame *request);

/* memory.c */
void memory_touch(const struct frame *request);
void memory_report(const struct frame *request);

#endif
