/* The load generator: many HTTP/1.1 clients in one thread, on a plan that does not wait for who it measures.
 *
 *     load --port P (--connections N | --rate R) --seconds S --plain FILE ... --stream FILE ... [options]
 *
 * A FILE holds one whole request, head and body; they take turns. With --connections, N clients each ask again as soon
 * as they are answered, and begin spread over --spread-ms. With --rate, R requests a second begin, each at a random
 * moment of its own 1/R s; latency counts from that moment, so a late client is no excuse. It is the time to the first
 * byte of a streamed reply's body, and to the last byte of a plain reply. Those that began in the first --skip-ms, on
 * connections still being made, do not count.
 *
 * A reply must have status 200, and a stream --events events and [DONE]. --abort-percent of the requests are broken
 * off by closing, with FIN and RST in turns: a stream at a random event, a plain one at random within --abort-within-us.
 * --requests ends it sooner. Prints one JSON object. Everything ends 10 s after --seconds at the latest.
 */
#include "reply.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 65536, MAX_ASKS = 16, MAX_CLIENTS = 4096, MAX_FAILURES = 1000, EVENTS = 256, DRAIN_US = 10000000 };

struct ask {
    struct buffer bytes;
    bool streamed;
};

struct client {
    struct timer timer; /* stays first: when to begin, or when to break off */
    int fd;
    bool busy, asks_room, waits_to_begin;
    const struct ask *ask;
    size_t written;
    uint64_t began_us;
    bool told_first;
    long abort_at; /* the event at which to break off; -1: never */
    struct reply reply;
};

struct plan {
    long port, connections, rate, seconds, requests, events, spread_ms, skip_ms, abort_percent, abort_within_us;
};

static struct plan plan;
static struct ask asks[MAX_ASKS];
static int ask_count;
static struct client *clients[MAX_CLIENTS], *idle[MAX_CLIENTS];
static int client_count, idle_count, busy_count;
static struct timers timers;
static int epoll_fd;
static uint64_t seed, started_us, stop_us, last_us;
static long begun, done, streams_done, failed, aborted, unsent;
static uint64_t body_bytes;
static char first_failure[128];
static float *samples;
static size_t sample_count, sample_size;

/* --- counting --------------------------------------------------------------------------------------------------------- */

static void sample(const struct client *client) {
    if (client->began_us < started_us + (uint64_t)plan.skip_ms * 1000) return;
    if (sample_count == sample_size) {
        sample_size = sample_size == 0 ? 4096 : sample_size * 2;
        samples = allocated(samples, sample_size * sizeof *samples);
    }
    samples[sample_count++] = (float)(now_us() - client->began_us) / 1000.0f;
}

static void failure(const char *what, int number) {
    if (failed++ == 0) snprintf(first_failure, sizeof first_failure, "%s %d", what, number);
}

static bool goes_on(void) {
    return failed < MAX_FAILURES && (plan.requests == 0 || begun < plan.requests) && now_us() < stop_us;
}

/* --- one client ------------------------------------------------------------------------------------------------------- */

static void begin(struct client *client, uint64_t at_us);

static void watch(struct client *client, bool asks_room, int how) {
    struct epoll_event wanted = {.events = EPOLLIN | (asks_room ? (uint32_t)EPOLLOUT : 0)};
    wanted.data.ptr = client;
    client->asks_room = asks_room;
    epoll_ctl(epoll_fd, how, client->fd, &wanted);
}

static void hang_up(struct client *client, bool reset) {
    if (client->fd < 0) return;
    struct linger at_once = {1, 0};
    if (reset) setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(client->fd);
    client->fd = -1;
}

/* The exchange is over, well or not: ask again, or rest. */
static void over(struct client *client) {
    timers_clear(&timers, &client->timer);
    if (client->busy) busy_count--;
    client->busy = false;
    last_us = now_us();
    if (plan.connections == 0) idle[idle_count++] = client;
    else if (client->fd < 0 && failed > 0) {
        /* 1. Where it fails, not in a tight loop. */
        client->waits_to_begin = true;
        timers_set(&timers, &client->timer, last_us + 10000);
    } else if (goes_on()) {
        begin(client, last_us);
    }
}

static void broke(struct client *client, const char *what, int number) {
    hang_up(client, true);
    failure(what, number);
    over(client);
}

static void break_off(struct client *client) {
    /* Of a request that never left, the other side cannot know. */
    if (client->written < client->ask->bytes.used) unsent++;
    hang_up(client, aborted++ % 2 == 0);
    over(client);
}

