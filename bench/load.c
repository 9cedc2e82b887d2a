/* load: many pages in one process, to load a server over the loopback interface.
 *
 *   load PORT PATH SPEECH COOKIES
 *
 * Each page has its own line of the file COOKIES as its cookie. SPEECH is what pages speak:
 *
 *   page        the page protocol over a WebSocket: a hello, then pings and beats;
 *   socket.io   the same messages as events of Socket.IO 5 over Engine.IO 4, over a WebSocket;
 *   http        each ping is the body of a POST over the page's own connection, and each beat
 *               that of the response.
 *
 * It does what it is told on its standard input, a line each, until that ends:
 *
 *   open COUNT AT_ONCE         open further pages, at most AT_ONCE of them in their handshake;
 *   burst                      every page pings once;
 *   loop SECONDS               every page pings, waits for its beat, and pings again;
 *   pace RATE SECONDS          RATE pings a second in all, the pages in turn, whether or not the
 *                              server keeps up;
 *   storm KEPT RATE AT_ONCE    all pages but KEPT drop their connections, come back, and ping at
 *                              once; those kept ping at RATE meanwhile, and a second longer. A
 *                              page that is refused with 503 comes back at once.
 *
 * Each is answered, once every ping has its beat, by a line of JSON: the seconds it took (of a
 * storm: until all are back), the beats, the refusals, the bytes of the TCP streams both ways, and percentiles of
 * the milliseconds from when a ping was due, which under `pace` may be long before it could be
 * sent, to its beat. Under `storm` these are of the kept pages alone.
 *
 * Anything but the expected answer ends the run with exit code 1: figures with errors in them are
 * none. It speaks to 127.0.0.1 alone and never waits for anything longer than two minutes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PAGES = 60000, MOST_SAMPLES = 1 << 22, PATIENCE = 120, EVENTS = 512 };
enum speech { PAGE, SOCKET_IO, HTTP };
enum state { CLOSED, CONNECTING, UPGRADING, GREETING, IDLE, WAITING };

struct page {
  int fd;
  enum state state;
  char *cookie;
  struct page *next; /* in the list of those that were refused */
  long n;            /* the number of its newest ping */
  double due;        /* when that was to be sent */
  int owed;          /* pings that were due while it waited for a beat; the first of them … */
  double owed_since; /* … at this time */
  int have;          /* bytes in `buffer` */
  char buffer[2048]; /* a response or a few frames; terminated, so that strstr may look */
};

static const char *path;
static enum speech speech;
static int epoll, port;
static FILE *cookies;
static struct page *pages;
static int opened, greeting, waiting; /* pages: all, those in their handshake, those without their beat */

/* What the present command does and counts. */
static int looping, returning, refusals;
static struct page *refused;
static double interval; /* between the pings of one page, when they are paced */
static long beats, sent, received;
static uint32_t *samples; /* microseconds */
static int sampled, sampled_pages;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void send_all(struct page *page, const void *bytes, int length) {
  if (write(page->fd, bytes, length) != length) fail("a page could not send: %s", strerror(errno));
  sent += length;
}

/* One masked frame; control frames and texts here are short. */
static void send_text(struct page *page, const char *text) {
  static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
  unsigned char frame[132] = {0x81};
  int length = strlen(text);
  if (length > 125) fail("a message is too long: %s", text);
  frame[1] = 0x80 | length;
  memcpy(frame + 2, mask, 4);
  for (int i = 0; i < length; i++) frame[6 + i] = text[i] ^ mask[i & 3];
  send_all(page, frame, 6 + length);
}

/* The headers that Chromium sends with a request of a script or of a WebSocket. */
#define AGENT \
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) " \
  "Chrome/156.0.0.0 Safari/537.36\r\n"
#define ACCEPT "Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n"

/* To Socket.IO no compression is offered: python-socketio cannot be told to refuse it. */
#define OFFERS \
  "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" \
  "Sec-WebSocket-Protocol: keepalive.v1\r\n"

static void send_handshake(struct page *page) {
  char request[4096];
  int length = snprintf(request, sizeof request,
      "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
      "Cache-Control: no-cache\r\n" AGENT "Upgrade: websocket\r\nOrigin: http://127.0.0.1:%d\r\n"
      "Sec-WebSocket-Version: 13\r\n" ACCEPT "Cookie: %s\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
      "%s\r\n",
      path, port, port, page->cookie, speech == PAGE ? OFFERS : "");
  if (length >= (int)sizeof request) fail("a cookie is too long");
  send_all(page, request, length);
}

