// A stand-in for libcuda.so.1 that launches nothing: it counts launches and keeps a copy of each thread's last one.
// What Triton's driver asks about a device is answered as an H100 would.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "recorded.h"

typedef int Result;
enum { OK = 0, INVALID_VALUE = 1, INVALID_IMAGE = 200, INVALID_HANDLE = 400, NOT_FOUND = 500 };

static int context;

// ---- Modules and functions. A real driver takes the parameters' sizes from the code, and so does this one.

typedef struct Module Module;
// Never freed, so that no two functions of a process have one address.
typedef struct { const Module *module; int count; uint16_t offsets[MAX_PARAMS], sizes[MAX_PARAMS]; } Function;
struct Module { int unloaded; uint8_t *image; };

// The headers of a 64-bit ELF file, as far as they are used.
typedef struct { uint32_t name, type; uint64_t flags, address, offset, size; uint32_t link, info; uint64_t align, entry; } Section;

static const Section *sections(const uint8_t *image, int *count, const char **names) {
    uint64_t at;
    uint16_t n, named_by;
    memcpy(&at, image + 40, 8);
    memcpy(&n, image + 60, 2);
    memcpy(&named_by, image + 62, 2);
    const Section *all = (const Section *)(image + at);
    *count = n, *names = (const char *)image + all[named_by].offset;
    return all;
}

static uint64_t image_size(const uint8_t *image) {
    int n;
    const char *names;
    const Section *all = sections(image, &n, &names);
    uint64_t end = (uint64_t)((const uint8_t *)(all + n) - image);
    for (int i = 0; i < n; i++)
        if (all[i].type != 8 && all[i].offset + all[i].size > end) end = all[i].offset + all[i].size;
    return end;
}

// EIATTR_KPARAM_INFO: one record per parameter, of index, ordinal, offset, and the size from bit 18 of the last word on.
static void read_params(Function *function, const uint8_t *at, const uint8_t *end) {
    while (at + 4 <= end) {
        uint16_t size;
        memcpy(&size, at + 2, 2);
        if (at[0] == 4 && at[1] == 0x17) {
            uint16_t ordinal, offset;
            uint32_t word;
            memcpy(&ordinal, at + 8, 2);
            memcpy(&offset, at + 10, 2);
            memcpy(&word, at + 12, 4);
            if (ordinal < MAX_PARAMS && offset + (word >> 18) <= MAX_BYTES) {
                function->offsets[ordinal] = offset, function->sizes[ordinal] = (uint16_t)(word >> 18);
                if (ordinal >= function->count) function->count = ordinal + 1;
            }
        }
        at += at[0] == 4 ? 4 + size : 4;
    }
}

EXPORT Result cuModuleLoadData(void **out, const void *image) {
    if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_IMAGE;
    Module *module = calloc(1, sizeof *module);
    uint64_t size = image_size(image);
    module->image = malloc(size);
    memcpy(module->image, image, size);
    *out = module;
    return OK;
}

EXPORT Result cuModuleUnload(void *m) {
    ((Module *)m)->unloaded = 1;
    return OK;
}

EXPORT Result cuModuleGetFunction(void **out, void *m, const char *name) {
    Module *module = m;
    int n;
    const char *names;
    const Section *all = sections(module->image, &n, &names);
    for (int i = 0; i < n; i++) {
        const char *found = names + all[i].name;
        if (strncmp(found, ".nv.info.", 9) || strcmp(found + 9, name)) continue;
        Function *function = calloc(1, sizeof *function);
        function->module = module;
        read_params(function, module->image + all[i].offset, module->image + all[i].offset + all[i].size);
        *out = function;
        return OK;
    }
    return NOT_FOUND;
}

// ---- Launches

// The head of CUlaunchConfig; its layout is part of the driver's ABI.
typedef struct { uint32_t id, pad, value[16]; } Attribute;
typedef struct { uint32_t grid[3], block[3], shared; void *stream; Attribute *attributes; uint32_t attribute_count; } Config;

EXPORT Result cuLaunchKernelEx(const Config *config, void *f, void **params, void **extra) {
    Result result = counted();
    if (result) return result;
    if (!recording) return OK;
    const Function *function = f;
    if (function->module->unloaded) return INVALID_HANDLE;
    last.function = (uint64_t)function;
    last.stream = (uint64_t)config->stream;
    memcpy(last.grid, config->grid, sizeof last.grid);
    memcpy(last.block, config->block, sizeof last.block);
    last.shared = config->shared;
    last.attribute_count = config->attribute_count;
    for (uint32_t i = 0; i < config->attribute_count && i < MAX_ATTRIBUTES; i++) {
        uint32_t id = config->attributes[i].id;
        memset(last.attributes[i], 0, sizeof last.attributes[i]);
        last.attributes[i][0] = id;
        // The launcher leaves what an attribute does not use as it was.
        memcpy(&last.attributes[i][1], config->attributes[i].value, id == 4 ? 12 : 4);
    }
    record_params(function->count, function->sizes, params);
    return OK;
}

