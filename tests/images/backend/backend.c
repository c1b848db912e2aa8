/*
 * The web server behind the proxy in tests and in the demo: one static binary, alone in its image, a thread for each connection
 * at a time.
 *
 *   backend [--port 80]... [--name backend] [--boot-delay 300ms] [--on-term exit|drain:2s|ignore] [--idle 75s]
 *           [--answer-for 198.18.0.0/15@DEVICE]     at every address of a prefix, too: see anyip.h
 *   backend --healthcheck /health [--port 80]        asks a running one on 127.0.0.1; exit status 0 or 1
 *
 *   /                      NAME; so does every path that is not below
 *   /headers               the request line and the headers as they arrived
 *   /status/503            that status
 *   /slow?ms=3000          answers after ms
 *   /bytes?n=1000000       a body of n bytes
 *   /stream?ms=100&n=50    n server-sent events, one each ms, chunked
 *   /echo                  the request's body
 *   /ws                    a websocket that echoes
 *   /health                200, or what was set last
 *   /set?health=503        sets it: a status, or `hang`: never answers
 *   /redirect              302 to /
 *   /accel                 asks nginx to serve /internal instead, which nginx must not do
 *   /exit                  the process ends at once, with status 1
 *
 * Every answer names its backend (X-Backend), the port it came in on (X-Backend-Port) and the target that was asked for
 * (X-Backend-Target).
 */
#define _GNU_SOURCE
#include "anyip.h"
#include "websocket.h"
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 64 << 10, BODY_MAX = 64 << 20, PORTS_MAX = 8, STACK = 128 << 10, HANG = -1, IGNORE = -1 };

static struct {
    const char *name;
    int ports[PORTS_MAX], port_count;
    long boot_delay, on_term, idle; /* milliseconds; on_term: how long to go on, or IGNORE */
} options = {.name = "backend", .idle = 75000};

static atomic_int health = 200; /* a status, or HANG */

struct connection {
    FILE *in, *out;
    int port, minor; /* of HTTP/1.x */
    bool close;      /* after this answer */
    char head[HEAD_MAX], method[16], target[8 << 10];
    char *body;
    size_t body_length;
};

static void nap(long milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

/* --- the request ------------------------------------------------------------------------------------------------- */

/* A header's value, which ends where its line ends; NULL when it was not sent. */
static const char *header(const struct connection *c, const char *name)
{
    size_t length = strlen(name);
    for (const char *end = strchr(c->head, '\n'); end && end[1]; end = strchr(end + 1, '\n'))
        if (!strncasecmp(end + 1, name, length) && end[1 + length] == ':')
            return end + 2 + length + strspn(end + 2 + length, " \t");
    return NULL;
}

static bool header_says(const struct connection *c, const char *name, const char *word)
{
    const char *value = header(c, name);
    for (; value && *value && *value != '\r' && *value != '\n'; value++)
        if (!strncasecmp(value, word, strlen(word)))
            return true;
    return false;
}

/* What follows `name=` in the target's query, NULL when it is not there. */
static const char *query(const struct connection *c, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = strchr(c->target, '?'); at; at = strchr(at + 1, '&'))
        if (!strncmp(at + 1, name, length) && at[1 + length] == '=')
            return at + 2 + length;
    return NULL;
}

static long query_number(const struct connection *c, const char *name, long fallback)
{
    const char *value = query(c, name);
    return value ? strtol(value, NULL, 10) : fallback;
}

