/* An engine that costs next to nothing: answers like vLLM's HTTP server, computes nothing, keeps time exactly.
 *
 *     upstream [--port 0] [--gap-us 10000] [--reply-us 0] [--reply-bytes 0] [--lifetime-s 7200]
 *
 * Prints "port N" and serves on 127.0.0.1 until its parent ends, a signal comes, or its lifetime is over. A plain
 * request is answered `reply-us` after it came, with a text of `reply-bytes` where they are told. A streamed one gets `max_tokens` chunks, one every `gap-us` on a clock of
 * its own that starts when the request came: a chunk that left late does not make the next one later.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 65536, MAX_REPLY = 16384, MAX_HEAD = 65536, MAX_BODY = 64 << 20, MAX_CHUNKS = 100000, EVENTS = 256 };

struct client {
    struct timer timer; /* stays first */
    int fd;
    bool asks_room, closes, busy, streamed, usage;
    long chunks, sent;
    unsigned long number;
    char model[256];
    struct buffer in, out;
};

struct request {
    const char *line, *body;
    size_t line_length, body_length, whole;
    bool closes;
};

static int epoll_fd;
static struct timers timers;
static long gap_us, reply_us;
static unsigned long numbers;
static char here; /* marks the listener's events */

static const char ANSWER[] =
    "Of course. There are three things to look at first: what the request asks for, what is known already, and what "
    "would have to be found out. The first is plain from the words; the second is written down above; the third is "
    "small enough to be settled by asking once. So the short answer is yes, and the long one follows from the list.";
static char answer_text[MAX_REPLY + 1];

/* --- one client's connection ---------------------------------------------------------------------------------------- */

static void watch(struct client *client, int how) {
    struct epoll_event wanted = {.events = EPOLLIN | (client->asks_room ? (uint32_t)EPOLLOUT : 0)};
    wanted.data.ptr = client;
    epoll_ctl(epoll_fd, how, client->fd, &wanted);
}

static void drop(struct client *client) {
    timers_clear(&timers, &client->timer);
    close(client->fd);
    free(client->in.data);
    free(client->out.data);
    free(client);
}

/* Send what waits; false when the connection is gone. */
static bool flush(struct client *client) {
    while (client->out.used > 0) {
        ssize_t count = send(client->fd, client->out.data, client->out.used, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && errno != EAGAIN) return false;
        if (count < 0) break;
        buffer_drop(&client->out, (size_t)count);
    }
    bool asks_room = client->out.used > 0;
    if (asks_room != client->asks_room) {
        client->asks_room = asks_room;
        watch(client, EPOLL_CTL_MOD);
    }
    return asks_room || !client->closes || client->busy;
}

/* --- replies ---------------------------------------------------------------------------------------------------------- */

static void reply(struct client *client, const char *status, const char *body) {
    buffer_print(&client->out,
                 "HTTP/1.1 %s\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: %zu\r\n"
                 "content-type: application/json\r\n\r\n",
                 status, strlen(body));
    buffer_add(&client->out, body, strlen(body));
}

static void reply_chat(struct client *client) {
    char body[MAX_REPLY + 2048];
    snprintf(body, sizeof body,
             "{\"id\":\"chatcmpl-%032lx\",\"object\":\"chat.completion\",\"created\":1767225600,\"model\":\"%s\",\"choices\":"
             "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null,\"annotations\":null,"
             "\"audio\":null,\"function_call\":null,\"tool_calls\":[],\"reasoning\":null},\"logprobs\":null,"
             "\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}],\"service_tier\":null,"
             "\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":287,\"total_tokens\":361,\"completion_tokens\":74,"
             "\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"kv_transfer_params\":null}",
             client->number, client->model, answer_text);
    reply(client, "200 OK", body);
}

static void reply_completion(struct client *client) {
    char body[1024];
    snprintf(body, sizeof body,
             "{\"id\":\"cmpl-%032lx\",\"object\":\"text_completion\",\"created\":1767225600,\"model\":\"%s\",\"choices\":"
             "[{\"index\":0,\"text\":\" Paris.\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],"
             "\"usage\":{\"prompt_tokens\":5,\"total_tokens\":9,\"completion_tokens\":4}}",
             client->number, client->model);
    reply(client, "200 OK", body);
}

/* One event of a stream in one chunk of the transfer coding. */
static void event(struct client *client, const char *rest) {
    char text[1024];
    int length = snprintf(text, sizeof text,
                          "data: {\"id\":\"chatcmpl-%032lx\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,"
                          "\"model\":\"%s\",\"choices\":[%s}\n\n",
                          client->number, client->model, rest);
    buffer_print(&client->out, "%x\r\n%s\r\n", length, text);
}