EXPORT Result cuLaunchKernel(void *f, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by, uint32_t bz, uint32_t shared, void *stream, void **params, void **extra) {
    Config config = {.grid = {gx, gy, gz}, .block = {bx, by, bz}, .shared = shared, .stream = stream};
    return cuLaunchKernelEx(&config, f, params, extra);
}

// ---- Tensor maps: what a map was made from stands in it, so that two maps are equal if they describe the same thing.

typedef struct {
    uint64_t address, extents[5], strides[4];
    uint32_t box[5];
    uint8_t steps[5], dtype, rank, interleave, swizzle, l2, fill;
} TensorMap;
_Static_assert(sizeof(TensorMap) <= 128, "a CUtensorMap has 128 bytes");

EXPORT Result cuTensorMapEncodeTiled(void *out, int dtype, uint32_t rank, void *address, const uint64_t *extents, const uint64_t *strides,
                                     const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int l2, int fill) {
    map_count++;
    TensorMap map = {.address = (uint64_t)address, .dtype = dtype, .rank = rank, .interleave = interleave, .swizzle = swizzle, .l2 = l2, .fill = fill};
    if (map.address % 16 || rank < 1 || rank > 5) return INVALID_VALUE;
    for (uint32_t i = 0; i < rank; i++) {
        map.extents[i] = extents[i], map.box[i] = box[i], map.steps[i] = (uint8_t)steps[i];
        if (!extents[i] || extents[i] > 1ull << 32 || !box[i] || box[i] > 256) return INVALID_VALUE;
        if (i + 1 < rank && (map.strides[i] = strides[i]) % 16) return INVALID_VALUE;
    }
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return OK;
}
EXPORT Result cuTensorMapEncodeIm2col(void *map, ...) { memset(map, 0, 128); return OK; }

// ---- What is asked about the device

EXPORT Result cuInit(unsigned flags) { return OK; }
EXPORT Result cuDriverGetVersion(int *out) { *out = 13000; return OK; }
EXPORT Result cuDeviceGetCount(int *out) { *out = 1; return OK; }
EXPORT Result cuDeviceGet(int *out, int ordinal) { *out = ordinal; return OK; }
EXPORT Result cuDeviceGetAttribute(int *out, int attribute, int device) {
    switch (attribute) {
    case 75: *out = 9; break;       // compute capability, major
    case 76: *out = 0; break;       // and minor
    case 97: *out = 232448; break;  // shared memory per block, opt-in
    case 81: *out = 233472; break;  // shared memory per multiprocessor
    default: *out = 1024;
    }
    return OK;
}
EXPORT Result cuCtxGetCurrent(void **out) { *out = &context; return OK; }
EXPORT Result cuCtxSetCurrent(void *c) { return OK; }
EXPORT Result cuCtxGetDevice(int *out) { *out = 0; return OK; }
EXPORT Result cuDevicePrimaryCtxRetain(void **out, int device) { *out = &context; return OK; }
EXPORT Result cuCtxSetLimit(int limit, size_t value) { return OK; }
EXPORT Result cuCtxGetLimit(size_t *out, int limit) { *out = 0; return OK; }
EXPORT Result cuGetErrorString(Result r, const char **out) { *out = "fake driver error"; return OK; }
EXPORT Result cuFuncGetAttribute(int *out, int attribute, void *f) { *out = attribute == 0 ? 1024 : 0; return OK; }
EXPORT Result cuFuncSetAttribute(void *f, int attribute, int value) { return OK; }
EXPORT Result cuFuncSetCacheConfig(void *f, int config) { return OK; }
EXPORT Result cuOccupancyMaxActiveClusters(int *out, void *f, const void *config) { *out = 1; return OK; }
EXPORT Result cuStreamIsCapturing(void *stream, int *out) { *out = 0; return OK; }
EXPORT Result cuPointerGetAttribute(void *out, int attribute, uint64_t p) { pointer_queries++; *(uint64_t *)out = p; return OK; }
EXPORT Result cuPointerGetAttributes(unsigned n, void *a, void **out, uint64_t p) { return OK; }
EXPORT Result cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
    *out = dlsym(RTLD_DEFAULT, name);
    return *out ? OK : NOT_FOUND;
}
EXPORT Result cuGetProcAddress(const char *name, void **out, int version, uint64_t flags) { return cuGetProcAddress_v2(name, out, version, flags, 0); }