/* A connection's bytes. A receive with a timeout ends with EINTR when the process has been frozen (signal(7)). */
static ssize_t receive(void *cookie, char *into, size_t room)
{
    ssize_t got;
    do
        got = recv((int)(intptr_t)cookie, into, room, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

static int end_connection(void *cookie)
{
    return close((int)(intptr_t)cookie);
}

static bool read_head(struct connection *c)
{
    for (size_t used = 0; used + 1 < HEAD_MAX;) {
        char *line = c->head + used;
        if (!fgets(line, HEAD_MAX - used, c->in))
            return false;
        used += strlen(line);
        if (line != c->head && (*line == '\r' || *line == '\n')) {
            *line = '\0';
            if (sscanf(c->head, "%15s %8191s HTTP/1.%d", c->method, c->target, &c->minor) != 3)
                return false;
            c->close = c->minor == 0 ? !header_says(c, "Connection", "keep-alive") : header_says(c, "Connection", "close");
            return true;
        }
    }
    return false;
}

static bool append_body(struct connection *c, size_t length)
{
    if (length > BODY_MAX - c->body_length)
        return false;
    char *body = realloc(c->body, c->body_length + length + 1);
    if (!body)
        return false;
    c->body = body;
    bool whole = fread(body + c->body_length, 1, length, c->in) == length;
    c->body_length += length;
    return whole;
}

static bool read_body(struct connection *c)
{
    const char *length = header(c, "Content-Length");
    bool chunked = header_says(c, "Transfer-Encoding", "chunked");
    c->body_length = 0;
    if ((length || chunked) && header_says(c, "Expect", "100-continue")) {
        fputs("HTTP/1.1 100 Continue\r\n\r\n", c->out);
        fflush(c->out);
    }
    if (!chunked)
        return !length || append_body(c, strtoul(length, NULL, 10));
    for (char line[256]; fgets(line, sizeof line, c->in);) {
        size_t size = strtoul(line, NULL, 16);
        if (size == 0) { /* the trailer ends with an empty line */
            while (fgets(line, sizeof line, c->in))
                if (*line == '\r' || *line == '\n')
                    return true;
            return false;
        }
        if (!append_body(c, size) || !fgets(line, sizeof line, c->in))
            return false;
    }
    return false;
}

/* --- the answer -------------------------------------------------------------------------------------------------- */

static void answer_head(struct connection *c, int status, const char *headers)
{
    fprintf(c->out, "HTTP/1.1 %d %s\r\nX-Backend: %s\r\nX-Backend-Port: %d\r\nX-Backend-Target: %s\r\n%s%s", status,
            status < 400 ? "OK" : "Error", options.name, c->port, c->target, c->close ? "Connection: close\r\n" : "", headers);
}

static void answer(struct connection *c, int status, const char *headers, const char *body, size_t length)
{
    bool bodiless = status == 204 || status == 304;
    answer_head(c, status, headers);
    if (!bodiless)
        fprintf(c->out, "Content-Type: text/plain\r\nContent-Length: %zu\r\n", length);
    fputs("\r\n", c->out);
    if (!bodiless && strcmp(c->method, "HEAD") != 0)
        fwrite(body, 1, length, c->out);
    fflush(c->out);
}

static void answer_status(struct connection *c, int status)
{
    char body[16];
    answer(c, status, "", body, snprintf(body, sizeof body, "%d\n", status));
}

static void answer_name(struct connection *c)
{
    char body[256];
    answer(c, 200, "", body, snprintf(body, sizeof body, "%.250s\n", options.name));
}

static void answer_headers(struct connection *c)
{
    answer(c, 200, "", c->head, strlen(c->head));
}

static void answer_slowly(struct connection *c)
{
    nap(query_number(c, "ms", 1000));
    answer_name(c);
}

static void answer_bytes(struct connection *c)
{
    static char block[16 << 10];
    unsigned long left = query_number(c, "n", 1000);
    answer_head(c, 200, "Content-Type: application/octet-stream\r\n");
    fprintf(c->out, "Content-Length: %lu\r\n\r\n", left);
    while (left && strcmp(c->method, "HEAD") != 0) {
        size_t size = left < sizeof block ? left : sizeof block;
        if (fwrite(block, 1, size, c->out) != size)
            return;
        left -= size;
    }
    fflush(c->out);
}

static void answer_stream(struct connection *c)
{
    long pause = query_number(c, "ms", 100), count = query_number(c, "n", 10);
    bool chunked = c->minor > 0;
    c->close |= !chunked;
    answer_head(c, 200, "Content-Type: text/event-stream\r\n");
    fputs(chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n", c->out);
    for (long i = 1; i <= count; i++) {
        char event[64];
        int length = snprintf(event, sizeof event, "data: %ld\n\n", i);
        if (chunked)
            fprintf(c->out, "%x\r\n%s\r\n", length, event);
        else
            fputs(event, c->out);
        if (fflush(c->out))
            return;
        if (i < count)
            nap(pause);
    }
    if (chunked)
        fputs("0\r\n\r\n", c->out);
    fflush(c->out);
}

static void answer_echo(struct connection *c)
{
    answer(c, 200, "", c->body_length ? c->body : "", c->body_length);
}

static void answer_health(struct connection *c)
{
    int status = health;
    if (status != HANG) {
        answer_status(c, status);
        return;
    }
    while (fgetc(c->in) != EOF) /* until the client gives up */
        ;
}

static void answer_set(struct connection *c)
{
    const char *value = query(c, "health");
    int status = !value ? 0 : !strcmp(value, "hang") ? HANG : atoi(value);
    if (status != HANG && (status < 200 || status > 599)) {
        answer_status(c, 400);
        return;
    }
    health = status;
    answer_status(c, 200);
}

static void answer_redirect(struct connection *c)
{
    answer(c, 302, "Location: /\r\n", "", 0);
}

static void answer_accel(struct connection *c)
{
    answer(c, 200, "X-Accel-Redirect: /internal\r\nX-Accel-Buffering: no\r\n", "not redirected\n", 15);
}

static void answer_exit(struct connection *c)
{
    (void)c;
    _exit(1);
}

static void answer_websocket(struct connection *c)
{
    const char *key = header(c, "Sec-WebSocket-Key");
    if (!key) {
        answer_status(c, 426);
        return;
    }
    char accept[29];
    websocket_accept(key, accept);
    fprintf(c->out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "X-Backend: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n", options.name, accept);
    fflush(c->out);
    websocket_echo(c->in, c->out);
    c->close = true;
}

/* --- serving ----------------------------------------------------------------------------------------------------- */

static const struct {
    const char *path;
    void (*answer)(struct connection *);
} routes[] = {
    {"/headers", answer_headers}, {"/slow", answer_slowly}, {"/bytes", answer_bytes},       {"/stream", answer_stream},
    {"/echo", answer_echo},       {"/ws", answer_websocket}, {"/health", answer_health},    {"/set", answer_set},
    {"/accel", answer_accel},     {"/exit", answer_exit},   {"/redirect", answer_redirect},
};

static void dispatch(struct connection *c)
{
    int status;
    if (sscanf(c->target, "/status/%3d", &status) == 1 && status >= 200) {
        answer_status(c, status);
        return;
    }
    size_t length = strcspn(c->target, "?");
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (length == strlen(routes[i].path) && !strncmp(c->target, routes[i].path, length)) {
            routes[i].answer(c);
            return;
        }
    answer_name(c);
}

struct listener {
    int fd, port;
    atomic_int idle; /* threads that wait for a connection */
};

static void serve_connection(struct connection *c, int fd)
{
    static const int on = 1;
    struct timeval idle = {options.idle / 1000, options.idle % 1000 * 1000};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof idle);
    c->in = fopencookie((void *)(intptr_t)fd, "r", (cookie_io_functions_t){.read = receive, .close = end_connection});
    c->out = fdopen(dup(fd), "w");
    if (!c->in || !c->out) {
        perror("cannot serve a connection");
        _exit(1);
    }
    while (read_head(c) && read_body(c)) {
        dispatch(c);
        if (c->close || ferror(c->out))
            break;
    }
    fclose(c->in);
    fclose(c->out);
    free(c->body);
    c->body = NULL;
}

static void start_thread(struct listener *listener);

/* Takes one connection after another; who takes one when nobody else waits starts another thread that does. */
static void *serve_connections(void *argument)
{
    struct listener *listener = argument;
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        _exit(1);
    c->port = listener->port;
    for (;;) {
        int fd = accept(listener->fd, NULL, NULL);
        if (fd < 0)
            continue;
        if (atomic_fetch_sub(&listener->idle, 1) == 1)
            start_thread(listener);
        serve_connection(c, fd);
        atomic_fetch_add(&listener->idle, 1);
    }
}

static void start_thread(struct listener *listener)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    atomic_fetch_add(&listener->idle, 1);
    if (pthread_create(&thread, &attributes, serve_connections, listener)) {
        perror("cannot start a thread");
        _exit(1);
    }
}

static void *serve_port(void *argument)
{
    static const int on = 1, off = 0;
    struct listener *listener = argument;
    nap(options.boot_delay);
    struct sockaddr_in6 address = {
        .sin6_family = AF_INET6, .sin6_addr = in6addr_any, .sin6_port = htons(listener->port)};
    listener->fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(listener->fd, (struct sockaddr *)&address, sizeof address) || listen(listener->fd, 4096)) {
        perror("cannot listen");
        _exit(1);
    }
    fprintf(stderr, "%s listens on port %d\n", options.name, listener->port);
    start_thread(listener);
    return NULL;
}

