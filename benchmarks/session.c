/* session.c: one submission client, from connect() to the reply to QUIT. load.c says what it is for. */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

static const char *const state_name[STATES] = {
    "closed", "connect", "greeting", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", ".", "QUIT", "idle",
};
static const int expected[STATES] = {0, 0, 220, 250, 220, 235, 250, 250, 354, 250, 221, 0};

static long serial;

static void surprise(const struct session *s, const char *text)
{
    char line[sizeof tally.surprises[0].text];
    int i, n = snprintf(line, sizeof line, "%s: %.80s", state_name[s->state], text);

    for (i = 0; i < n && i < (int) sizeof line; i++)
        if (line[i] < ' ' || line[i] == '"' || line[i] == '\\')
            line[i] = '\'';
    for (i = 0; i < SURPRISES; i++)
        if (tally.surprises[i].count == 0 || strcmp(tally.surprises[i].text, line) == 0) {
            strcpy(tally.surprises[i].text, line);
            tally.surprises[i].count++;
            return;
        }
}

/* The connection is over, one way or the other: the next one, if there is more to do. */
static void finish(struct session *s)
{
    if (s->ssl) {
        SSL_free(s->ssl);
        s->ssl = NULL;
        ERR_clear_error();
    }
    close(s->fd);
    s->state = CLOSED;
    if (tally.unclaimed > 0)
        open_session(s);
    else
        tally.active--;
}

static void fail(struct session *s, const char *text)
{
    surprise(s, text);
    if (s->state == HOLD) {
        tally.held--;
        tally.lost++;
    }
    tally.errors++;
    if (s->left > 0) {
        s->left--;
        tally.unclaimed += s->left;
    }
    finish(s);
}

static void fail_tls(struct session *s)
{
    char text[256] = "TLS failed";
    unsigned long code = ERR_get_error();

    if (code)
        ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    fail(s, text);
}

/* Write what is to be written, as far as the socket takes it. False when the session failed. */
static bool flush(struct session *s)
{
    for (;;) {
        bool command = s->out_at < s->out_length;
        const char *data = command ? s->out + s->out_at : script.body + script.body_length - s->body_left;
        size_t n, length = command ? s->out_length - s->out_at : s->body_left;

        if (length == 0)
            return true;
        if (s->ssl) {
            int result = SSL_write_ex(s->ssl, data, length, &n);
            if (result <= 0) {
                if (SSL_get_error(s->ssl, result) == SSL_ERROR_WANT_WRITE)
                    return true;
                fail_tls(s);
                return false;
            }
        } else {
            ssize_t result = send(s->fd, data, length, MSG_NOSIGNAL | (command && s->body_left ? MSG_MORE : 0));
            if (result < 0) {
                if (errno == EAGAIN)
                    return true;
                fail(s, strerror(errno));
                return false;
            }
            n = (size_t) result;
        }
        if (command)
            s->out_at += n;
        else
            s->body_left -= n;
    }
}

static bool say(struct session *s, enum state state, const char *text)
{
    s->state = state;
    s->out_at = 0;
    s->out_length = strlen(text);
    memcpy(s->out, text, s->out_length);
    return flush(s);
}

static bool say_mail(struct session *s)
{
    s->mailed = now();
    if (!option.pipelining)
        return say(s, MAIL, script.envelope[0]);
    char all[sizeof script.envelope];
    snprintf(all, sizeof all, "%s%s%s", script.envelope[0], script.envelope[1], script.envelope[2]);
    return say(s, MAIL, all);
}

size_t write_header(char *to, size_t room, long number)
{
    return (size_t) snprintf(
        to, room,
        "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nFrom: <%s>\r\nTo: <%s>\r\n"
        "Message-ID: <load.%d.%08ld@example.com>\r\nSubject: one of many\r\n",
        option.sender, option.recipient, getpid(), number);
}

static bool say_content(struct session *s)
{
    s->state = DOT;
    s->out_at = 0;
    s->out_length = write_header(s->out, OUT, serial++);
    s->body_left = script.body_length;
    if (s->out_length + script.body_length <= OUT) { /* in one piece */
        memcpy(s->out + s->out_length, script.body, script.body_length);
        s->out_length += script.body_length;
        s->body_left = 0;
    }
    return flush(s);
}

static bool shake_hands(struct session *s)
{
    int result = SSL_do_handshake(s->ssl);

    if (result <= 0) {
        int error = SSL_get_error(s->ssl, result);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
            return true;
        fail_tls(s);
        return false;
    }
    s->shaking_hands = false;
    tally.resumed += SSL_session_reused(s->ssl);
    if (!*tally.tls_used)
        snprintf(tally.tls_used, sizeof tally.tls_used, "%s %s", SSL_get_version(s->ssl), SSL_get_cipher(s->ssl));
    return option.tls == WRAPPER || say(s, EHLO, script.greeting);
}

