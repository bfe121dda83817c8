// A stand-in for libcuda.so.1 that launches nothing: it counts launches and keeps a copy of the last one.
// What Triton's driver asks about a device is answered as an H100 would.
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_PARAMS 128
typedef int Result;

static int context, module;
static uintptr_t next_function = 4096;

// The head of CUlaunchConfig; its layout is part of the driver's ABI.
typedef struct { uint32_t id, pad, value[16]; } Attribute;
typedef struct { uint32_t grid[3], block[3], shared; void *stream; Attribute *attributes; uint32_t attribute_count; } Config;
// Of each attribute the id and the three words that a cluster's size takes.
typedef struct { uint64_t function, stream; uint32_t grid[3], block[3], shared, attribute_count, attributes[4][4]; uint64_t params[MAX_PARAMS]; } Launch;

static uint64_t launch_count, pointer_queries;
static Launch last;
// Bytes of each parameter of the next launches: reading past the last parameter would crash.
static int widths[MAX_PARAMS], width_count;
static Result next_result;

EXPORT uint64_t fake_launch_count(void) { return launch_count; }
EXPORT uint64_t fake_pointer_queries(void) { return pointer_queries; }
EXPORT void fake_last(Launch *out) { *out = last; }
EXPORT void fake_record(const int *w, int n) { memcpy(widths, w, n * sizeof *w); width_count = n; }
EXPORT void fake_fail_next(Result r) { next_result = r; }

EXPORT Result cuLaunchKernelEx(const Config *config, void *function, void **params, void **extra) {
    launch_count++;
    if (next_result) { Result r = next_result; next_result = 0; return r; }
    if (width_count == 0) return 0;
    memset(&last, 0, sizeof last);
    last.function = (uint64_t)function;
    last.stream = (uint64_t)config->stream;
    memcpy(last.grid, config->grid, sizeof last.grid);
    memcpy(last.block, config->block, sizeof last.block);
    last.shared = config->shared;
    last.attribute_count = config->attribute_count;
    for (uint32_t i = 0; i < config->attribute_count && i < 4; i++) {
        last.attributes[i][0] = config->attributes[i].id;
        // The launcher leaves what an attribute does not use as it was.
        memcpy(&last.attributes[i][1], config->attributes[i].value, last.attributes[i][0] == 4 ? 12 : 4);
    }
    for (int i = 0; i < width_count; i++) memcpy(&last.params[i], params[i], widths[i]);
    return 0;
}

EXPORT Result cuInit(unsigned flags) { return 0; }
EXPORT Result cuDriverGetVersion(int *out) { *out = 13000; return 0; }
EXPORT Result cuDeviceGetCount(int *out) { *out = 1; return 0; }
EXPORT Result cuDeviceGet(int *out, int ordinal) { *out = ordinal; return 0; }
EXPORT Result cuDeviceGetAttribute(int *out, int attribute, int device) {
    switch (attribute) {
    case 75: *out = 9; break;       // compute capability, major
    case 76: *out = 0; break;       // and minor
    case 97: *out = 232448; break;  // shared memory per block, opt-in
    case 81: *out = 233472; break;  // shared memory per multiprocessor
    default: *out = 1024;
    }
    return 0;
}
EXPORT Result cuCtxGetCurrent(void **out) { *out = &context; return 0; }
EXPORT Result cuCtxSetCurrent(void *c) { return 0; }
EXPORT Result cuCtxGetDevice(int *out) { *out = 0; return 0; }
EXPORT Result cuDevicePrimaryCtxRetain(void **out, int device) { *out = &context; return 0; }
EXPORT Result cuCtxSetLimit(int limit, size_t value) { return 0; }
EXPORT Result cuCtxGetLimit(size_t *out, int limit) { *out = 0; return 0; }
EXPORT Result cuGetErrorString(Result r, const char **out) { *out = "fake driver error"; return 0; }
EXPORT Result cuModuleLoadData(void **out, const void *image) { *out = &module; return 0; }
EXPORT Result cuModuleUnload(void *m) { return 0; }
EXPORT Result cuModuleGetFunction(void **out, void *m, const char *name) { next_function += 64; *out = (void *)next_function; return 0; }
EXPORT Result cuFuncGetAttribute(int *out, int attribute, void *f) { *out = attribute == 0 ? 1024 : 0; return 0; }
EXPORT Result cuFuncSetAttribute(void *f, int attribute, int value) { return 0; }
EXPORT Result cuFuncSetCacheConfig(void *f, int config) { return 0; }
EXPORT Result cuOccupancyMaxActiveClusters(int *out, void *f, const void *config) { *out = 1; return 0; }
EXPORT Result cuTensorMapEncodeTiled(void *map, ...) { memset(map, 0, 128); return 0; }
EXPORT Result cuTensorMapEncodeIm2col(void *map, ...) { memset(map, 0, 128); return 0; }
EXPORT Result cuStreamIsCapturing(void *stream, int *out) { *out = 0; return 0; }
EXPORT Result cuPointerGetAttribute(void *out, int attribute, uint64_t p) { pointer_queries++; *(uint64_t *)out = p; return 0; }
EXPORT Result cuPointerGetAttributes(unsigned n, void *a, void **out, uint64_t p) { return 0; }
EXPORT Result cuGetProcAddress(const char *name, void **out, int version, uint64_t flags) { *out = 0; return 500; }
EXPORT Result cuGetProcAddress_v2(const char *name, void **out, int v, uint64_t flags, void *status) { *out = 0; return 500; }
