/* wsload: one process that opens N WebSocket subscribers to a server on loopback, optionally publishes
 * time-stamped messages through one more connection, and reports deliveries, latency and the
 * server's CPU time per delivery.  Build: cc -O2 -o wsload wsload.c (bench/wsload.py does it)
 *
 * A delivery = one occurrence of the marker (default `"t":`) in received bytes; the digits after it
 * are CLOCK_REALTIME nanoseconds of the publish, from which latency is taken.
 * -d SECONDS are measured after -w SECONDS of warm-up. With --drain SECONDS what was published until then is awaited,
 * which costs the figures nothing, and reported: how many messages each connection has of those that were published.
 *
 * --subs FILE: the first subscription of connection n is line n. --msgs FILE: message n is line n, over and over.
 * --counts reports per connection how many messages it has and the sum of their sequences, `"t":%T,"s":%S`.
 * --keys N: message n is a value of key n % N, of which a newer one may replace an older one on its way. Reported is how
 * old what a connection has of a key became before a newer one came, and what it never got of the newest ones.
 * --wait starts the clock at a line on stdin, for several of these at once: one publishes, the others, which do not know
 * how much, await all of it for the whole of --drain.
 * --even publishes each message at its own time, on the nanosecond clock instead of that of milliseconds, and %T is the
 * time at which it was to be published: a publisher that is late does not hide it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (64 * 1024)
#define MAXSUB 64
static const char *host = "127.0.0.1", *path = "/", *proto = NULL, *marker = "\"t\":", *extra = "";
static int port = 8000, nconn = 100, rate = 0, burst = 1, topics = 1, nsub = 0, payload = 64, ramp = 0;
static const char *subs[MAXSUB], *pubmode = NULL, *pubpath = "/", *pubmsg = NULL, *pubinit = NULL, *pubproto = NULL;
static int pubport = 0, binsub = 0;
static double dur = 5, warm = 1, settle = 0.5, drain = 0;
static char *pids = NULL;
static int verbose = 0, check = 0, even = 0, held = 0; static uint64_t intended = 0; static uint64_t holes = 0, dups = 0;
static char **sublines = NULL, **msglines = NULL; static int nsubline = 0, nmsgline = 0, counts = 0, nkeys = 0;
static const char *after = NULL; /* send only the first -s at once, the others when a frame that begins with this arrives */

typedef struct { int fd; int state; char *in; int len, sent; uint64_t got, off, sum, *heldt, *helds; } Conn; /* 0 connecting 1 handshake 2 open 3 closed */
static Conn *cs;
static int ep, nopen = 0, nclosed = 0, nfail = 0;
static uint64_t msgs = 0, frames = 0, bytes = 0; static int measuring = 0;
/* latency histogram: log-linear, 1us..~100s */
#define HB 2048
static uint64_t hist[HB], ages[HB]; static uint64_t lat_max = 0, age_max = 0; static double lat_sum = 0;
static int hb(uint64_t us) { if (us < 64) return us; int e = 63 - __builtin_clzll(us); int r = (e - 6) * 64 + 64 + ((us >> (e - 6)) & 63); return r < HB ? r : HB - 1; }
static double hv(int b) { if (b < 64) return b; int e = (b - 64) / 64 + 6; return ((uint64_t)(64 + ((b - 64) & 63))) << (e - 6); }
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static double pct(const uint64_t *h, double p) { uint64_t n = 0, want; for (int i = 0; i < HB; i++) n += h[i]; if (!n) return 0; want = n * p; uint64_t a = 0; for (int i = 0; i < HB; i++) { a += h[i]; if (a > want) return hv(i) / 1000.0; } return hv(HB - 1) / 1000.0; }

