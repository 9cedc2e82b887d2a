/* wsload: many pages in one process, to load a keepalive server over the loopback interface.
 *
 *   wsload hold|ping PORT PATH PAGES SECONDS COOKIES
 *
 * Each page opens a WebSocket as a browser does, with its own line of the file COOKIES as its
 * cookie, and waits for the hello. Then
 *
 *   hold   every page pings once, and all stay connected for SECONDS;
 *   ping   every page pings, waits for its beat, and pings again (a closed loop): half a second
 *          to warm up, then SECONDS that count.
 *
 * Each step prints a line: `opened PAGES SECONDS`, then `pinged`, or `measuring` and
 * `beats COUNT SECONDS`. Anything but the expected answer ends the run with exit code 1: figures
 * with errors in them are none. It speaks to 127.0.0.1 alone and never runs for longer than SECONDS
 * and two minutes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

enum { MOST_PAGES = 60000, AT_ONCE = 64, PATIENCE = 120, EVENTS = 512 };
enum state { UPGRADING, GREETING, IDLE, WAITING };

struct page {
  int fd;
  enum state state;
  long n;            /* the number of its newest ping */
  int have;          /* bytes in `buffer` */
  char buffer[2048]; /* a response head or a few frames; terminated, so that strstr may look */
};

static const double WARM_UP = 0.5;
static int epoll, port, greeted, looping;
static const char *path;
static long beats;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("wsload: ", stderr);
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
}

static void open_page(struct page *page, const char *cookie) {
  static uint32_t opened = 0;
  int one = 1;
  page->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (page->fd < 0) fail("socket: %s", strerror(errno));
  setsockopt(page->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  /* From 64 addresses, for one has no more than some 28,000 ports. */
  setsockopt(page->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in from = {.sin_family = AF_INET};
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + opened++ % 64);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(page->fd, (struct sockaddr *)&from, sizeof from) < 0) fail("bind: %s", strerror(errno));
  if (connect(page->fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect: %s", strerror(errno));
  fcntl(page->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = page};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, page->fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));

  char request[4096]; /* the headers that Chromium sends */
  int length = snprintf(request, sizeof request,
      "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
      "Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
      "(KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\n"
      "Origin: http://127.0.0.1:%d\r\nSec-WebSocket-Version: 13\r\n"
      "Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: %s\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
      "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
      "Sec-WebSocket-Protocol: keepalive.v1\r\n\r\n",
      path, port, port, cookie);
  if (length >= (int)sizeof request) fail("a cookie is too long");
  send_all(page, request, length);
}

static void ping(struct page *page) {
  static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
  unsigned char frame[128] = {0x81}, *text = frame + 6;
  int length = sprintf((char *)text, "{\"type\":\"ping\",\"n\":%ld,\"idle\":0}", ++page->n);
  frame[1] = 0x80 | length;
  memcpy(frame + 2, mask, 4);
  for (int i = 0; i < length; i++) text[i] ^= mask[i & 3];
  page->state = WAITING;
  send_all(page, frame, 6 + length);
}

/* One text message from the server. */
static void heard(struct page *page, const char *text) {
  if (page->state == GREETING) {
    if (!strstr(text, "\"type\":\"hello\"")) fail("expected a hello, got %s", text);
    page->state = IDLE;
    greeted++;
  } else if (page->state == WAITING) {
    char number[32];
    int length = sprintf(number, "\"n\":%ld", page->n);
    const char *at = strstr(text, number);
    if (!strstr(text, "\"type\":\"beat\"") || !at || (at[length] != ',' && at[length] != '}'))
      fail("expected the beat %ld, got %s", page->n, text);
    page->state = IDLE;
    beats++;
    if (looping) ping(page);
  } else {
    fail("expected nothing, got %s", text);
  }
}

/* Take one whole thing off the front of the buffer; 0 when there is none yet. */
static int take(struct page *page) {
  int used;
  char text[sizeof page->buffer];
  *text = 0;
  if (page->state == UPGRADING) {
    char *end = strstr(page->buffer, "\r\n\r\n");
    if (!end) return 0;
    if (strncmp(page->buffer, "HTTP/1.1 101 ", 13)) fail("refused: %s", page->buffer);
    used = end + 4 - page->buffer;
    page->state = GREETING;
  } else {
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
    used = head + length;
    if (used >= (int)sizeof page->buffer) fail("a frame is too long");
    if (page->have < used) return 0;
    memcpy(text, frame + head, length);
    text[length] = 0;
  }
  page->have -= used;
  memmove(page->buffer, page->buffer + used, page->have + 1);
  if (*text) heard(page, text);
  return 1;
}

static void turn(void) {
  struct epoll_event events[EVENTS];
  int count = epoll_wait(epoll, events, EVENTS, 20);
  for (int i = 0; i < count; i++) {
    struct page *page = events[i].data.ptr;
    int got = read(page->fd, page->buffer + page->have, sizeof page->buffer - 1 - page->have);
    if (got < 0 && errno == EAGAIN) continue;
    if (got <= 0) fail("a page was cut off: %s", got ? strerror(errno) : "closed");
    page->have += got;
    page->buffer[page->have] = 0;
    while (page->have && take(page)) {
    }
  }
}

static void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc != 7 || (strcmp(argv[1], "hold") && strcmp(argv[1], "ping"))) {
    fputs("usage: wsload hold|ping PORT PATH PAGES SECONDS COOKIES\n", stderr);
    return 2;
  }
  looping = !strcmp(argv[1], "ping");
  port = atoi(argv[2]);
  path = argv[3];
  int count = atoi(argv[4]), opened = 0;
  double seconds = atof(argv[5]);
  if (count < 1 || count > MOST_PAGES || seconds < 0 || seconds > 600) fail("at most %d pages and 600 s", MOST_PAGES);
  alarm(PATIENCE + (unsigned)seconds);

  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  FILE *cookies = fopen(argv[6], "r");
  if (!cookies) fail("%s: %s", argv[6], strerror(errno));
  struct page *pages = calloc(count, sizeof *pages);
  epoll = epoll_create1(0);
  if (!pages || epoll < 0) fail("out of memory or files");

  double began = now();
  while (greeted < count) {
    while (opened < count && opened - greeted < AT_ONCE) {
      char cookie[2048];
      if (!fgets(cookie, sizeof cookie, cookies)) fail("%s has fewer than %d lines", argv[6], count);
      cookie[strcspn(cookie, "\n")] = 0;
      open_page(&pages[opened++], cookie);
    }
    turn();
  }
  say("opened %d %.3f\n", count, now() - began);

  for (int i = 0; i < count; i++) ping(&pages[i]);
  if (looping) {
    began = now();
    while (now() < began + WARM_UP) turn();
    say("measuring\n");
    beats = 0;
    began = now();
    while (now() < began + seconds) turn();
    say("beats %ld %.3f\n", beats, now() - began);
  } else {
    while (beats < count) turn();
    say("pinged\n");
    began = now();
    while (now() < began + seconds) turn();
  }
  return 0;
}