static void send_post(struct page *page, const char *body) {
  char request[4096];
  int length = snprintf(request, sizeof request,
      "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: keep-alive\r\nContent-Length: %zu\r\n"
      "sec-ch-ua-platform: \"Linux\"\r\n" AGENT
      "sec-ch-ua: \"Not:A-Brand\";v=\"8\", \"Chromium\";v=\"156\"\r\nContent-Type: application/json\r\n"
      "sec-ch-ua-mobile: ?0\r\nAccept: */*\r\nOrigin: http://127.0.0.1:%d\r\n"
      "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
      "Referer: http://127.0.0.1:%d/\r\n" ACCEPT "Cookie: %s\r\n\r\n%s",
      path, port, strlen(body), port, port, page->cookie, body);
  if (length >= (int)sizeof request) fail("a cookie is too long");
  send_all(page, request, length);
}

static void ping(struct page *page, double due) {
  char text[128], *at = text;
  page->n++;
  page->due = due;
  page->state = WAITING;
  waiting++;
  if (speech == SOCKET_IO) at += sprintf(at, "42%ld[\"ping\",", page->n);
  at += sprintf(at, "{\"type\":\"ping\",\"n\":%ld,\"idle\":3,\"visible\":true}", page->n); /* as web/machine.js has it */
  if (speech == SOCKET_IO) strcpy(at, "]");
  (speech == HTTP ? send_post : send_text)(page, text);
}

static void connect_page(struct page *page) {
  static uint32_t connected = 0;
  int one = 1;
  page->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (page->fd < 0) fail("socket: %s", strerror(errno));
  setsockopt(page->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  /* From 64 addresses, for one has no more than some 28,000 ports. */
  setsockopt(page->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in from = {.sin_family = AF_INET};
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + connected++ % 64);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(page->fd, (struct sockaddr *)&from, sizeof from) < 0) fail("bind: %s", strerror(errno));
  if (connect(page->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
    fail("connect: %s", strerror(errno));
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = page};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, page->fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
  page->state = CONNECTING;
  page->n = page->have = page->owed = 0;
  greeting++;
}

static void greeted(struct page *page) {
  page->state = IDLE;
  greeting--;
  if (returning) ping(page, now()); /* the first beat shows at once */
}

static void connected(struct page *page) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(page->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error) fail("connect: %s", strerror(error));
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = page};
  epoll_ctl(epoll, EPOLL_CTL_MOD, page->fd, &event);
  if (speech == HTTP) {
    greeted(page);
  } else {
    page->state = UPGRADING;
    send_handshake(page);
  }
}

static void answered(struct page *page) {
  double time = now();
  if (page->state != WAITING) fail("an answer that was not asked for");
  page->state = IDLE;
  waiting--;
  beats++;
  if (page - pages < sampled_pages && sampled < MOST_SAMPLES) samples[sampled++] = (time - page->due) * 1e6;
  if (page->owed) {
    page->owed--;
    ping(page, page->owed_since);
    page->owed_since += interval;
  } else if (looping) {
    ping(page, time);
  }
}

/* Whether a text is the beat that a page waits for. */
static int is_beat(struct page *page, const char *text) {
  char number[32];
  int length = sprintf(number, "\"n\":%ld", page->n);
  const char *at = strstr(text, number);
  return strstr(text, "\"type\":\"beat\"") && at && (at[length] == ',' || at[length] == '}');
}

static void heard_page(struct page *page, const char *text) {
  if (page->state == GREETING && strstr(text, "\"type\":\"hello\""))
    greeted(page);
  else if (page->state == WAITING && is_beat(page, text))
    answered(page);
  else if (page->state == IDLE && !strcmp(text, "{\"type\":\"ask\"}"))
    ping(page, now());
  else if (page->state != WAITING || strcmp(text, "{\"type\":\"ask\"}"))
    fail("expected the answer to ping %ld, got %s", page->n, text);
}

static void heard_socket_io(struct page *page, const char *text) {
  char ack[32];
  sprintf(ack, "43%ld[", page->n);
  if (page->state == GREETING && *text == '0') /* Engine.IO is open: connect to Socket.IO */
    send_text(page, "40");
  else if (!strcmp(text, "2")) /* Engine.IO's own heartbeat */
    send_text(page, "3");
  else if (page->state == GREETING && !strncmp(text, "42[\"hello\",", 11))
    greeted(page);
  else if (page->state == WAITING && !strncmp(text, ack, strlen(ack)) && is_beat(page, text))
    answered(page);
  else if (page->state != GREETING || strncmp(text, "40", 2))
    fail("expected the answer to ping %ld, got %s", page->n, text);
}