static void write_on(struct client *client) {
    const struct buffer *bytes = &client->ask->bytes;
    while (client->written < bytes->used) {
        ssize_t count = send(client->fd, bytes->data + client->written, bytes->used - client->written, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && errno == EAGAIN) break;
        if (count < 0) {
            broke(client, "cannot send: errno", errno);
            return;
        }
        client->written += (size_t)count;
    }
    bool asks_room = client->written < bytes->used;
    if (asks_room != client->asks_room) watch(client, asks_room, EPOLL_CTL_MOD);
}

static void plan_abort(struct client *client) {
    client->abort_at = -1;
    if ((long)random_below(&seed, 100) >= plan.abort_percent) return;
    if (client->ask->streamed) client->abort_at = 1 + (long)random_below(&seed, (uint64_t)plan.events - 1);
    else timers_set(&timers, &client->timer, now_us() + random_below(&seed, (uint64_t)plan.abort_within_us));
}

static void begin(struct client *client, uint64_t at_us) {
    client->ask = &asks[begun++ % ask_count];
    client->began_us = at_us;
    client->written = 0;
    client->told_first = false;
    client->waits_to_begin = false;
    client->busy = true;
    busy_count++;
    reply_reset(&client->reply);
    plan_abort(client);
    if (client->fd >= 0) {
        write_on(client);
        return;
    }
    client->fd = connect_to((int)plan.port);
    if (client->fd < 0) broke(client, "cannot connect: errno", errno);
    else watch(client, true, EPOLL_CTL_ADD);
}

static void finish(struct client *client) {
    const struct reply *reply = &client->reply;
    if (reply->status != 200) {
        broke(client, "status", reply->status);
        return;
    }
    if (client->ask->streamed && (!reply->done || (plan.events > 0 && reply->events != plan.events))) {
        broke(client, "a stream was whole but not right; its events were", (int)reply->events);
        return;
    }
    if (client->ask->streamed) streams_done++;
    else sample(client);
    done++;
    body_bytes += reply->body_bytes;
    if (reply->closes || reply->until_close) hang_up(client, false);
    over(client);
}