static int tcp(int prt, int nb) {
  static uint32_t k = 0;
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1; struct sockaddr_in a = {0}, l = {0};
  if (fd < 0) return -1;
  a.sin_family = AF_INET; a.sin_port = htons(prt); inet_pton(AF_INET, host, &a.sin_addr);
  /* spread source addresses over 127.0.1.x so that more than 28k connections fit */
  if (nconn > 20000) { l.sin_family = AF_INET; l.sin_addr.s_addr = htonl(0x7f000100 + (k++ / 20000)); bind(fd, (void *)&l, sizeof l); }
  if (nb) fcntl(fd, F_SETFL, O_NONBLOCK);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, (void *)&a, sizeof a) && errno != EINPROGRESS) { close(fd); return -1; }
  return fd;
}
static int handshake(char *b, const char *pth, int prt, const char *prot) {
  int n = sprintf(b, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://%s:%d\r\n%s", pth, host, prt, host, prt, extra);
  if (prot) n += sprintf(b + n, "Sec-WebSocket-Protocol: %s\r\n", prot);
  return n + sprintf(b + n, "\r\n");
}
static int wsframe(char *out, int op, const char *p, int n) { /* masked with a zero key: legal and cheap */
  int h = 0; out[h++] = 0x80 | op;
  if (n < 126) out[h++] = 0x80 | n; else if (n < 65536) { out[h++] = 0x80 | 126; out[h++] = n >> 8; out[h++] = n & 255; }
  else { out[h++] = 0x80 | 127; for (int i = 7; i >= 0; i--) out[h++] = ((uint64_t)n >> (8 * i)) & 255; }
  memset(out + h, 0, 4); h += 4; memcpy(out + h, p, n); return h + n;
}
static int expand(char *out, const char *tpl, int idx, uint64_t seq) { /* %i conn index, %k topic number, %T now ns, %S seq, %X filler, \n */
  int n = 0;
  for (const char *p = tpl; *p; p++) {
    if (*p == '%' && p[1]) { p++;
      if (*p == 'i') n += sprintf(out + n, "%d", idx); else if (*p == 'k') n += sprintf(out + n, "%d", (int)((pubmode && idx < 0 ? seq : (uint64_t)idx) % topics));
      else if (*p == 'T') n += sprintf(out + n, "%llu", (unsigned long long)(intended ? intended : now())); else if (*p == 'S') n += sprintf(out + n, "%llu", (unsigned long long)seq);
      else if (*p == 'X') { memset(out + n, 'x', payload); n += payload; } else out[n++] = *p; }
    else if (*p == '\\' && p[1] == 'n') { out[n++] = '\n'; p++; } else if (*p == '\\' && p[1] == 'r') { out[n++] = '\r'; p++; }
    else if (*p == '\\' && p[1] == 'x' && p[2] && p[3]) { char h[3] = {p[2], p[3], 0}; out[n++] = strtol(h, 0, 16); p += 3; }
    else out[n++] = *p; }
  return n;
}
static void fin(Conn *c) { if (c->state == 2) nopen--; if (c->state != 3) { c->state = 3; nclosed++; close(c->fd); } }
static void value(Conn *c, const char *p, const char *e) { /* what follows the marker: T,"s":S */
  uint64_t t = 0, s = 0; while (p < e && *p >= '0' && *p <= '9') t = t * 10 + (*p++ - '0');
  if (e - p < 5 || memcmp(p, ",\"s\":", 5)) return;
  for (p += 5; p < e && *p >= '0' && *p <= '9'; p++) s = s * 10 + (*p - '0');
  c->sum += s; if (!nkeys) return;
  if (!c->heldt) { c->heldt = calloc(nkeys, sizeof(uint64_t)); c->helds = calloc(nkeys, sizeof(uint64_t)); }
  int k = s % nkeys; if (measuring && c->heldt[k]) { uint64_t d = (now() - c->heldt[k]) / 1000; ages[hb(d)]++; if (d > age_max) age_max = d; }
  c->heldt[k] = t; c->helds[k] = s + 1;
}
static int stale(Conn *c, uint64_t published) { /* keys of which it lacks the newest value */
  int n = 0; for (int k = 0; k < nkeys && k < (int64_t)published; k++) { uint64_t last = published - 1 - (published - 1 - k) % nkeys; n += !c->helds || c->helds[k] != last + 1; } return n;
}
/* What was found in a message. A server that fans out sends the same bytes to all, so that most of what comes has been
 * looked through for another connection before. */
#define SEEN 4096 /* places, one for each hash */
#define SEENLEN 512 /* longer messages are looked through each time */
#define MARKS 16
typedef struct { int len, marks, offsets; char bytes[SEENLEN]; uint64_t time[MARKS], offset[MARKS]; } Seen;
static Seen seen[SEEN];
static uint64_t came = 0; /* when the bytes in hand were read */
static void arrived(uint64_t t) {
  if (!measuring) return;
  msgs++;
  if (t > 1000000000000000000ull) { uint64_t d = came - t; if (d >> 63) d = 0; lat_sum += d; if (d > lat_max) lat_max = d; hist[hb(d / 1000)]++; }
}
static void order(Conn *c, uint64_t o) { /* every "offset":N once, rising by one (one topic per connection) */
  if (c->off && o > c->off + 1) holes += o - c->off - 1; else if (c->off && o <= c->off) dups++;
  if (o > c->off) c->off = o;
}
static uint64_t number(const char *p, const char *e) { uint64_t v = 0; while (p < e && *p == ' ') p++; while (p < e && *p >= '0' && *p <= '9') v = v * 10 + (*p++ - '0'); return v; }
static void look(Conn *c, const char *p, int n, Seen *s) { /* takes a message, and notes in `s` what it had in it, if that fits */
  const char *e = p + n, *q; int ml = strlen(marker), marks = 0, offsets = 0; s->len = -1;
  if (check && memmem(p, n, "\"op\":\"event\"", 12)) for (q = p; (q = memmem(q, e - q, "\"offset\":", 9)); offsets++) { uint64_t o = number(q += 9, e); order(c, o); if (offsets < MARKS) s->offset[offsets] = o; }
  for (q = p; (q = memmem(q, e - q, marker, ml)); marks++) { uint64_t t = number(q += ml, e); c->got++; if (counts || nkeys) value(c, q, e); arrived(t); if (marks < MARKS) s->time[marks] = t; }
  if (marks && marks <= MARKS && offsets <= MARKS && n <= SEENLEN) { memcpy(s->bytes, p, n); s->len = n; s->marks = marks; s->offsets = offsets; }
}
static void scan(Conn *c, const char *p, int n) {
  uint64_t h = n, w; for (int i = 0; i + 8 <= n; i += 8) { memcpy(&w, p + i, 8); h = (h ^ w) * 0x9e3779b97f4a7c15ull; h ^= h >> 29; }
  Seen *s = &seen[h % SEEN];
  if (s->len != n || counts || nkeys || memcmp(s->bytes, p, n)) { look(c, p, n, s); return; }
  for (int i = 0; i < s->offsets; i++) order(c, s->offset[i]);
  c->got += s->marks; for (int i = 0; i < s->marks; i++) arrived(s->time[i]);
}
static void subscribe(Conn *c, int upto) {
  char m[4096], f[8192];
  for (; c->sent < upto && c->sent < nsub; c->sent++) { int n = expand(m, c->sent == 0 && sublines ? sublines[(c - cs) % nsubline] : subs[c->sent], c - cs, 0); n = wsframe(f, binsub ? 2 : 1, m, n); if (write(c->fd, f, n) != n) perror("sub"); }
}
static int feed(Conn *c, char *in, int len) { /* takes whole frames; how many bytes it took */
  char tmp[8192]; int o = 0;
  if (c->state == 1) {
    char *e = memmem(in, len, "\r\n\r\n", 4); if (!e) return 0;
    if (strncmp(in, "HTTP/1.1 101", 12)) { if (!nfail++) fprintf(stderr, "handshake refused: %.60s\n", in); fin(c); return len; }
    o = e + 4 - in; c->state = 2; nopen++;
    subscribe(c, after ? 1 : nsub);
  }
  while (len - o >= 2) {
    unsigned char *b = (unsigned char *)in + o; uint64_t n = b[1] & 127; int h = 2;
    if (n == 126) { if (len - o < 4) break; n = b[2] << 8 | b[3]; h = 4; }
    else if (n == 127) { if (len - o < 10) break; n = 0; for (int i = 2; i < 10; i++) n = n << 8 | b[i]; h = 10; }
    if ((uint64_t)(len - o) < h + n) break;
    int op = b[0] & 15; if (measuring) frames++;
    if (op == 9) { int k = wsframe(tmp, 10, (char *)b + h, n > 125 ? 125 : n); if (write(c->fd, tmp, k) < 0) {} }
    else if (op == 8) { if (verbose) fprintf(stderr, "close %d %.*s\n", n >= 2 ? b[h] << 8 | b[h + 1] : 0, n > 2 ? (int)n - 2 : 0, b + h + 2); fin(c); return len; }
    else { if (verbose > 1) fprintf(stderr, "< %.*s\n", (int)n, b + h);
      /* socket.io / engine.io ping "2" -> pong "3" */
      if (n == 1 && b[h] == '2') { int k = wsframe(tmp, 1, "3", 1); if (write(c->fd, tmp, k) < 0) {} }
      if (after && c->sent < nsub && n >= strlen(after) && !memcmp(b + h, after, strlen(after))) subscribe(c, nsub);
      scan(c, (char *)b + h, n); }
    o += h + n;
  }
  return o;
}
static void onread(Conn *c) {
  static char *in = NULL; static int cap = 0; /* one for all connections, so that it stays in the cache; a connection keeps what is not whole */
  for (;;) {
    if (cap < c->len + CHUNK) in = realloc(in, cap = c->len + CHUNK);
    int n = read(c->fd, in + c->len, CHUNK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n <= 0) { fin(c); return; }
    if (measuring) bytes += n;
    came = now(); if (c->len) memcpy(in, c->in, c->len);
    int len = c->len + n, took = feed(c, in, len); if (c->state == 3) return;
    c->len = len - took; if (c->len) { c->in = realloc(c->in, c->len); memcpy(c->in, in + took, c->len); } else { free(c->in); c->in = NULL; }
    if (n < CHUNK) break;
  }
}
static void pump_ns(uint64_t ns) {
  struct epoll_event ev[512]; struct timespec most = {ns / 1000000000, ns % 1000000000}; int n = epoll_pwait2(ep, ev, 512, &most, NULL);
  for (int i = 0; i < n; i++) {
    Conn *c = ev[i].data.ptr; if (!c) continue; if (c->state == 3) continue;
    if (c->state == 0) { int er = 0; socklen_t l = sizeof er; getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &er, &l); if (er) { nfail++; fin(c); continue; }
      char b[2048]; int k = handshake(b, path, port, proto); if (write(c->fd, b, k) != k) { nfail++; fin(c); continue; }
      c->state = 1; struct epoll_event m = {EPOLLIN, {.ptr = c}}; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &m); continue; }
    onread(c);
  }
}
static void pump(int ms) { pump_ns(ms * 1000000ull); }
static double cpu_of(char *list) { double s = 0; if (!list) return 0; char *d = strdup(list), *sv = 0; for (char *p = strtok_r(d, ",", &sv); p; p = strtok_r(0, ",", &sv)) { char f[64], l[4096]; sprintf(f, "/proc/%s/stat", p); FILE *x = fopen(f, "r"); if (!x) continue; if (fgets(l, sizeof l, x)) { char *q = strrchr(l, ')'); unsigned long u = 0, k = 0; sscanf(q + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &k); s += (u + k) / (double)sysconf(_SC_CLK_TCK); } fclose(x); } free(d); return s; }
static double rss_of(char *list) { double s = 0; if (!list) return 0; char *d = strdup(list), *sv = 0; for (char *p = strtok_r(d, ",", &sv); p; p = strtok_r(0, ",", &sv)) { char f[64]; sprintf(f, "/proc/%s/smaps_rollup", p); FILE *x = fopen(f, "r"); char l[256]; long kb; if (!x) continue; while (fgets(l, sizeof l, x)) if (sscanf(l, "Pss: %ld kB", &kb) == 1) s += kb / 1024.0; fclose(x); } free(d); return s; }