static void heard_http(struct page *page, const char *text) {
  if (!is_beat(page, text)) fail("expected the beat %ld, got %s", page->n, text);
  answered(page);
}

/* A whole response at the front of the buffer: returns its bytes, or 0 when it is not whole yet. */
static int whole_response(struct page *page, char *text) {
  char *body = strstr(page->buffer, "\r\n\r\n");
  if (!body) return 0;
  if (strncmp(page->buffer, "HTTP/1.1 200 ", 13)) fail("refused: %s", page->buffer);
  char *length = strcasestr(page->buffer, "\r\nContent-Length:");
  if (!length || length > body) fail("a response without a length: %s", page->buffer);
  int whole = body + 4 - page->buffer + atoi(length + 17);
  if (whole >= (int)sizeof page->buffer) fail("a response is too long");
  if (page->have < whole) return 0;
  sprintf(text, "%.*s", atoi(length + 17), body + 4);
  return whole;
}

/* The same for a whole frame. */
static int whole_frame(struct page *page, char *text) {
  const unsigned char *frame = (unsigned char *)page->buffer;
  int length, head = 2;
  if (page->have < 2) return 0;
  if (frame[0] != 0x81) fail("expected a text frame, got opcode %d", frame[0] & 15);
  length = frame[1];
  if (length > 126) fail("a frame is masked or far too long");
  if (length == 126) {
    if (page->have < 4) return 0;
    length = frame[2] << 8 | frame[3];
    head = 4;
  }
  if (head + length >= (int)sizeof page->buffer) fail("a frame is too long");
  if (page->have < head + length) return 0;
  memcpy(text, frame + head, length);
  text[length] = 0;
  return head + length;
}

/* The server is overloaded, and says so: the page shall come again. */
static int turned_away(struct page *page) {
  close(page->fd);
  page->state = CLOSED;
  page->have = 0;
  page->next = refused;
  refused = page;
  refusals++;
  greeting--;
  return 0;
}

/* Take one whole thing off the front of the buffer; 0 when there is none yet. */
static int take(struct page *page) {
  char text[sizeof page->buffer];
  int used = 0;
  if (page->state == UPGRADING) {
    char *end = strstr(page->buffer, "\r\n\r\n");
    if (!end) return 0;
    if (returning && !strncmp(page->buffer, "HTTP/1.1 503 ", 13)) return turned_away(page);
    if (strncmp(page->buffer, "HTTP/1.1 101 ", 13)) fail("refused: %s", page->buffer);
    page->state = GREETING;
    used = end + 4 - page->buffer;
    *text = 0;
  } else {
    used = (speech == HTTP ? whole_response : whole_frame)(page, text);
    if (!used) return 0;
  }
  page->have -= used;
  memmove(page->buffer, page->buffer + used, page->have + 1);
  if (*text) (speech == HTTP ? heard_http : speech == PAGE ? heard_page : heard_socket_io)(page, text);
  return 1;
}

static void readable(struct page *page) {
  int got = read(page->fd, page->buffer + page->have, sizeof page->buffer - 1 - page->have);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) fail("a page was cut off: %s", got ? strerror(errno) : "closed");
  received += got;
  page->have += got;
  page->buffer[page->have] = 0;
  while (page->have && take(page)) {
  }
}

/* Serve what has come in, waiting for it `patience` ms at most; returns 0 when a command has. */
static int turn(int patience) {
  struct epoll_event events[EVENTS];
  int quiet = 1, count = epoll_wait(epoll, events, EVENTS, patience);
  for (int i = 0; i < count; i++) {
    struct page *page = events[i].data.ptr;
    if (!page)
      quiet = 0;
    else if (page->state == CONNECTING)
      connected(page);
    else
      readable(page);
  }
  return quiet;
}

static void settle(void) {
  while (waiting) turn(20);
}

/* Send all pings that are due by now, of `count` pages in turn; returns how many ever were. */
static long send_due(long done, double began, double rate, int count) {
  for (double time = now(); began + done / rate <= time; done++) {
    struct page *page = &pages[done % count];
    double due = began + done / rate;
    if (page->state == IDLE)
      ping(page, due);
    else if (!page->owed++)
      page->owed_since = due;
  }
  return done;
}

