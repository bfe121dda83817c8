// What the stand-ins for drivers keep of launches: their number, and a copy of each thread's last one.
#ifndef GEMS_RECORDED_H
#define GEMS_RECORDED_H
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_PARAMS 256
#define MAX_BYTES 4096
#define MAX_ATTRIBUTES 6

// Of each attribute the id and the three words that a cluster's size takes. The parameters' bytes lie one after another.
typedef struct {
    uint64_t function, stream;
    uint32_t grid[3], block[3], shared, attribute_count, attributes[MAX_ATTRIBUTES][4], param_count;
    uint16_t sizes[MAX_PARAMS];
    uint8_t params[MAX_BYTES];
} Launch;

static uint64_t launch_count, pointer_queries, map_count;
static __thread Launch last;
static int recording = 1, next_result;

EXPORT uint64_t fake_launch_count(void) { return __atomic_load_n(&launch_count, __ATOMIC_RELAXED); }
EXPORT uint64_t fake_pointer_queries(void) { return pointer_queries; }
EXPORT uint64_t fake_map_count(void) { return map_count; }
EXPORT const Launch *fake_last(void) { return &last; }
EXPORT void fake_record(int on) { recording = on; }
EXPORT void fake_fail_next(int result) { next_result = result; }
// The parameter's first eight bytes, for tests that ask after each of very many launches.
EXPORT uint64_t fake_last_param(int i) {
    uint64_t value = 0, at = 0;
    for (int k = 0; k < i; k++) at += last.sizes[k];
    memcpy(&value, last.params + at, last.sizes[i] < 8 ? last.sizes[i] : 8);
    return value;
}

// Count a launch; what it shall answer, 0 unless a test has said so.
static int counted(void) {
    __atomic_add_fetch(&launch_count, 1, __ATOMIC_RELAXED);
    int result = next_result;
    if (result) next_result = 0;
    return result;
}

static void record_params(int count, const uint16_t *sizes, void **params) {
    last.param_count = (uint32_t)count;
    uint8_t *to = last.params;
    for (int i = 0; i < count; to += sizes[i], i++) {
        last.sizes[i] = sizes[i];
        memcpy(to, params[i], sizes[i]);
    }
}
#endif
