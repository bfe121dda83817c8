// DLPack 1.x, declared as far as it is used: https://dmlc.github.io/dlpack/latest/c_api.html
#ifndef GEMS_DLPACK_H
#define GEMS_DLPACK_H
#include <Python.h>
#include <stdint.h>

typedef struct {
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct Exchange {
    uint32_t major, minor;
    struct Exchange *previous;
    void *allocate, *managed_from_python, *managed_to_python;
    int (*borrow)(void *tensor, DLTensor *out);
    int (*current_stream)(int32_t device_type, int32_t device_id, void **out);
} Exchange;

enum { DL_CPU = 1, DL_CUDA = 2, DL_INT = 0, DL_UINT = 1 };

// The part of version 1 in torch's capsule; NULL with ValueError if there is none that lends tensors.
static Exchange *dlpack_exchange(PyObject *capsule) {
    Exchange *found = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    while (found && found->major != 1) found = found->previous;
    if (PyErr_Occurred()) return NULL;
    if (!found || !found->borrow || !found->current_stream) {
        PyErr_SetString(PyExc_ValueError, "torch offers no DLPack 1 exchange of borrowed tensors");
        return NULL;
    }
    return found;
}
#endif
