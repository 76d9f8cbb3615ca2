/* NVML for machines without a GPU: the C functions that gpu.py uses, answered from a scenario file.
 *
 * 1. The file named by LOOMOS_NVML_SCENARIO is the only input; it is read again when it changes, so
 *    a test injects a fault by renaming a new file into place. A bad file fails nvmlInit.
 * 2. Time is seconds since the first nvmlInit. A curve is `second:value` points, linear between
 *    them, constant before the first and after the last.
 * 3. Every `xid` event is delivered exactly once per process.
 *
 * One `word value…` a line, `#` starts a comment line; `gpu` opens the next device:
 *   driver 570.124.06
 *   gpu
 *   uuid GPU-…            model NVIDIA H100 80GB HBM3     memory_bytes 85899345920
 *   capability 9 0        mig 0                           ecc 1            nvlinks 18
 *   power_limit_mw N      memory_used_bytes CURVE         utilisation CURVE (percent)
 *   temperature CURVE     power_mw CURVE                  sm_clock_mhz CURVE
 *   ecc_single CURVE      ecc_double CURVE                pcie_replay CURVE
 *   xid second:number …   lost second
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, TIMEOUT = 10, GPU_IS_LOST = 15, OPERATING_SYSTEM = 17
};
enum { GPUS = 16, POINTS = 64, LINKS = 18 };
enum { EVENT_XID = 8 };

typedef struct { int n; double at[POINTS], value[POINTS]; } Curve;
typedef struct {
    char uuid[96], model[96];
    unsigned long long memory_bytes;
    int major, minor, mig, ecc, nvlinks;
    unsigned power_limit_mw;
    Curve memory_used, utilisation, temperature, power, clock, single, twice, replay, xid;
    int xids_told;
    double lost_at;
} Gpu;
typedef struct { Gpu *device; unsigned long long type, data; unsigned gpu, compute; } EventData;

static Gpu gpus[GPUS];
static int count, started, watched[GPUS];
static char driver[80] = "0.0";
static struct timespec origin, read_at;
static ino_t read_inode;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - origin.tv_sec) + (double)(t.tv_nsec - origin.tv_nsec) / 1e9;
}

static double at(const Curve *c, double second) {
    if (c->n == 0) return 0;
    if (second <= c->at[0]) return c->value[0];
    for (int i = 1; i < c->n; i++)
        if (second < c->at[i]) {
            double part = (second - c->at[i - 1]) / (c->at[i] - c->at[i - 1]);
            return c->value[i - 1] + part * (c->value[i] - c->value[i - 1]);
        }
    return c->value[c->n - 1];
}

static int read_curve(Curve *c, char *text) {
    c->n = 0;
    for (char *point = strtok(text, " \t"); point; point = strtok(NULL, " \t")) {
        char *colon, *end;
        double second = strtod(point, &colon);
        if (*colon != ':' || c->n == POINTS) return 0;
        double value = strtod(colon + 1, &end);
        if (*end || value < 0 || (c->n && second <= c->at[c->n - 1])) return 0;
        c->at[c->n] = second;
        c->value[c->n++] = value;
    }
    return c->n > 0;
}

static int read_field(Gpu *g, const char *word, char *rest) {
    struct { const char *word; Curve *curve; } curves[] = {
        {"memory_used_bytes", &g->memory_used}, {"utilisation", &g->utilisation},
        {"temperature", &g->temperature}, {"power_mw", &g->power}, {"sm_clock_mhz", &g->clock},
        {"ecc_single", &g->single}, {"ecc_double", &g->twice}, {"pcie_replay", &g->replay},
        {"xid", &g->xid}};
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
        if (!strcmp(word, curves[i].word)) return read_curve(curves[i].curve, rest);
    if (!strcmp(word, "uuid")) return snprintf(g->uuid, sizeof g->uuid, "%s", rest) > 0;
    if (!strcmp(word, "model")) return snprintf(g->model, sizeof g->model, "%s", rest) > 0;
    if (!strcmp(word, "memory_bytes")) return sscanf(rest, "%llu", &g->memory_bytes) == 1;
    if (!strcmp(word, "capability")) return sscanf(rest, "%d %d", &g->major, &g->minor) == 2;
    if (!strcmp(word, "mig")) return sscanf(rest, "%d", &g->mig) == 1;
    if (!strcmp(word, "ecc")) return sscanf(rest, "%d", &g->ecc) == 1;
    if (!strcmp(word, "nvlinks")) return sscanf(rest, "%d", &g->nvlinks) == 1;
    if (!strcmp(word, "power_limit_mw")) return sscanf(rest, "%u", &g->power_limit_mw) == 1;
    if (!strcmp(word, "lost")) return sscanf(rest, "%lf", &g->lost_at) == 1;
    return 0;
}

/* Reads the scenario into `into`; the device count, or -1 with the bad line on stderr. */
static int read_scenario(const char *path, Gpu *into) {
    char line[4096];
    int n = 0, number = 0, good = 1;
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    memset(into, 0, sizeof(Gpu) * GPUS);
    while (good && fgets(line, sizeof line, f)) {
        number++;
        line[strcspn(line, "\r\n")] = 0;
        char *word = line + strspn(line, " \t");
        if (!*word || *word == '#') continue;
        char *rest = word + strcspn(word, " \t");
        if (*rest) *rest++ = 0;
        rest += strspn(rest, " \t");
        if (!strcmp(word, "driver")) good = snprintf(driver, sizeof driver, "%s", rest) > 0;
        else if (!strcmp(word, "gpu")) {
            good = n < GPUS;
            if (good) into[n++].lost_at = -1;
        } else good = n > 0 && read_field(&into[n - 1], word, rest);
    }
    fclose(f);
    for (int i = 0; good && i < n; i++) good = into[i].uuid[0] && into[i].memory_bytes;
    if (!good) fprintf(stderr, "nvml scenario %s: line %d is not understood\n", path, number);
    return good ? n : -1;
}