static bool start_tls(struct session *s)
{
    s->ssl = SSL_new(context);
    if (s->ssl == NULL || SSL_set_fd(s->ssl, s->fd) != 1)
        die("SSL_new");
    SSL_set_connect_state(s->ssl);
    if (option.resume && last_session)
        SSL_set_session(s->ssl, last_session);
    s->shaking_hands = true;
    return shake_hands(s);
}

static bool after_delivery(struct session *s)
{
    double t = now();

    tally.message_times[tally.sent++] = (float) (t - s->mailed);
    tally.end = t;
    if (--s->left > 0)
        return say_mail(s);
    return say(s, QUIT, "QUIT\r\n");
}

/* The expected reply has come; what next? False when this connection is over. */
static bool go_on(struct session *s)
{
    switch (s->state) {
    case GREETING:
        return say(s, EHLO, script.greeting);
    case EHLO:
        if (option.tls == STARTTLS && s->ssl == NULL)
            return say(s, UPGRADE, "STARTTLS\r\n");
        if (*script.login)
            return say(s, AUTH, script.login);
        /* fall through */
    case AUTH:
        if (option.idle == 0)
            return say_mail(s);
        s->state = HOLD;
        tally.held++;
        return true;
    case UPGRADE:
        s->in_length = 0;
        return start_tls(s);
    case MAIL:
    case RCPT:
        if (!option.pipelining)
            return say(s, s->state + 1, script.envelope[s->state - MAIL + 1]);
        s->state++;
        return true;
    case DATA:
        return say_content(s);
    case DOT:
        return after_delivery(s);
    case QUIT:
        tally.connection_times[tally.connections++] = (float) (now() - s->connected);
        if (s->ssl)
            SSL_shutdown(s->ssl);
        finish(s);
        return false;
    default:
        fail(s, "unexpected");
        return false;
    }
}

/* Take the complete lines out of s->in. False when this connection is over. */
static bool replies(struct session *s)
{
    char *line = s->in, *stop = s->in + s->in_length, *feed;

    while (line < stop && (feed = memchr(line, '\n', (size_t) (stop - line))) != NULL) {
        if (feed - line < 4 || line[3] != '-') {
            *feed = 0;
            if (atoi(line) != expected[s->state]) {
                fail(s, line);
                return false;
            }
            bool upgrade = s->state == UPGRADE;
            if (!go_on(s))
                return false;
            if (upgrade)
                return true;
        }
        line = feed + 1;
    }
    s->in_length = (size_t) (stop - line);
    memmove(s->in, line, s->in_length);
    if (s->in_length == IN) {
        fail(s, "line too long");
        return false;
    }
    return true;
}

/* Read until the socket is empty. */
static void hear(struct session *s)
{
    for (;;) {
        size_t room = IN - s->in_length, n;
        bool more = true;

        if (s->ssl) {
            int result = SSL_read_ex(s->ssl, s->in + s->in_length, room, &n);
            if (result <= 0) {
                int error = SSL_get_error(s->ssl, result);
                if (error == SSL_ERROR_ZERO_RETURN)
                    fail(s, "closed by the server");
                else if (error != SSL_ERROR_WANT_READ)
                    fail_tls(s);
                return;
            }
        } else {
            ssize_t result = recv(s->fd, s->in + s->in_length, room, 0);
            if (result <= 0) {
                if (result == 0)
                    fail(s, "closed by the server");
                else if (errno != EAGAIN)
                    fail(s, strerror(errno));
                return;
            }
            n = (size_t) result;
            more = n == room;
        }
        s->in_length += n;
        if (!replies(s))
            return;
        if (!more || s->shaking_hands)
            return;
    }
}

void handle(struct session *s, uint32_t events)
{
    if (s->state == CONNECT) {
        int problem = 0;
        socklen_t length = sizeof problem;

        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &problem, &length);
        if (problem) {
            fail(s, strerror(problem));
            return;
        }
        s->state = GREETING;
        if (option.tls == WRAPPER && !start_tls(s))
            return;
    }
    if (s->shaking_hands && !shake_hands(s))
        return;
    if (s->shaking_hands)
        return;
    if (flush(s))
        hear(s);
}

void open_session(struct session *s)
{
    int one = 1;

    s->left = option.per_connection < tally.unclaimed ? option.per_connection : tally.unclaimed;
    tally.unclaimed -= s->left;
    s->in_length = s->out_length = s->out_at = s->body_left = 0;
    s->shaking_hands = false;
    s->state = CONNECT;
    s->connected = now();
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (struct sockaddr *) &option.to, sizeof option.to) < 0 && errno != EINPROGRESS)
        die("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = s};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, s->fd, &event) < 0)
        die("epoll_ctl");
}
