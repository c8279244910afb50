/* sink: an SMTP server that takes mail, counts it and forgets it, as cheaply as it can.
 *
 *   sink [-l ADDRESS] [-p PORT] [-a USER:PASSWORD]
 *
 * One process, epoll, no TLS. It announces PIPELINING, SIZE, 8BITMIME and ENHANCEDSTATUSCODES; with -a it
 * announces AUTH PLAIN too and takes mail only after that login. A message ends at CRLF.CRLF and nowhere
 * else, however the input is cut into pieces.
 *
 * It first prints the port it listens on (-p 0, the default: any free one), and then answers each line on
 * its standard input with one line: messages so far, bytes of content so far, and the moment of the last
 * message (CLOCK_MONOTONIC, seconds).
 *
 *   count      at once
 *   wait N     when N messages have come
 *   reset      after it has set all three to 0
 *
 * It ends with its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

enum { LINE = 2048, REPLIES = 4096, CHUNK = 256 * 1024, EVENTS = 64 };

struct client {
    int fd;
    bool in_body, login, has_sender, has_recipient, quitting;
    int matched; /* how much of CRLF.CRLF the body's end has matched */
    size_t line_length, reply_length;
    char line[LINE];     /* the beginning of a command that has not wholly arrived */
    char reply[REPLIES]; /* answers that the socket has not taken yet */
};

static int poll_fd, listener;
static char chunk[CHUNK];
static char wanted_login[512]; /* base64, empty: none is asked for */
static unsigned long messages, wait_for;
static unsigned long long content;
static double last;

static void report(void)
{
    printf("%lu %llu %.6f\n", messages, content, last);
    fflush(stdout);
}

static void counted(void)
{
    messages++;
    last = now();
    if (wait_for && messages >= wait_for) {
        wait_for = 0;
        report();
    }
}

static void hang_up(struct client *c)
{
    close(c->fd);
    free(c);
}

/* Hand what is in c->reply to the socket. False when the client has gone. */
static bool flush(struct client *c)
{
    if (c->reply_length == 0)
        return true;
    ssize_t n = send(c->fd, c->reply, c->reply_length, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN;
    c->reply_length -= (size_t) n;
    memmove(c->reply, c->reply + n, c->reply_length);
    return true;
}

static void say(struct client *c, const char *text)
{
    size_t length = strlen(text);
    if (c->reply_length + length > REPLIES)
        c->quitting = true; /* does not read what it asked for */
    else {
        memcpy(c->reply + c->reply_length, text, length);
        c->reply_length += length;
    }
}

static bool is(const char *line, const char *verb)
{
    return strncasecmp(line, verb, strlen(verb)) == 0;
}

/* One command, without its line end. */
static void command(struct client *c, const char *line)
{
    if (is(line, "MAIL FROM:")) {
        c->has_sender = c->login;
        c->has_recipient = false;
        say(c, c->login ? "250 2.1.0 Ok\r\n" : "530 5.7.0 Authentication required\r\n");
    } else if (is(line, "RCPT TO:")) {
        c->has_recipient = c->has_sender;
        say(c, c->has_sender ? "250 2.1.5 Ok\r\n" : "503 5.5.1 need MAIL command\r\n");
    } else if (is(line, "DATA")) {
        c->in_body = c->has_recipient;
        c->matched = 2; /* the command's own line end counts */
        say(c, c->has_recipient ? "354 go ahead\r\n" : "503 5.5.1 need RCPT command\r\n");
    } else if (is(line, "EHLO")) {
        say(c, "250-sink\r\n250-PIPELINING\r\n250-SIZE 1073741824\r\n250-8BITMIME\r\n");
        say(c, *wanted_login ? "250-AUTH PLAIN\r\n" : "");
        say(c, "250 ENHANCEDSTATUSCODES\r\n");
    } else if (is(line, "AUTH PLAIN ") && *wanted_login) {
        c->login = strcmp(line + 11, wanted_login) == 0;
        say(c, c->login ? "235 2.7.0 Ok\r\n" : "535 5.7.8 wrong\r\n");
    } else if (is(line, "HELO"))
        say(c, "250 sink\r\n");
    else if (is(line, "RSET")) {
        c->has_sender = c->has_recipient = false;
        say(c, "250 2.0.0 Ok\r\n");
    } else if (is(line, "NOOP"))
        say(c, "250 2.0.0 Ok\r\n");
    else if (is(line, "QUIT")) {
        say(c, "221 2.0.0 Bye\r\n");
        c->quitting = true;
    } else
        say(c, "500 5.5.2 unknown command\r\n");
}

/* Body bytes: how many of them belong to the message, its end included. */
static size_t body(struct client *c, const char *data, size_t length)
{
    static const char end[] = "\r\n.\r\n";
    const char *at = data, *stop = data + length;

    while (at < stop) {
        if (c->matched == 0) {
            at = memchr(at, '\r', (size_t) (stop - at));
            if (at == NULL)
                break;
        }
        if (*at == end[c->matched])
            c->matched++;
        else
            c->matched = *at == '\r';
        at++;
        if (c->matched == 5) {
            c->in_body = c->has_sender = c->has_recipient = false;
            content += (size_t) (at - data);
            say(c, "250 2.0.0 Ok\r\n");
            counted();
            return (size_t) (at - data);
        }
    }
    content += length;
    return length;
}

/* Command bytes: how many were used up. */
static size_t commands(struct client *c, const char *data, size_t length)
{
    const char *feed = memchr(data, '\n', length);
    size_t part = feed ? (size_t) (feed - data) : length;

    if (c->line_length + part >= LINE) {
        say(c, "500 5.5.2 line too long\r\n");
        c->quitting = true;
        return length;
    }
    memcpy(c->line + c->line_length, data, part);
    c->line_length += part;
    if (feed == NULL)
        return length;
    if (c->line_length > 0 && c->line[c->line_length - 1] == '\r')
        c->line_length--;
    c->line[c->line_length] = 0;
    c->line_length = 0;
    command(c, c->line);
    return part + 1;
}

static void serve(struct client *c)
{
    if (!flush(c)) {
        hang_up(c);
        return;
    }
    ssize_t n = recv(c->fd, chunk, CHUNK, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        hang_up(c);
        return;
    }
    for (size_t at = 0; at < (size_t) n && !c->quitting;)
        at += (c->in_body ? body : commands)(c, chunk + at, (size_t) n - at);
    if (!flush(c) || c->quitting)
        hang_up(c);
}

static void greet(void)
{
    int fd, one = 1;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *c = calloc(1, sizeof *c);
        if (c == NULL)
            die("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->login = !*wanted_login;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
            die("epoll_ctl");
        say(c, "220 sink ESMTP\r\n");
        if (!flush(c))
            hang_up(c);
    }
}

static void obey(void)
{
    char line[128];
    ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);

    if (n <= 0)
        exit(0);
    line[n] = 0;
    if (strncmp(line, "wait ", 5) == 0) {
        wait_for = strtoul(line + 5, NULL, 10);
        if (messages < wait_for)
            return;
        wait_for = 0;
    } else if (strncmp(line, "reset", 5) == 0) {
        messages = wait_for = 0;
        content = 0;
        last = 0;
    }
    report();
}