static int refresh(void) {
    static Gpu fresh[GPUS];
    struct stat s;
    const char *path = getenv("LOOMOS_NVML_SCENARIO");
    if (!path || stat(path, &s)) return OPERATING_SYSTEM;
    if (s.st_ino == read_inode && s.st_mtim.tv_sec == read_at.tv_sec &&
        s.st_mtim.tv_nsec == read_at.tv_nsec)
        return OK;
    int n = read_scenario(path, fresh);
    if (n < 0) return OPERATING_SYSTEM;
    for (int i = 0; i < GPUS; i++)
        if (i < count && i < n && !strcmp(gpus[i].uuid, fresh[i].uuid))
            fresh[i].xids_told = gpus[i].xids_told < fresh[i].xid.n ? gpus[i].xids_told : fresh[i].xid.n;
    memcpy(gpus, fresh, sizeof gpus);
    count = n;
    read_at = s.st_mtim;
    read_inode = s.st_ino;
    return OK;
}

static int check(Gpu *g) {
    if (!started) return UNINITIALIZED;
    if (g < gpus || g >= gpus + GPUS) return INVALID_ARGUMENT;
    refresh();
    if (g >= gpus + count || (g->lost_at >= 0 && now() >= g->lost_at)) return GPU_IS_LOST;
    return OK;
}