static void open_pages(int count, int at_once) {
  if (opened + count > MOST_PAGES) fail("at most %d pages", MOST_PAGES);
  for (int last = opened + count; opened < last || greeting; turn(20))
    for (; opened < last && greeting < at_once; connect_page(&pages[opened++])) {
      char line[2048];
      if (!fgets(line, sizeof line, cookies)) fail("there are fewer than %d cookies", last);
      line[strcspn(line, "\n")] = 0;
      pages[opened].cookie = strdup(line);
    }
}

static void burst(void) {
  for (int i = 0; i < opened; i++) ping(&pages[i], now());
  settle();
}

static void loop(double seconds) {
  double until = now() + seconds;
  looping = 1;
  for (int i = 0; i < opened; i++) ping(&pages[i], now());
  while (now() < until) turn(20);
  looping = 0;
  settle();
}

static void pace(double rate, double seconds) {
  double began = now();
  long done = 0;
  interval = opened / rate;
  while (now() < began + seconds) {
    done = send_due(done, began, rate, opened);
    turn(0);
  }
  settle();
}

/* Returns how many seconds passed until all were back. */
static double storm(int kept, double rate, int at_once) {
  double began = now(), back = 0;
  long done = 0;
  int next = kept;
  interval = kept / rate;
  sampled_pages = kept;
  returning = 1;
  for (int i = kept; i < opened; i++) {
    close(pages[i].fd);
    pages[i].state = CLOSED;
  }
  while (!back || now() < back + 1) {
    for (; refused && greeting < at_once; refused = refused->next) connect_page(refused);
    while (next < opened && greeting < at_once) connect_page(&pages[next++]);
    done = send_due(done, began, rate, kept);
    turn(0);
    if (!back && next == opened && !greeting && !refused) {
      int missing = 0;
      for (int i = kept; i < opened; i++) missing += pages[i].state != IDLE;
      if (!missing) back = now();
    }
  }
  returning = 0;
  settle();
  return back - began;
}

static int ascending(const void *a, const void *b) {
  uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
  return (one > other) - (one < other);
}

static double percentile(double share) {
  return sampled ? samples[(int)(share * (sampled - 1) + 0.5)] / 1e3 : 0;
}

static void obey(const char *command) {
  int count, at_once;
  double rate, seconds, began = now(), took = 0;
  beats = sent = received = refusals = 0;
  sampled = 0;
  sampled_pages = opened;
  alarm(PATIENCE);
  if (sscanf(command, "open %d %d", &count, &at_once) == 2)
    open_pages(count, at_once);
  else if (!strcmp(command, "burst\n"))
    burst();
  else if (sscanf(command, "loop %lf", &seconds) == 1)
    loop(seconds);
  else if (sscanf(command, "pace %lf %lf", &rate, &seconds) == 2)
    pace(rate, seconds);
  else if (sscanf(command, "storm %d %lf %d", &count, &rate, &at_once) == 3)
    took = storm(count, rate, at_once);
  else
    fail("unknown command: %s", command);
  alarm(0);
  if (!took) took = now() - began;
  qsort(samples, sampled, sizeof *samples, ascending);
  printf("{\"seconds\":%.6f,\"beats\":%ld,\"refusals\":%d,\"sent\":%ld,\"received\":%ld,"
         "\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}\n",
         took, beats, refusals, sent, received, percentile(0.5), percentile(0.9), percentile(0.99), percentile(0.999),
         percentile(1));
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fputs("usage: load PORT PATH page|socket.io|http COOKIES\n", stderr);
    return 2;
  }
  port = atoi(argv[1]);
  path = argv[2];
  speech = !strcmp(argv[3], "http") ? HTTP : !strcmp(argv[3], "socket.io") ? SOCKET_IO : PAGE;
  cookies = fopen(argv[4], "r");
  if (!cookies) fail("%s: %s", argv[4], strerror(errno));

  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  pages = calloc(MOST_PAGES, sizeof *pages);
  samples = malloc(MOST_SAMPLES * sizeof *samples);
  epoll = epoll_create1(0);
  if (!pages || !samples || epoll < 0) fail("out of memory or files");
  setvbuf(stdin, NULL, _IONBF, 0); /* so that what epoll says of it is all there is to read */
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0) fail("epoll_ctl: %s", strerror(errno));

  char command[128];
  for (;;) {
    while (turn(1000)) { /* pages may be asked for a ping at any time */
    }
    if (!fgets(command, sizeof command, stdin)) return 0;
    settle();
    obey(command);
  }
}