static void stream_opening(struct client *client) {
    buffer_print(&client->out,
                 "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                 "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    event(client, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                  "\"finish_reason\":null}]");
}

static void stream_ending(struct client *client) {
    event(client, "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"stop\","
                  "\"stop_reason\":null,\"token_ids\":null}]");
    if (client->usage) {
        char usage[128];
        snprintf(usage, sizeof usage,
                 "],\"usage\":{\"prompt_tokens\":287,\"total_tokens\":%ld,\"completion_tokens\":%ld}",
                 287 + client->chunks, client->chunks);
        event(client, usage);
    }
    buffer_print(&client->out, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

/* The clock of this request has come round: answer, or send the next chunk. */
static void tick(struct client *client) {
    if (!client->streamed) {
        reply_chat(client);
        client->busy = false;
        return;
    }
    if (client->sent == 0) stream_opening(client);
    char content[128];
    snprintf(content, sizeof content,
             "{\"index\":0,\"delta\":{\"content\":\" token%ld\"},\"logprobs\":null,\"finish_reason\":null,"
             "\"token_ids\":null}]",
             client->sent);
    event(client, content);
    if (++client->sent < client->chunks) {
        timers_set(&timers, &client->timer, client->timer.due_us + (uint64_t)gap_us);
        return;
    }
    stream_ending(client);
    client->busy = false;
}

/* --- requests --------------------------------------------------------------------------------------------------------- */

/* Where the value of `"key":` begins, or NULL. Inside a JSON string the quotes are escaped, so prose never matches. */
static const char *value_of(const struct request *request, const char *key) {
    char quoted[64];
    int length = snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *end = request->body + request->body_length;
    const char *found = memmem(request->body, request->body_length, quoted, (size_t)length);
    if (found == NULL) return NULL;
    for (found += length; found < end && (*found == ' ' || *found == ':'); found++) continue;
    return found < end ? found : NULL;
}

static bool is_true(const struct request *request, const char *key) {
    const char *value = value_of(request, key);
    return value != NULL && request->body + request->body_length - value >= 4 && memcmp(value, "true", 4) == 0;
}

static void infer(struct client *client, const struct request *request, bool chat) {
    const char *model = value_of(request, "model"), *tokens = value_of(request, "max_tokens");
    const char *end = model != NULL && *model == '"' ? memchr(model + 1, '"', sizeof client->model) : NULL;
    int length = end != NULL && end < request->body + request->body_length ? (int)(end - model - 1) : 0;
    snprintf(client->model, sizeof client->model, "%.*s", length, length > 0 ? model + 1 : "");
    client->number = ++numbers;
    client->streamed = chat && is_true(request, "stream");
    client->usage = is_true(request, "include_usage");
    client->sent = 0;
    client->chunks = tokens != NULL ? strtol(tokens, NULL, 10) : 16;
    if (client->chunks < 1 || client->chunks > MAX_CHUNKS) client->chunks = 16;
    if (!chat) {
        reply_completion(client);
        return;
    }
    client->busy = true;
    long wait_us = client->streamed ? gap_us : reply_us;
    client->timer.due_us = now_us() + (uint64_t)wait_us;
    if (wait_us == 0) tick(client);
    else timers_set(&timers, &client->timer, client->timer.due_us);
}

static bool asks(const struct request *request, const char *start) {
    size_t length = strlen(start);
    if (request->line_length <= length || memcmp(request->line, start, length) != 0) return false;
    return request->line[length] == ' ' || request->line[length] == '?';
}

static void answer(struct client *client, const struct request *request) {
    if (request->closes) client->closes = true;
    if (asks(request, "POST /v1/chat/completions")) infer(client, request, true);
    else if (asks(request, "POST /v1/completions")) infer(client, request, false);
    else if (asks(request, "GET /health") || asks(request, "GET /ping")) reply(client, "200 OK", "");
    else if (asks(request, "GET /version")) reply(client, "200 OK", "{\"version\":\"0.32.0\"}");
    else if (asks(request, "GET /is_sleeping")) reply(client, "200 OK", "{\"is_sleeping\":false}");
    else if (asks(request, "GET /v1/load_lora_adapter"))
        reply(client, "405 Method Not Allowed", "{\"detail\":\"Method Not Allowed\"}");
    else if (asks(request, "GET /v1/models"))
        reply(client, "200 OK",
              "{\"object\":\"list\",\"data\":[{\"id\":\"base\",\"object\":\"model\",\"created\":1767225600,"
              "\"owned_by\":\"vllm\",\"root\":\"base\",\"parent\":null,\"max_model_len\":32768,\"permission\":[]}]}");
    else if (asks(request, "POST /resume") || asks(request, "POST /wake_up") || asks(request, "POST /reset_prefix_cache"))
        reply(client, "200 OK", "{}");
    else reply(client, "404 Not Found", "{\"detail\":\"Not Found\"}");
}

/* Find the first whole request in what came in; false while there is none, or where its length is not told. */
static bool next_request(struct client *client, struct request *request) {
    const struct buffer *in = &client->in;
    const char *end = in->used > 0 ? memmem(in->data, in->used, "\r\n\r\n", 4) : NULL;
    if (end == NULL) {
        if (in->used > MAX_HEAD) client->closes = true;
        return false;
    }
    size_t head = (size_t)(end - in->data) + 4;
    const char *length = header_value(in->data, head, "content-length");
    const char *connection = header_value(in->data, head, "connection");
    request->body_length = length != NULL ? strtoul(length, NULL, 10) : 0;
    if (request->body_length > MAX_BODY || header_value(in->data, head, "transfer-encoding") != NULL) {
        reply(client, "411 Length Required", "{\"detail\":\"a content-length, please\"}");
        client->closes = true;
        client->in.used = 0;
        return false;
    }
    request->whole = head + request->body_length;
    request->line = in->data;
    request->line_length = head;
    request->body = in->data + head;
    request->closes = connection != NULL && strncasecmp(connection, "close", 5) == 0;
    return in->used >= request->whole;
}

static bool serve(struct client *client) {
    struct request request;
    while (!client->busy && !client->closes && next_request(client, &request)) {
        answer(client, &request);
        buffer_drop(&client->in, request.whole);
    }
    return flush(client);
}

/* --- the loop --------------------------------------------------------------------------------------------------------- */

static bool take_in(struct client *client) {
    static char bytes[READ_BYTES];
    for (;;) {
        ssize_t count = recv(client->fd, bytes, sizeof bytes, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno == EAGAIN;
        if (count == 0) return false;
        buffer_add(&client->in, bytes, (size_t)count);
        if (count < READ_BYTES) return true;
    }
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept_from(listener)) >= 0) {
        struct client *client = allocated(NULL, sizeof *client);
        memset(client, 0, sizeof *client);
        client->fd = fd;
        watch(client, EPOLL_CTL_ADD);
    }
}

static void on_event(struct epoll_event *event, int listener) {
    if (event->data.ptr == &timers) return;
    if (event->data.ptr == &here) {
        accept_all(listener);
        return;
    }
    struct client *client = event->data.ptr;
    bool alive = (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0 || take_in(client);
    if (!alive || !serve(client)) drop(client);
}

static void run(int listener, uint64_t until_us) {
    struct epoll_event events[EVENTS];
    for (uint64_t now = now_us(); now < until_us; now = now_us()) {
        struct timer *due;
        while ((due = timers_due(&timers, now_us())) != NULL) {
            struct client *client = (struct client *)due;
            tick(client);
            if (!serve(client)) drop(client);
        }
        timers_arm(&timers, until_us);
        int count = epoll_wait(epoll_fd, events, EVENTS, 1000);
        for (int at = 0; at < count; at++) on_event(&events[at], listener);
    }
}

/* The text of a plain reply: ANSWER once, or again and again until it has so many bytes. */
static void write_answer(long bytes) {
    size_t once = sizeof ANSWER - 1, length = bytes > 0 ? (size_t)bytes : once;
    if (length > MAX_REPLY) fail("--reply-bytes is too large");
    for (size_t at = 0; at < length; at++) answer_text[at] = ANSWER[at % once];
}

int main(int count, char **words) {
    int port;
    end_with_parent();
    gap_us = option(count, words, "--gap-us", 10000);
    reply_us = option(count, words, "--reply-us", 0);
    write_answer(option(count, words, "--reply-bytes", 0));
    uint64_t lifetime_s = (uint64_t)option(count, words, "--lifetime-s", 7200);
    if (gap_us == 0) fail("--gap-us must be above 0");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timers_open(&timers);
    int listener = listen_on((int)option(count, words, "--port", 0), &port);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = &here};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &wanted);
    wanted.data.ptr = &timers;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timers.fd, &wanted);
    printf("port %d\n", port);
    fflush(stdout);
    run(listener, now_us() + lifetime_s * 1000000);
    return 0;
}