static int text(const char *from, char *to, unsigned length) {
    if (strlen(from) + 1 > length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}

static int number(Gpu *g, const Curve *c, unsigned *to) {
    int bad = check(g);
    if (!bad) *to = (unsigned)at(c, now());
    return bad;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!started) clock_gettime(CLOCK_MONOTONIC, &origin);
    started = 1;
    return refresh();
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return started ? OK : UNINITIALIZED; }
const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case TIMEOUT: return "Timeout";
    case GPU_IS_LOST: return "GPU is lost";
    case OPERATING_SYSTEM: return "the scenario file cannot be read";
    default: return "Invalid Argument";
    }
}
int nvmlSystemGetDriverVersion(char *to, unsigned length) { return text(driver, to, length); }
int nvmlDeviceGetCount_v2(unsigned *to) {
    if (!started) return UNINITIALIZED;
    *to = (unsigned)count;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **to) {
    if (!started) return UNINITIALIZED;
    if (index >= (unsigned)count) return INVALID_ARGUMENT;
    *to = &gpus[index];
    return check(*to);
}
int nvmlDeviceGetName(Gpu *g, char *to, unsigned n) {
    int bad = check(g);
    return bad ? bad : text(g->model, to, n);
}
int nvmlDeviceGetUUID(Gpu *g, char *to, unsigned n) {
    int bad = check(g);
    return bad ? bad : text(g->uuid, to, n);
}
int nvmlDeviceGetMemoryInfo(Gpu *g, unsigned long long to[3]) {
    int bad = check(g);
    if (bad) return bad;
    to[0] = g->memory_bytes;
    to[2] = (unsigned long long)at(&g->memory_used, now());
    if (to[2] > to[0]) to[2] = to[0];
    to[1] = to[0] - to[2];
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Gpu *g, int *major, int *minor) {
    int bad = check(g);
    if (!bad) *major = g->major, *minor = g->minor;
    return bad;
}
int nvmlDeviceGetMigMode(Gpu *g, unsigned *current, unsigned *pending) {
    int bad = check(g);
    if (!bad) *current = *pending = (unsigned)g->mig;
    return bad;
}
int nvmlDeviceGetNvLinkState(Gpu *g, unsigned link, unsigned *to) {
    int bad = check(g);
    if (bad) return bad;
    if (g->nvlinks == 0) return NOT_SUPPORTED;
    if (link >= LINKS) return INVALID_ARGUMENT;
    *to = link < (unsigned)g->nvlinks;
    return OK;
}
int nvmlDeviceGetTemperature(Gpu *g, int sensor, unsigned *to) {
    (void)sensor;
    return number(g, &g->temperature, to);
}
int nvmlDeviceGetPowerUsage(Gpu *g, unsigned *to) { return number(g, &g->power, to); }
int nvmlDeviceGetEnforcedPowerLimit(Gpu *g, unsigned *to) {
    int bad = check(g);
    if (!bad) *to = g->power_limit_mw;
    return bad;
}
int nvmlDeviceGetClockInfo(Gpu *g, int type, unsigned *to) {
    (void)type;
    return number(g, &g->clock, to);
}
int nvmlDeviceGetPcieReplayCounter(Gpu *g, unsigned *to) { return number(g, &g->replay, to); }
int nvmlDeviceGetUtilizationRates(Gpu *g, unsigned to[2]) {
    int bad = number(g, &g->utilisation, &to[0]);
    if (!bad) to[1] = (unsigned)(100.0 * at(&g->memory_used, now()) / (double)g->memory_bytes);
    return bad;
}
int nvmlDeviceGetTotalEccErrors(Gpu *g, int kind, int counter, unsigned long long *to) {
    int bad = check(g);
    (void)counter;
    if (bad) return bad;
    if (!g->ecc) return NOT_SUPPORTED;
    *to = (unsigned long long)at(kind ? &g->twice : &g->single, now());
    return OK;
}
int nvmlEventSetCreate(void **to) {
    *to = watched;
    return OK;
}
int nvmlEventSetFree(void *set) { return set == watched ? OK : INVALID_ARGUMENT; }
int nvmlDeviceRegisterEvents(Gpu *g, unsigned long long types, void *set) {
    int bad = check(g);
    if (bad) return bad;
    if (set != watched || types & ~(unsigned long long)EVENT_XID) return INVALID_ARGUMENT;
    watched[g - gpus] = 1;
    return OK;
}
int nvmlEventSetWait_v2(void *set, EventData *to, unsigned timeout_ms) {
    (void)timeout_ms;
    if (set != watched) return INVALID_ARGUMENT;
    refresh();
    for (int i = 0; i < count; i++) {
        Gpu *g = &gpus[i];
        if (!watched[i] || g->xids_told >= g->xid.n || g->xid.at[g->xids_told] > now()) continue;
        to->device = g;
        to->type = EVENT_XID;
        to->data = (unsigned long long)g->xid.value[g->xids_told++];
        to->gpu = to->compute = 0xFFFFFFFF;
        return OK;
    }
    return TIMEOUT;
}
