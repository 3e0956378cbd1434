/* See reply.h. */
#include "reply.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_HEAD = 65536 };
enum part { SIZE, REST_OF_SIZE, CONTENT, AFTER_CONTENT, TRAILER };

static const char DONE[] = "[DONE]";

void reply_reset(struct reply *reply) {
    struct buffer head = reply->head;
    memset(reply, 0, sizeof *reply);
    head.used = 0;
    reply->head = head;
}

static void content(struct reply *reply, const char *bytes, size_t count) {
    reply->body_bytes += count;
    for (size_t at = 0; at < count; at++) {
        char byte = bytes[at];
        if (byte == '\n') {
            reply->events += reply->after_newline;
            reply->after_newline = !reply->after_newline;
        } else if (byte != '\r') {
            reply->after_newline = false;
        }
        if (byte == DONE[reply->done_matched]) reply->done_matched++;
        else reply->done_matched = byte == '[';
        if (reply->done_matched == 6) {
            reply->done = true;
            reply->done_matched = 0;
        }
    }
}

static void read_head(struct reply *reply) {
    struct buffer *head = &reply->head;
    const char *end = memmem(head->data, head->used, "\r\n\r\n", 4);
    if (end == NULL) {
        reply->broken = head->used > MAX_HEAD;
        return;
    }
    size_t length = (size_t)(end - head->data) + 4;
    if (length < 16 || memcmp(head->data, "HTTP/1.", 7) != 0) {
        reply->broken = true;
        return;
    }
    reply->status = atoi(head->data + 9);
    const char *told = header_value(head->data, length, "content-length");
    const char *coding = header_value(head->data, length, "transfer-encoding");
    const char *connection = header_value(head->data, length, "connection");
    reply->closes = connection != NULL && strncasecmp(connection, "close", 5) == 0;
    reply->chunked = coding != NULL && strncasecmp(coding, "chunked", 7) == 0;
    reply->until_close = !reply->chunked && told == NULL;
    reply->left = told != NULL && !reply->chunked ? strtoull(told, NULL, 10) : 0;
    reply->in_body = true;
    reply->part = SIZE;
    reply->whole = !reply->chunked && !reply->until_close && reply->left == 0;
    struct buffer rest = {NULL, 0, 0};
    buffer_add(&rest, head->data + length, head->used - length);
    head->used = length;
    reply_feed(reply, rest.data, rest.used);
    free(rest.data);
}

static int digit(char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F') return byte - 'A' + 10;
    return -1;
}

/* One byte of the transfer coding outside of content. */
static void between(struct reply *reply, char byte) {
    switch (reply->part) {
    case SIZE:
        if (digit(byte) >= 0) reply->left = reply->left * 16 + (uint64_t)digit(byte);
        else reply->part = REST_OF_SIZE;
        reply->broken = reply->left > (1u << 30);
        break;
    case REST_OF_SIZE:
        if (byte != '\n') break;
        reply->after_newline = reply->left == 0 ? true : reply->after_newline;
        reply->part = reply->left == 0 ? TRAILER : CONTENT;
        break;
    case AFTER_CONTENT:
        if (byte == '\n') reply->part = SIZE;
        break;
    default: /* an empty line ends the trailer */
        if (byte == '\n') {
            reply->whole = reply->after_newline;
            reply->after_newline = true;
        } else if (byte != '\r') {
            reply->after_newline = false;
        }
    }
}

static void feed_chunked(struct reply *reply, const char *bytes, size_t count) {
    for (size_t at = 0; at < count && !reply->whole && !reply->broken;) {
        if (reply->part != CONTENT) {
            between(reply, bytes[at++]);
            continue;
        }
        size_t take = count - at < reply->left ? count - at : (size_t)reply->left;
        content(reply, bytes + at, take);
        at += take;
        reply->left -= take;
        if (reply->left == 0) reply->part = AFTER_CONTENT;
    }
}

void reply_feed(struct reply *reply, const char *bytes, size_t count) {
    if (count == 0 || reply->whole || reply->broken) return;
    if (!reply->in_body) {
        buffer_add(&reply->head, bytes, count);
        read_head(reply);
    } else if (reply->chunked) {
        feed_chunked(reply, bytes, count);
    } else if (reply->until_close) {
        content(reply, bytes, count);
    } else {
        size_t take = count < reply->left ? count : (size_t)reply->left;
        content(reply, bytes, take);
        reply->left -= take;
        reply->whole = reply->left == 0;
    }
}

void reply_closed(struct reply *reply) {
    reply->whole = reply->whole || (reply->in_body && reply->until_close);
}