static void listen_on(const char *address, unsigned port)
{
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
    socklen_t length = sizeof where;
    int one = 1;

    if (inet_pton(AF_INET, address, &where.sin_addr) != 1)
        die("%s is no IPv4 address", address);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *) &where, length) < 0 || listen(listener, 1024) < 0)
        die("%s:%u", address, port);
    if (getsockname(listener, (struct sockaddr *) &where, &length) < 0)
        die("getsockname");
    printf("%u\n", ntohs(where.sin_port));
    fflush(stdout);
}

/* "user:password" as AUTH PLAIN's initial response. */
static void want_login(const char *login)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char plain[256] = {0};
    size_t length = strlen(login) + 1;

    if (length > sizeof plain - 3 || strchr(login, ':') == NULL)
        die("-a wants USER:PASSWORD");
    memcpy(plain + 1, login, length - 1);
    plain[1 + (strchr(login, ':') - login)] = 0;
    char *to = wanted_login;
    for (size_t i = 0; i < length; i += 3) {
        unsigned bits = (unsigned) plain[i] << 16 | (unsigned) plain[i + 1] << 8 | plain[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6)
            *to++ = alphabet[bits >> shift & 63];
    }
    for (size_t pad = (3 - length % 3) % 3; pad > 0; pad--)
        to[-(ssize_t) pad] = '=';
}

int main(int argc, char **argv)
{
    const char *address = "127.0.0.1";
    unsigned port = 0;
    int option;

    while ((option = getopt(argc, argv, "l:p:a:")) != -1) {
        if (option == 'l')
            address = optarg;
        else if (option == 'p')
            port = (unsigned) atoi(optarg);
        else if (option == 'a')
            want_login(optarg);
        else
            die("usage: sink [-l ADDRESS] [-p PORT] [-a USER:PASSWORD]");
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    listen_on(address, port);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = NULL;
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        die("standard input must be a pipe or a terminal");
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(poll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == NULL)
                obey();
            else if (events[i].data.ptr == &listener)
                greet();
            else
                serve(events[i].data.ptr);
        }
    }
}