/* --- the command ------------------------------------------------------------------------------------------------- */

static int healthcheck(const char *path, int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), status = 0;
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        return 1;
    dprintf(fd, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", path);
    FILE *answer = fdopen(fd, "r");
    return fscanf(answer, "HTTP/1.1 %d", &status) == 1 && status < 400 ? 0 : 1;
}

static void usage(const char *what)
{
    fprintf(stderr, "backend: %s\nusage: backend [--port N]... [--name NAME] [--boot-delay 300ms] [--idle 75s]\n"
                    "               [--on-term exit|drain:2s|ignore] [--answer-for PREFIX/LENGTH@DEVICE]\n"
                    "               | --healthcheck PATH [--port N]\n", what);
    exit(2);
}

static long duration(const char *text)
{
    char *unit;
    long number = strtol(text, &unit, 10);
    if (number >= 0 && !strcmp(unit, "ms"))
        return number;
    if (number >= 0 && !strcmp(unit, "s"))
        return number * 1000;
    usage("a duration is a number and ms or s");
    return 0;
}

static long on_term(const char *text)
{
    if (!strcmp(text, "exit"))
        return 0;
    if (!strcmp(text, "ignore"))
        return IGNORE;
    if (!strncmp(text, "drain:", 6))
        return duration(text + 6);
    usage("--on-term takes exit, drain:2s or ignore");
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, NULL, 'p'}, {"name", 1, NULL, 'n'}, {"boot-delay", 1, NULL, 'b'},  {"on-term", 1, NULL, 't'},
        {"idle", 1, NULL, 'i'}, {"healthcheck", 1, NULL, 'h'}, {"answer-for", 1, NULL, 'a'}, {0},
    };
    const char *check = NULL;
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (option) {
        case 'p':
            if (options.port_count == PORTS_MAX || atoi(optarg) < 1 || atoi(optarg) > 65535)
                usage("--port takes a number, at most 8 times");
            options.ports[options.port_count++] = atoi(optarg);
            break;
        case 'n': options.name = optarg; break;
        case 'b': options.boot_delay = duration(optarg); break;
        case 't': options.on_term = on_term(optarg); break;
        case 'i': options.idle = duration(optarg); break;
        case 'h': check = optarg; break;
        case 'a':
            if (!answer_for(optarg)) {
                perror("cannot answer for a prefix");
                return 1;
            }
            break;
        default: usage("unknown option");
        }
    if (optind < argc)
        usage("there are options only");
    if (options.port_count == 0)
        options.ports[options.port_count++] = 80;
    if (check)
        return healthcheck(check, options.ports[0]);

    /* pid 1 has no default action for signals: take them here, in no other thread */
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    signal(SIGPIPE, SIG_IGN);
    static struct listener listeners[PORTS_MAX];
    for (int i = 0; i < options.port_count; i++) {
        pthread_t thread;
        listeners[i].port = options.ports[i];
        if (pthread_create(&thread, NULL, serve_port, &listeners[i]))
            return 1;
    }
    int received;
    do
        sigwait(&ends, &received);
    while (options.on_term == IGNORE);
    nap(options.on_term);
    _exit(0);
}
