/* See common.h. */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(2);
}

uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000 + (uint64_t)at.tv_nsec / 1000;
}

uint64_t next_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

uint64_t random_below(uint64_t *state, uint64_t limit) {
    return limit == 0 ? 0 : (next_random(state) >> 11) % limit;
}

/* --- buffers ------------------------------------------------------------------------------------------------------ */

void *allocated(void *old, size_t bytes) {
    void *memory = realloc(old, bytes);
    if (memory == NULL) fail("out of memory");
    return memory;
}

static void buffer_room(struct buffer *buffer, size_t count) {
    if (buffer->used + count <= buffer->size) return;
    size_t size = buffer->size == 0 ? 4096 : buffer->size;
    while (size < buffer->used + count) size *= 2;
    buffer->data = allocated(buffer->data, size);
    buffer->size = size;
}

void buffer_add(struct buffer *buffer, const char *data, size_t count) {
    if (count == 0) return;
    buffer_room(buffer, count);
    memcpy(buffer->data + buffer->used, data, count);
    buffer->used += count;
}

void buffer_drop(struct buffer *buffer, size_t count) {
    if (count == 0) return;
    memmove(buffer->data, buffer->data + count, buffer->used - count);
    buffer->used -= count;
}

void buffer_print(struct buffer *buffer, const char *format, ...) {
    buffer_room(buffer, 4096);
    va_list values;
    va_start(values, format);
    int written = vsnprintf(buffer->data + buffer->used, 4096, format, values);
    va_end(values);
    if (written < 0 || written >= 4096) fail("a line is longer than 4096 bytes");
    buffer->used += (size_t)written;
}

/* --- timers: a binary heap, the soonest on top -------------------------------------------------------------------- */

void timers_open(struct timers *timers) {
    memset(timers, 0, sizeof *timers);
    timers->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timers->fd < 0) fail("no timer: %s", strerror(errno));
}

static void put(struct timers *timers, size_t place, struct timer *timer) {
    timers->heap[place] = timer;
    timer->place = place;
}

static void rise(struct timers *timers, struct timer *timer, size_t place) {
    while (place > 1 && timers->heap[place / 2]->due_us > timer->due_us) {
        put(timers, place, timers->heap[place / 2]);
        place /= 2;
    }
    put(timers, place, timer);
}

static void sink(struct timers *timers, struct timer *timer, size_t place) {
    for (size_t child = place * 2; child <= timers->count; child = place * 2) {
        if (child < timers->count && timers->heap[child + 1]->due_us < timers->heap[child]->due_us) child++;
        if (timers->heap[child]->due_us >= timer->due_us) break;
        put(timers, place, timers->heap[child]);
        place = child;
    }
    put(timers, place, timer);
}

void timers_clear(struct timers *timers, struct timer *timer) {
    size_t place = timer->place;
    if (place == 0) return;
    timer->place = 0;
    struct timer *last = timers->heap[timers->count--];
    if (last == timer) return;
    rise(timers, last, place);
    sink(timers, last, last->place);
}

void timers_set(struct timers *timers, struct timer *timer, uint64_t due_us) {
    timers_clear(timers, timer);
    if (timers->count + 2 > timers->size) {
        timers->size = timers->size == 0 ? 256 : timers->size * 2;
        timers->heap = allocated(timers->heap, timers->size * sizeof *timers->heap);
    }
    timer->due_us = due_us;
    rise(timers, timer, ++timers->count);
}

struct timer *timers_due(struct timers *timers, uint64_t at_us) {
    if (timers->count == 0 || timers->heap[1]->due_us > at_us) return NULL;
    struct timer *first = timers->heap[1];
    timers_clear(timers, first);
    return first;
}

void timers_arm(struct timers *timers, uint64_t other_us) {
    uint64_t due_us = other_us;
    if (timers->count > 0 && timers->heap[1]->due_us < due_us) due_us = timers->heap[1]->due_us;
    /* Setting it again also makes a timer that ran out unreadable, so it never needs to be read. */
    if (due_us == timers->armed_us && due_us > now_us()) return;
    timers->armed_us = due_us;
    struct itimerspec when = {{0, 0}, {(time_t)(due_us / 1000000), (long)(due_us % 1000000) * 1000}};
    timerfd_settime(timers->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* --- sockets ------------------------------------------------------------------------------------------------------ */

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void without_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int listen_on(int port, int *chosen) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = loopback(port);
    socklen_t length = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 4096) != 0)
        fail("cannot listen on port %d: %s", port, strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &length);
    *chosen = ntohs(address.sin_port);
    return fd;
}

int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(port);
    if (fd < 0) return -1;
    without_delay(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EINPROGRESS) return fd;
    close(fd);
    return -1;
}

int accept_from(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) without_delay(fd);
    return fd;
}

/* --- the rest ----------------------------------------------------------------------------------------------------- */

const char *header_value(const char *head, size_t length, const char *name) {
    size_t wanted = strlen(name);
    const char *end = head + length, *line = head;
    while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        line++;
        if ((size_t)(end - line) <= wanted) return NULL;
        if (strncasecmp(line, name, wanted) == 0 && line[wanted] == ':') {
            for (line += wanted + 1; line < end && *line == ' '; line++) continue;
            return line;
        }
    }
    return NULL;
}

void end_with_parent(void) {
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (parent == 1 || getppid() != parent) exit(2);
}

long option(int count, char **words, const char *name, long otherwise) {
    for (int at = 1; at + 1 < count; at++) {
        if (strcmp(words[at], name) != 0) continue;
        char *end;
        long value = strtol(words[at + 1], &end, 10);
        if (*end != '\0' || value < 0) fail("%s %s is not a whole number", name, words[at + 1]);
        return value;
    }
    return otherwise;
}
