/* What the two halves of the load generator share: load.c (options, preparation, the loop, the outcome) and
 * session.c (one client's dialogue). */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clock.h"

enum { IN = 4096, OUT = 8192, SURPRISES = 16 };
enum tls { NONE, STARTTLS, WRAPPER };

/* What a session waits for. */
enum state { CLOSED, CONNECT, GREETING, EHLO, UPGRADE, AUTH, MAIL, RCPT, DATA, DOT, QUIT, HOLD, STATES };

struct session {
    int fd;
    enum state state;
    bool shaking_hands;
    SSL *ssl;
    long left;                /* messages still to go on this connection */
    double connected, mailed; /* when connect() and MAIL began */
    size_t in_length, out_length, out_at, body_left;
    char in[IN], out[OUT];
};

struct options {
    struct sockaddr_in to;
    long sessions, messages, per_connection, size, idle;
    double timeout;
    enum tls tls;
    bool pipelining, resume;
    const char *user, *password, *sender, *recipient;
};

/* What the clients say. */
struct script {
    char greeting[128], login[1024], envelope[3][512]; /* commands; login empty: none */
    char *body; /* what follows the header, the dot included */
    size_t body_length;
};

struct tally {
    long unclaimed; /* messages that no connection has taken on */
    long active;    /* connections open */
    long sent, errors, connections, resumed, held, lost;
    double start, end;
    float *message_times, *connection_times;
    char tls_used[128];
    struct { char text[128]; long count; } surprises[SURPRISES];
};

extern struct options option;
extern struct script script;
extern struct tally tally;
extern int poll_fd;
extern SSL_CTX *context;
extern SSL_SESSION *last_session;

/* Begin a connection and take on its share of the messages. */
void open_session(struct session *s);

/* Go on with a session whose socket is ready. */
void handle(struct session *s, uint32_t events);

/* The header of message number `serial`, as long for one as for the other; its length. */
size_t write_header(char *to, size_t room, long serial);

#endif
