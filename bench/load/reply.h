/* One HTTP reply, read as its bytes arrive: whole or not, its status, and the events of a stream counted. */
#ifndef REPLY_H
#define REPLY_H

#include "common.h"

struct reply {
    struct buffer head;
    bool in_body, chunked, until_close, whole, broken, closes;
    int status;
    uint64_t left;      /* of the body, or of the chunk at hand */
    int part;           /* of the transfer coding: see reply.c */
    uint64_t body_bytes;
    long events;        /* blank lines in the body */
    bool after_newline;
    int done_matched;   /* how much of "[DONE]" came last */
    bool done;
};

/* Forget the reply before; keeps the memory. */
void reply_reset(struct reply *reply);

/* Take in bytes; sets `whole` at the end of the reply and `broken` where it is not HTTP. */
void reply_feed(struct reply *reply, const char *bytes, size_t count);

/* The connection was closed: whole only where the reply's end was not told otherwise. */
void reply_closed(struct reply *reply);

#endif