static char **lines_of(const char *file, int *n) { /* ends the program where there are none */
  FILE *f = fopen(file, "r"); char **l = NULL, *b = NULL; size_t cap = 0; ssize_t k; *n = 0; if (!f) { perror(file); exit(2); }
  while ((k = getline(&b, &cap, f)) > 0) { if (b[k - 1] == '\n') b[k - 1] = 0; l = realloc(l, (*n + 1) * sizeof *l); l[(*n)++] = strdup(b); }
  fclose(f); free(b); if (!*n) { fprintf(stderr, "%s is empty\n", file); exit(2); } return l; }

int main(int ac, char **av) {
  for (int i = 1; i < ac; i++) {
    char *a = av[i], *v = i + 1 < ac ? av[i + 1] : "";
#define O(x) (!strcmp(a, x) && ++i)
    if (O("-c")) nconn = atoi(v); else if (O("-p")) port = atoi(v); else if (O("-u")) path = v; else if (O("-P")) proto = v; else if (O("-s")) subs[nsub++] = v;
    else if (O("-m")) marker = v; else if (O("-d")) dur = atof(v); else if (O("-w")) warm = atof(v); else if (O("--pub")) pubmode = v; else if (O("--pubport")) pubport = atoi(v);
    else if (O("--pubpath")) pubpath = v; else if (O("--pubmsg")) pubmsg = v; else if (O("--pubinit")) pubinit = v; else if (O("--pubproto")) pubproto = v; else if (O("--rate")) rate = atoi(v); else if (O("--burst")) burst = atoi(v);
    else if (O("--topics")) topics = atoi(v); else if (O("--pids")) pids = v; else if (O("--payload")) payload = atoi(v); else if (O("--ramp")) ramp = atoi(v); else if (O("--settle")) settle = atof(v); else if (O("--header")) { char *x = malloc(strlen(v) + 3 + strlen(extra)); sprintf(x, "%s%s\r\n", extra, v); extra = x; }
    else if (!strcmp(a, "-v")) verbose++; else if (!strcmp(a, "--bin")) binsub = 1; else if (!strcmp(a, "--check")) check = 1; else if (!strcmp(a, "--counts")) counts = 1; else if (O("--keys")) nkeys = atoi(v); else if (!strcmp(a, "--even")) even = 1; else if (!strcmp(a, "--wait")) held = 1;
    else if (O("--subs")) { sublines = lines_of(v, &nsubline); if (!nsub) nsub = 1; } else if (O("--msgs")) msglines = lines_of(v, &nmsgline); else if (O("--after")) after = v; else if (O("--drain")) drain = atof(v); else { fprintf(stderr, "unknown %s\n", a); return 2; } }
  struct rlimit rl = {1048576, 1048576}; if (setrlimit(RLIMIT_NOFILE, &rl)) { getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl); }
  if (!pubport) pubport = port;
  ep = epoll_create1(0); cs = calloc(nconn, sizeof *cs);
  double r0 = rss_of(pids), c00 = cpu_of(pids); uint64_t t0 = now();
  for (int i = 0; i < nconn; i++) {
    Conn *c = &cs[i]; c->fd = tcp(port, 1); if (c->fd < 0) { c->state = 3; nfail++; nclosed++; continue; }
    struct epoll_event m = {EPOLLOUT, {.ptr = c}}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &m);
    if (i % 50 == 49) pump(0);
    while (i - nopen - nclosed > 200) { pump(10); if (now() - t0 > 120000000000ull) break; }
  }
  while (nopen + nclosed < nconn && now() - t0 < 120000000000ull) pump(50);
  double tc = (now() - t0) / 1e9, ccpu = cpu_of(pids) - c00; uint64_t ts = now(); while (now() - ts < settle * 1e9) pump(20);
  double r1 = rss_of(pids);
  fprintf(stderr, "open %d/%d failed %d in %.2fs (%.0f/s, server cpu %.1f us each), server memory %.1f -> %.1f MiB PSS (%.1f KiB per connection)\n", nopen, nconn, nfail, tc, nopen / tc, ccpu * 1e6 / (nopen ? nopen : 1), r0, r1, (r1 - r0) * 1024 / (nopen ? nopen : 1));
  int pfd = -1; static char pb[4 << 20]; char tmp[70000], m[70000];
  if (pubmode) {
    pfd = tcp(pubport, 0);
    if (!strncmp(pubmode, "ws", 2)) { int k = handshake(tmp, pubpath, pubport, pubproto); if (write(pfd, tmp, k) != k) return 1; k = read(pfd, tmp, sizeof tmp); if (k < 12 || strncmp(tmp, "HTTP/1.1 101", 12)) { fprintf(stderr, "publisher refused %.*s\n", k, tmp); return 1; }
      if (pubinit) { int n = expand(m, pubinit, 0, 0); n = wsframe(tmp, 1, m, n); if (write(pfd, tmp, n) != n) return 1; usleep(200000); } }
    else if (pubinit) { int n = expand(m, pubinit, 0, 0); if (write(pfd, m, n) != n) return 1; usleep(200000); }
    fcntl(pfd, F_SETFL, O_NONBLOCK);
  }
  if (held) { struct pollfd in = {0, POLLIN, 0}; while (!poll(&in, 1, 0)) pump(1); }
  if (even) prctl(PR_SET_TIMERSLACK, 1000);
  uint64_t start = now(), seq = 0, base_seq = 0; double cpu0 = 0; struct rusage u0, u1; uint64_t m0 = 0; int pend = 0, poff = 0; uint64_t stalls = 0;
  double end = warm + dur;
  for (;;) {
    double el = (now() - start) / 1e9;
    if (!measuring && el >= warm) { measuring = 1; cpu0 = cpu_of(pids); getrusage(RUSAGE_SELF, &u0); m0 = now(); base_seq = seq; }
    if (el >= end) break;
    if (pfd >= 0) {
      if (rate && pend == 0) { uint64_t due = el * rate; due -= due % burst; 
        if (due > seq) { int n = due - seq; if (n > 2000) n = 2000; pend = 0; poff = 0;
          for (int i = 0; i < n && pend < (int)sizeof pb - 140000; i++, seq++) {
            if (even) intended = start + (uint64_t)((seq + 1) * 1e9 / rate);
            int k = expand(m, msglines ? msglines[seq % nmsgline] : pubmsg, -1, seq);
            if (!strcmp(pubmode, "ws")) pend += wsframe(pb + pend, 1, m, k);
            else if (!strcmp(pubmode, "wsbin")) pend += wsframe(pb + pend, 2, m, k);
            else if (!strcmp(pubmode, "http")) { pend += sprintf(pb + pend, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n", pubpath, extra, k); memcpy(pb + pend, m, k); pend += k; }
            else { memcpy(pb + pend, m, k); pend += k; } } } }
      if (pend) { int w = write(pfd, pb + poff, pend - poff); if (w > 0) { poff += w; if (poff == pend) pend = poff = 0; } else if (errno != EAGAIN) { perror("publisher"); break; } else stalls++; }
      int k = read(pfd, tmp, sizeof tmp); if (k > 0 && verbose) fprintf(stderr, "pub< %.*s\n", k > 300 ? 300 : k, tmp); if (k > 0 && !strcmp(pubmode, "raw") && memmem(tmp, k, "PING", 4)) { if (write(pfd, "PONG\r\n", 6) < 0) {} } if (k == 0) { fprintf(stderr, "publisher closed\n"); break; }
    }
    if (even && rate && !pend) { uint64_t next = start + (uint64_t)((seq + 1) * 1e9 / rate), t = now(); pump_ns(next > t ? next - t : 0); }
    else pump(pfd >= 0 && rate ? 1 : 20);
  }
  double sec = (now() - m0) / 1e9, cpu = cpu_of(pids) - cpu0; getrusage(RUSAGE_SELF, &u1);
  double ccl = (u1.ru_utime.tv_sec - u0.ru_utime.tv_sec) + (u1.ru_stime.tv_sec - u0.ru_stime.tv_sec) + (u1.ru_utime.tv_usec - u0.ru_utime.tv_usec + u1.ru_stime.tv_usec - u0.ru_stime.tv_usec) / 1e6;
  uint64_t measured = msgs, lo, hi, want = seq; double pub = (seq - base_seq) / sec; measuring = 0;
  for (uint64_t until = now() + drain * 1e9;;) {
    int behind = 0; lo = ~0ull, hi = 0;
    for (int i = 0; i < nconn; i++) { if (cs[i].got < lo) lo = cs[i].got; if (cs[i].got > hi) hi = cs[i].got; behind += cs[i].state == 2 && (nkeys ? stale(&cs[i], want) > 0 : cs[i].got < want); }
    if (now() >= until || (!pend && !behind && (pubmode || !held))) break;
    if (pend) { int w = write(pfd, pb + poff, pend - poff); if (w > 0) { poff += w; if (poff == pend) pend = poff = 0; } else if (errno != EAGAIN) break; }
    if (pfd >= 0 && !read(pfd, tmp, sizeof tmp)) { close(pfd); pfd = -1; pend = 0; }
    pump(1);
  }
  printf("open %d closed %d | published %.0f/s | delivered %.0f/s | frames %.0f/s | %.1f MB/s | latency ms mean %.3f p50 %.3f p99 %.3f p99.9 %.3f max %.3f | server cpu %.2f cores, %.3f us/delivery | client cpu %.2f | per-conn got %llu..%llu | stalls %llu | server mem %.1f MiB\n",
         nopen, nclosed, pub, measured / sec, frames / sec, bytes / sec / 1e6, measured ? lat_sum / measured / 1e6 : 0, pct(hist, .5), pct(hist, .99), pct(hist, .999), lat_max / 1e6, cpu / sec, measured ? cpu * 1e6 / measured : 0, ccl / sec, (unsigned long long)lo, (unsigned long long)hi, (unsigned long long)stalls, rss_of(pids));
  if (drain) printf("drained: got %llu..%llu of %llu published\n", (unsigned long long)lo, (unsigned long long)hi, (unsigned long long)want);
  if (nkeys) { int lack = 0; for (int i = 0; i < nconn; i++) lack += stale(&cs[i], want); printf("values: age ms p50 %.3f p99 %.3f p99.9 %.3f max %.3f | newest never came %d\n", pct(ages, .5), pct(ages, .99), pct(ages, .999), age_max / 1e3, lack); }
  if (counts) { printf("counts"); for (int i = 0; i < nconn; i++) printf(" %llu:%llu", (unsigned long long)cs[i].got, (unsigned long long)cs[i].sum); printf("\n"); }
  if (check) printf("offsets missing %llu, repeated or out of order %llu\n", (unsigned long long)holes, (unsigned long long)dups);
  return check && (holes || dups);
}