static void read_on(struct client *client) {
    static char bytes[READ_BYTES];
    ssize_t count = recv(client->fd, bytes, sizeof bytes, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    struct reply *reply = &client->reply;
    /* 1. A connection that rests may be closed at any time, but has nothing to say. */
    if (!client->busy) {
        hang_up(client, false);
        if (count > 0) failure("bytes after the reply's end:", (int)count);
        return;
    }
    /* 2. The end of the connection. */
    if (count <= 0) {
        reply_closed(reply);
        if (reply->whole) finish(client);
        else broke(client, "closed in mid-reply: errno", count < 0 ? errno : 0);
        return;
    }
    /* 3. More of the reply. */
    reply_feed(reply, bytes, (size_t)count);
    if (client->ask->streamed && reply->body_bytes > 0 && !client->told_first) {
        client->told_first = true;
        sample(client);
    }
    if (reply->broken) broke(client, "not an HTTP reply", 0);
    else if (client->abort_at >= 0 && reply->events >= client->abort_at) break_off(client);
    else if (reply->whole) finish(client);
}

/* --- the loop --------------------------------------------------------------------------------------------------------- */

static struct client *new_client(void) {
    if (client_count == MAX_CLIENTS) return NULL;
    struct client *client = allocated(NULL, sizeof *client);
    memset(client, 0, sizeof *client);
    client->fd = -1;
    return clients[client_count++] = client;
}

static void start_clients(void) {
    for (long number = 0; number < plan.connections; number++) {
        struct client *client = new_client();
        if (client == NULL) fail("--connections is above %d", MAX_CLIENTS);
        uint64_t step_us = (uint64_t)plan.spread_ms * 1000 / (uint64_t)plan.connections;
        client->waits_to_begin = true;
        timers_set(&timers, &client->timer, started_us + (uint64_t)number * step_us + random_below(&seed, step_us));
    }
}

/* Begin what is due by the rate's plan; returns when the next one is. */
static uint64_t arrivals(uint64_t *slot, uint64_t due_us) {
    uint64_t width_us = 1000000 / (uint64_t)plan.rate;
    while (goes_on() && due_us <= now_us()) {
        struct client *client = idle_count > 0 ? idle[--idle_count] : new_client();
        if (client == NULL) failure("too many requests at once:", MAX_CLIENTS);
        else begin(client, due_us);
        (*slot)++;
        due_us = started_us + *slot * width_us + random_below(&seed, width_us);
    }
    return due_us;
}

static void on_due(struct client *client) {
    if (!client->waits_to_begin) break_off(client);
    else if (goes_on()) begin(client, client->timer.due_us);
}

static bool anything_left(uint64_t now) {
    if (now >= stop_us + DRAIN_US) return false;
    return busy_count > 0 || goes_on();
}

static void run(void) {
    struct epoll_event events[EVENTS];
    uint64_t slot = 0, arrival_us = plan.rate > 0 ? started_us : UINT64_MAX;
    for (uint64_t now = now_us(); anything_left(now); now = now_us()) {
        struct timer *due;
        while ((due = timers_due(&timers, now)) != NULL) on_due((struct client *)due);
        if (plan.rate > 0) arrival_us = arrivals(&slot, arrival_us);
        /* 1. Once nothing more is begun, nothing but a reply or a timer is waited for. */
        uint64_t next_us = goes_on() ? (arrival_us < stop_us ? arrival_us : stop_us) : stop_us + DRAIN_US;
        timers_arm(&timers, next_us);
        int count = epoll_wait(epoll_fd, events, EVENTS, 100);
        for (int at = 0; at < count; at++) {
            struct client *client = events[at].data.ptr;
            if (client == NULL || client->fd < 0) continue;
            if (events[at].events & EPOLLOUT && client->busy) write_on(client);
            if (events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && client->fd >= 0) read_on(client);
        }
    }
}

/* --- what it was asked and what it tells ------------------------------------------------------------------------------ */

static void read_ask(const char *path, bool streamed) {
    char bytes[READ_BYTES];
    if (ask_count == MAX_ASKS) fail("more than %d requests", MAX_ASKS);
    struct ask *ask = &asks[ask_count++];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail("cannot read %s: %s", path, strerror(errno));
    for (ssize_t count; (count = read(fd, bytes, sizeof bytes)) > 0;) buffer_add(&ask->bytes, bytes, (size_t)count);
    close(fd);
    if (ask->bytes.used == 0) fail("%s is empty", path);
    ask->streamed = streamed;
}

static void read_plan(int count, char **words) {
    plan.port = option(count, words, "--port", 0);
    plan.connections = option(count, words, "--connections", 0);
    plan.rate = option(count, words, "--rate", 0);
    plan.seconds = option(count, words, "--seconds", 5);
    plan.requests = option(count, words, "--requests", 0);
    plan.events = option(count, words, "--events", 0);
    plan.spread_ms = option(count, words, "--spread-ms", 0);
    plan.skip_ms = option(count, words, "--skip-ms", 0);
    plan.abort_percent = option(count, words, "--abort-percent", 0);
    plan.abort_within_us = option(count, words, "--abort-within-us", 1000);
    seed = (uint64_t)option(count, words, "--seed", 1) * 0x9e3779b97f4a7c15u + 1;
    for (int at = 1; at + 1 < count; at++) {
        if (strcmp(words[at], "--plain") == 0) read_ask(words[at + 1], false);
        if (strcmp(words[at], "--stream") == 0) read_ask(words[at + 1], true);
    }
    if (plan.port == 0 || ask_count == 0) fail("give --port and at least one --plain or --stream");
    if ((plan.connections == 0) == (plan.rate == 0)) fail("give --connections or --rate");
    if (plan.rate > 1000000) fail("--rate is above 1000000");
    if (plan.abort_percent > 0 && plan.events < 2) fail("--abort-percent needs --events");
}

static int ascending(const void *one, const void *other) {
    float difference = *(const float *)one - *(const float *)other;
    return (difference > 0) - (difference < 0);
}

static double percentile(double share) {
    if (sample_count == 0) return -1;
    size_t at = (size_t)((double)sample_count * share);
    return samples[at < sample_count ? at : sample_count - 1];
}

static void tell(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    long cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    double elapsed_s = (double)(last_us > started_us ? last_us - started_us : 1) / 1e6;
    if (sample_count > 0) qsort(samples, sample_count, sizeof *samples, ascending);
    printf("{\"begun\":%ld,\"done\":%ld,\"streams_done\":%ld,\"failed\":%ld,\"aborted\":%ld,\"unsent\":%ld,"
           "\"unfinished\":%d,\"first_failure\":\"%s\",\"elapsed_s\":%.6f,\"body_bytes\":%llu,\"cpu_us\":%ld,"
           "\"connections\":%d,\"samples\":%zu,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f}\n",
           begun, done, streams_done, failed, aborted, unsent, busy_count, first_failure, elapsed_s,
           (unsigned long long)body_bytes, cpu_us, client_count, sample_count, percentile(0.5), percentile(0.99),
           percentile(1.0));
}

int main(int count, char **words) {
    end_with_parent();
    read_plan(count, words);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timers_open(&timers);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timers.fd, &wanted);
    started_us = last_us = now_us();
    stop_us = started_us + (uint64_t)plan.seconds * 1000000;
    start_clients();
    run();
    tell();
    return 0;
}
