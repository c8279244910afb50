/* load: many SMTP submission clients in one process, as cheap as they can be.
 *
 *   load --port N [--host ADDRESS] [--sessions N] [--messages N] [--per-connection N] [--size BYTES]
 *        [--tls none|starttls|wrapper] [--user NAME --password WORD] [--from ADDRESS] [--to ADDRESS]
 *        [--pipelining] [--resume] [--timeout SECONDS] [--idle N]
 *
 * Sends --messages messages, --per-connection of them on each connection, over --sessions connections at a
 * time. A client waits for each reply before it goes on, as most do; with --pipelining MAIL, RCPT and DATA go
 * out together. Each TLS connection makes a full handshake; with --resume it offers the last session. What
 * the server presents is not verified against anything, but the handshake's signature is.
 *
 * A reply that was not expected ends the connection: the message it belonged to counts as an error and is not
 * tried again, the rest goes over other connections. The outcome is one line of JSON; "start" and "end" are
 * CLOCK_MONOTONIC. Exit status 1: the time was up.
 *
 * --idle N opens N connections (--sessions of them at a time), goes as far as the login, prints "ready N" and
 * keeps them open until a line comes on standard input; the outcome then says how many had been lost.
 *
 * Sockets are edge-triggered: one epoll_ctl a connection, and a read that does not fill the buffer has
 * emptied the socket.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <openssl/evp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS = 64 };

struct options option = {
    .sessions = 20, .messages = 1000, .per_connection = 1, .size = 2048, .timeout = 300,
    .sender = "alice@example.com", .recipient = "bob@example.net",
};
struct script script;
struct tally tally;
int poll_fd;
SSL_CTX *context;
SSL_SESSION *last_session;

static int remember_session(SSL *ssl, SSL_SESSION *session)
{
    (void) ssl;
    SSL_SESSION_free(last_session);
    last_session = session;
    return 1;
}

static void prepare_tls(void)
{
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL)
        die("SSL_CTX_new");
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (option.resume) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, remember_session);
    }
}

static void prepare_login(void)
{
    unsigned char plain[256];
    int n = snprintf((char *) plain, sizeof plain, "%c%s%c%s", 0, option.user, 0, option.password);

    if (n >= (int) sizeof plain)
        die("user or password too long");
    strcpy(script.login, "AUTH PLAIN ");
    EVP_EncodeBlock((unsigned char *) script.login + strlen(script.login), plain, n);
    strcat(script.login, "\r\n");
}

/* Lines of text up to the size that was asked for, and the dot. */
static void prepare_content(void)
{
    static const char line[] = "The quick brown fox jumps over the lazy dog, and so on, to the end of it.\r\n";
    size_t size = (size_t) option.size, full = sizeof line - 1, header = write_header(NULL, 0, 0);

    snprintf(script.greeting, sizeof script.greeting, "EHLO client.example.com\r\n");
    snprintf(script.envelope[0], sizeof script.envelope[0], "MAIL FROM:<%s>\r\n", option.sender);
    snprintf(script.envelope[1], sizeof script.envelope[1], "RCPT TO:<%s>\r\n", option.recipient);
    strcpy(script.envelope[2], "DATA\r\n");
    script.body = malloc(size + full + 16);
    if (script.body == NULL)
        die("malloc");
    size_t length = (size_t) sprintf(script.body, "\r\n"), wanted = size > header ? size - header : 0;
    while (length + full <= wanted) {
        memcpy(script.body + length, line, full);
        length += full;
    }
    if (length + 2 < wanted) { /* the end of a line fills what is left */
        memcpy(script.body + length, line + full - (wanted - length), wanted - length);
        length = wanted;
    }
    script.body_length = length + (size_t) sprintf(script.body + length, ".\r\n");
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *) a, y = *(const float *) b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, float *times, long count)
{
    qsort(times, (size_t) count, sizeof *times, by_size);
    double p50 = count ? (double) times[(count - 1) / 2] : 0, p99 = count ? (double) times[(count - 1) * 99 / 100] : 0;
    printf(", \"%s\": {\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name, p50 * 1e3, p99 * 1e3,
           count ? (double) times[count - 1] * 1e3 : 0);
}

static void print_outcome(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;

    printf("{\"messages\": %ld, \"errors\": %ld, \"connections\": %ld, \"idle\": %ld, \"lost\": %ld", tally.sent, tally.errors,
           tally.connections, tally.held, tally.lost);
    printf(", \"start\": %.6f, \"end\": %.6f, \"elapsed\": %.6f", tally.start, tally.end, tally.end - tally.start);
    print_times("message_ms", tally.message_times, tally.sent);
    print_times("connection_ms", tally.connection_times, tally.connections);
    printf(", \"cpu_s\": %.4f, \"tls\": \"%s\", \"resumed\": %ld, \"unexpected\": [", cpu, tally.tls_used, tally.resumed);
    for (int i = 0; i < SURPRISES && tally.surprises[i].count; i++)
        printf("%s{\"count\": %ld, \"reply\": \"%s\"}", i ? ", " : "", tally.surprises[i].count, tally.surprises[i].text);
    printf("]}\n");
}

