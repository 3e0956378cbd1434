/* What the upstream and the load generator share: time, buffers, timers, sockets and options.
 *
 * Both are one thread around one epoll. A timer sits first in the struct that it wakes, so a due timer is its owner.
 */
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data;
    size_t used, size;
};

struct timer {
    uint64_t due_us;
    size_t place; /* in the heap, from 1; 0 while not set */
};

struct timers {
    struct timer **heap;
    size_t count, size;
    int fd; /* a timerfd, readable when the first one is due */
    uint64_t armed_us;
};

/* Say what is wrong and end the process; for what cannot be gone on from. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_us(void);

/* A xorshift generator: the same seed gives the same load. */
uint64_t next_random(uint64_t *state);

/* A number from 0 to below `limit`. */
uint64_t random_below(uint64_t *state, uint64_t limit);

void *allocated(void *old, size_t bytes);
void buffer_add(struct buffer *buffer, const char *data, size_t count);
void buffer_drop(struct buffer *buffer, size_t count);
void buffer_print(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

void timers_open(struct timers *timers);
void timers_set(struct timers *timers, struct timer *timer, uint64_t due_us);
void timers_clear(struct timers *timers, struct timer *timer);
/* Take out and return the first timer that is due, or NULL. */
struct timer *timers_due(struct timers *timers, uint64_t at_us);
/* Make the timerfd readable when the first timer, or `other_us` if that is sooner, is due. */
void timers_arm(struct timers *timers, uint64_t other_us);

/* Sockets on 127.0.0.1, non-blocking, without Nagle's delay. */
int listen_on(int port, int *chosen);
int connect_to(int port);
int accept_from(int listener);

/* Where the value of header `name` begins within a head that ends in an empty line, or NULL. */
const char *header_value(const char *head, size_t length, const char *name);

/* End with whoever started this process, so that nothing is left behind. */
void end_with_parent(void);

/* The value after option `name`, or `otherwise`; whole numbers only. */
long option(int count, char **words, const char *name, long otherwise);

#endif
