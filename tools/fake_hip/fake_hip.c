// A stand-in for libamdhip64.so that launches nothing: it counts launches and keeps a copy of each thread's last one, laid
// out as tools/fake_cuda keeps it. What Triton's driver asks about a device is answered as an MI300X would.
#define __HIP_PLATFORM_AMD__
#define _GNU_SOURCE
#include <hip/hip_runtime_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../fake_cuda/recorded.h"

// As an attribute's id: a cooperative launch, which has a function of its own.
#define COOPERATIVE 2

// Never freed, so that no two functions of a process have one address. The sizes are told by whoever reads the code.
typedef struct { int count; uint16_t sizes[MAX_PARAMS]; } Function;

EXPORT void fake_describe(Function *function, int count, const uint16_t *sizes) {
    function->count = count;
    memcpy(function->sizes, sizes, count * sizeof *sizes);
}

static hipError_t record(hipFunction_t f, const uint32_t *grid, const uint32_t *block, uint32_t shared, hipStream_t stream, void **params) {
    hipError_t result = counted();
    if (result) return result;
    // As HIP: what is above 32 bits of work items, a number below zero among others, is refused.
    for (int i = 0; i < 3; i++)
        if ((uint64_t)grid[i] * block[i] > UINT32_MAX) return hipErrorInvalidConfiguration;
    if (!recording) return hipSuccess;
    const Function *function = (const Function *)f;
    last.function = (uint64_t)function, last.stream = (uint64_t)stream, last.shared = shared;
    memcpy(last.grid, grid, sizeof last.grid);
    memcpy(last.block, block, sizeof last.block);
    memset(last.attributes, 0, sizeof last.attributes);
    last.attribute_count = 0;
    record_params(function->count, function->sizes, params);
    return hipSuccess;
}

EXPORT hipError_t hipModuleLaunchKernel(hipFunction_t f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                        unsigned shared, hipStream_t stream, void **params, void **extra) {
    return record(f, (uint32_t[]){gx, gy, gz}, (uint32_t[]){bx, by, bz}, shared, stream, params);
}

EXPORT hipError_t hipModuleLaunchCooperativeKernel(hipFunction_t f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                                   unsigned shared, hipStream_t stream, void **params) {
    hipError_t result = record(f, (uint32_t[]){gx, gy, gz}, (uint32_t[]){bx, by, bz}, shared, stream, params);
    last.attribute_count = 1, last.attributes[0][0] = COOPERATIVE, last.attributes[0][1] = 1;
    return result;
}

EXPORT hipError_t hipDrvLaunchKernelEx(const HIP_LAUNCH_CONFIG *config, hipFunction_t f, void **params, void **extra) {
    uint32_t grid[] = {config->gridDimX, config->gridDimY, config->gridDimZ}, block[] = {config->blockDimX, config->blockDimY, config->blockDimZ};
    hipError_t result = record(f, grid, block, config->sharedMemBytes, config->hStream, params);
    last.attribute_count = config->numAttrs;
    for (unsigned i = 0; i < config->numAttrs && i < MAX_ATTRIBUTES; i++) {
        last.attributes[i][0] = config->attrs[i].id;
        // A cluster has three numbers.
        memcpy(&last.attributes[i][1], &config->attrs[i].val, config->attrs[i].id == 4 ? 12 : 4);
    }
    return result;
}

static hipError_t module_load(hipModule_t *out, const void *image, unsigned n, hipJitOption *options, void **values) {
    *out = calloc(1, 1);
    return hipSuccess;
}
static hipError_t module_unload(hipModule_t module) { return hipSuccess; }
static hipError_t get_function(hipFunction_t *out, hipModule_t module, const char *name) {
    *out = calloc(1, sizeof(Function));
    return hipSuccess;
}
static hipError_t function_attribute(int *out, hipFunction_attribute what, hipFunction_t f) {
    *out = what == HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return hipSuccess;
}
static hipError_t properties(hipDeviceProp_t *out, int device) {
    memset(out, 0, sizeof *out);
    strcpy(out->gcnArchName, "gfx942:sramecc+:xnack-");
    out->sharedMemPerBlock = 65536, out->regsPerBlock = 65536, out->multiProcessorCount = 304, out->warpSize = 64;
    out->maxThreadsPerMultiProcessor = 2048, out->cooperativeLaunch = 1, out->clockRate = out->memoryClockRate = 1, out->memoryBusWidth = 8192;
    return hipSuccess;
}
static hipError_t pointer_attribute(void *out, hipPointer_attribute what, hipDeviceptr_t pointer) {
    pointer_queries++;
    *(uint64_t *)out = (uint64_t)pointer;
    return hipSuccess;
}
static hipError_t last_error(void) { return hipSuccess; }
EXPORT const char *hipGetErrorString(hipError_t error) { return "fake driver error"; }
EXPORT hipError_t hipGetDevice(int *out) { *out = 0; return hipSuccess; }
EXPORT hipError_t hipDriverGetVersion(int *out) { *out = 70000000; return hipSuccess; }

EXPORT hipError_t hipGetProcAddress(const char *name, void **out, int version, uint64_t flags, hipDriverProcAddressQueryResult *status) {
    static const struct { const char *name; void *address; } known[] = {
        {"hipModuleLoadDataEx", module_load}, {"hipModuleUnload", module_unload}, {"hipModuleGetFunction", get_function},
        {"hipFuncGetAttribute", function_attribute}, {"hipGetDeviceProperties", properties}, {"hipPointerGetAttribute", pointer_attribute},
        {"hipGetLastError", last_error}, {"hipGetErrorString", hipGetErrorString}, {"hipModuleLaunchKernel", hipModuleLaunchKernel},
        {"hipModuleLaunchCooperativeKernel", hipModuleLaunchCooperativeKernel}, {"hipDrvLaunchKernelEx", hipDrvLaunchKernelEx},
    };
    *out = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) *out = known[i].address;
    return *out ? hipSuccess : hipErrorInvalidValue;
}