/* Serve what is ready. False when a line came on standard input or the time is up. */
static bool turn(double deadline)
{
    struct epoll_event events[EVENTS];
    double left = deadline - now();
    bool go = left > 0;

    int n = epoll_wait(poll_fd, events, EVENTS, go ? (int) (left * 1e3) + 1 : 0);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == NULL)
            go = false;
        else
            handle(events[i].data.ptr, events[i].events);
    }
    return go;
}

static bool send_all(struct session *all)
{
    double deadline = tally.start + option.timeout;
    tally.unclaimed = option.messages;
    for (long i = 0; i < option.sessions && tally.unclaimed > 0; i++) {
        tally.active++;
        open_session(&all[i]);
    }
    while (tally.active > 0)
        if (!turn(deadline))
            return false;
    return true;
}

static bool hold(struct session *all)
{
    double deadline = tally.start + option.timeout;
    for (long opened = 0; tally.held + tally.errors < option.idle;) {
        while (opened < option.idle && opened - tally.held - tally.errors < option.sessions) {
            tally.active++;
            open_session(&all[opened++]);
        }
        if (!turn(deadline))
            return false;
    }
    tally.end = now();
    printf("ready %ld\n", tally.held);
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        die("standard input must be a pipe or a terminal");
    while (turn(now() + 3600))
        ;
    return true;
}

static void bad_usage(void)
{
    errno = 0;
    die("usage: load --port N [options]; the beginning of load.c lists them");
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"sessions", 1, 0, 's'}, {"messages", 1, 0, 'm'},
        {"per-connection", 1, 0, 'k'}, {"size", 1, 0, 'z'}, {"tls", 1, 0, 't'}, {"user", 1, 0, 'u'},
        {"password", 1, 0, 'w'}, {"from", 1, 0, 'f'}, {"to", 1, 0, 'r'}, {"pipelining", 0, 0, 'P'},
        {"resume", 0, 0, 'R'}, {"timeout", 1, 0, 'T'}, {"idle", 1, 0, 'i'}, {0, 0, 0, 0},
    };
    const char *host = "127.0.0.1", *tls = "none";
    int letter;

    while ((letter = getopt_long(argc, argv, "", names, NULL)) != -1)
        switch (letter) {
        case 'h': host = optarg; break;
        case 'p': option.to.sin_port = htons((uint16_t) atoi(optarg)); break;
        case 's': option.sessions = atol(optarg); break;
        case 'm': option.messages = atol(optarg); break;
        case 'k': option.per_connection = atol(optarg); break;
        case 'z': option.size = atol(optarg); break;
        case 't': tls = optarg; break;
        case 'u': option.user = optarg; break;
        case 'w': option.password = optarg; break;
        case 'f': option.sender = optarg; break;
        case 'r': option.recipient = optarg; break;
        case 'P': option.pipelining = true; break;
        case 'R': option.resume = true; break;
        case 'T': option.timeout = atof(optarg); break;
        case 'i': option.idle = atol(optarg); break;
        default: bad_usage();
        }
    option.to.sin_family = AF_INET;
    option.tls = strcmp(tls, "starttls") == 0 ? STARTTLS : strcmp(tls, "wrapper") == 0 ? WRAPPER : NONE;
    if (inet_pton(AF_INET, host, &option.to.sin_addr) != 1 || option.to.sin_port == 0 || optind < argc ||
        option.sessions < 1 || option.messages < 1 || option.per_connection < 1 || option.size < 0 ||
        option.idle < 0 || (option.tls == NONE && strcmp(tls, "none") != 0) || !option.user != !option.password ||
        strlen(option.sender) > 400 || strlen(option.recipient) > 400)
        bad_usage();
}

int main(int argc, char **argv)
{
    struct rlimit files;

    read_options(argc, argv);
    prepare_content();
    if (option.user)
        prepare_login();
    if (option.tls != NONE)
        prepare_tls();
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    long count = option.idle > option.sessions ? option.idle : option.sessions;
    struct session *all = calloc((size_t) count, sizeof *all);
    tally.message_times = calloc((size_t) option.messages, sizeof *tally.message_times);
    tally.connection_times = calloc((size_t) option.messages, sizeof *tally.connection_times);
    if (all == NULL || tally.message_times == NULL || tally.connection_times == NULL)
        die("calloc");
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    tally.start = now();
    bool in_time = option.idle ? hold(all) : send_all(all);
    print_outcome();
    return in_time ? 0 : 1;
}
