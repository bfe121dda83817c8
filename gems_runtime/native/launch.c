// The native launch tier: one vectorcall that turns the arguments of `kernel[grid](...)` into a key on the C stack, finds
// the entry that the Python path made for such calls, and calls the driver.
//
// It launches nothing by its own judgement. Every entry says what the Python path launched for the same key; whatever is
// in doubt here (an argument of another type, a hook, a knob, a grid of another form) goes to the Python path, which knows
// when stock Triton must do it. A key here tells apart at least what the Python path's key tells apart.
//
// Everything runs with the GIL held, the driver's call included: releasing it costs 0.1 us alone and 30 us beside a busy
// thread (EPYC, Python 3.11).
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#include "dlpack.h"

// Changes with what the Python side passes and expects.
#define INTERFACE 3
#ifndef SOURCE_HASH
#define SOURCE_HASH ""
#endif
#define MAX_SLOTS 128
#define MAX_RANK 5
#define MAX_MAPS 8
#define MAP_BYTES 128
// A slot takes one word of the key, or two where its value matters; a tensor descriptor takes its block's extents besides;
// one more for the device.
#define MAX_WORDS (2 * MAX_SLOTS + (MAX_RANK + 1) * MAX_MAPS + 1)
#define MAX_INTERNED 65536

// ---- What other libraries lay out in memory, declared as far as it is used.

// The CUDA driver's ABI.
typedef struct {
    uint32_t id, pad;
    union {
        uint32_t cluster[3];
        int32_t on;
        char bytes[64];
    } value;
} Attribute;

typedef struct {
    uint32_t grid[3], block[3], shared;
    void *stream;
    Attribute *attributes;
    uint32_t attribute_count;
} Config;

enum { COOPERATIVE = 2, CLUSTER_DIMENSION = 4, CLUSTER_POLICY = 5, PROGRAMMATIC_SERIALIZATION = 6 };
enum { CLUSTER_SPREAD = 1 };

typedef int (*LaunchKernel)(const Config *, void *function, void **params, void **extra);
typedef int (*ErrorString)(int, const char **);
typedef int (*ContextDevice)(int *);

// HIP's.
typedef int (*LaunchHip)(void *function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x, uint32_t block_y, uint32_t block_z,
                         uint32_t shared, void *stream, void **params, void **extra);
typedef const char *(*ErrorStringHip)(int);

// ---- What the module is told once.

static PyTypeObject *tensor_type, *parameter_type, *dtype_type, *jit_type, *descriptor_type;
// Whether descriptors say round_f32_to_tf32: since Triton 3.7.
static int descriptors_round;
static Exchange *exchange;
static PyObject *interned, *str_current, *str_instrumentation, *str_best_config, *str_dtype, *zero;
static PyObject *str_base, *str_shape, *str_strides, *str_block_shape, *str_padding, *str_round, *str_pre_hook, *str_untyped_storage, *str_size;

// ---- Types

// What an argument is, in the low byte of its key word.
enum { TENSOR = 1, INT, FLOAT, BOOL, NONE, TEXT, OBJECT, EXACT, UNSET, DESCRIPTOR };
enum { INT_ONE, INT_32, INT_64, INT_U64 };
#define INT_CLASS(word) ((word) >> 8 & 3)
#define DIVISIBLE ((uint64_t)1 << 10)
#define ALIGNED ((uint64_t)1 << 8)
#define BOUNDED ((uint64_t)1 << 9)
#define BY_DEFAULT ((uint64_t)1 << 12)

// What the plan says of a slot.
enum { CONSTANT = 1, BY_VALUE = 2, OPTIONAL = 4 };

// How an argument becomes the eight bytes that the driver reads from: the type it becomes, and what it is.
enum { COPY, F16, BF16, F32, F64, MAP };
enum { FROM_DOUBLE = 0, FROM_I64 = 8, FROM_U64 = 16 };

// All that a tensor map is made from besides what the kernel says; hashed and compared as words.
typedef struct {
    uint64_t address;
    int64_t extents[MAX_RANK], strides[MAX_RANK];
    uint32_t rank;
    uint8_t index, nan_padding, rounds, pad;  // index: among the kernel's descriptors
} Map;
#define MAP_WORDS (sizeof(Map) / 8)

typedef struct {
    uint64_t words[MAX_WORDS];
    int n, device, map_count;
    PyObject *values[MAX_SLOTS];
    uint64_t raw[MAX_SLOTS];       // pointer, integer, bits of a double, or number of the map
    uint64_t kind_words[MAX_SLOTS];
    Map maps[MAX_MAPS];
} Call;

#define MEMO_WORDS 24
#define MEMO_READS 8
#define MEMO_LIMIT 1024

// What Python once answered: the dimensions that a callable grid gave, or the bytes of a tensor map.
typedef struct {
    PyObject *code;  // owned; the grid's, NULL for a map
    uint64_t words[MEMO_WORDS];
    int n;  // 0 in a free place
    union {
        int64_t dims[3];
        uint8_t map[MAP_BYTES];
    } is;
} Answer;

typedef struct {
    Answer *places;
    uint32_t size, count;
} Memo;

typedef struct {
    uint64_t hash, *words;
    int n;
    uint32_t retry, wait;  // without a kernel: ask the Python side again after so many calls; 0 is never
    PyObject *kernel, *record, *config, *supplied;  // owned; no kernel: such calls belong to the Python path
    void *function;
    uint32_t threads, shared, clusters, attribute_count;
    Attribute attributes[4];
    int argument_count;
    uint8_t *slots, *how;
    uint8_t reads[MEMO_READS];  // slots that callable grids have read
    int read_count;
    Memo grids, maps;
    PyObject *live_grid;  // owned; code of the last grid that must be asked each time
    uint64_t *after;      // the key once the config's pre_hook has run; NULL: the same
    int after_n;
} Entry;

typedef struct {
    PyObject *names;  // owned tuple
    int n;
    uint8_t slots[MAX_SLOTS];
} Keywords;

typedef struct {
    PyObject_HEAD
    int slot_count, named_count, positional, param_count, device_type;
    int is_cuda;  // device and stream are torch's own on CUDA
    int is_hip;   // the driver's functions are HIP's
    int bounded;  // whether a tensor's storage is below 2 GiB chooses the kernel
    uint8_t flags[MAX_SLOTS];
    PyObject *names, *defaults;          // one per slot
    PyObject *params;                    // all parameters of the kernel by name, for callable grids
    int16_t param_slots[2 * MAX_SLOTS];  // -1: given by a config or heuristic
    PyObject *runtime, *runtime_seen, *compilation, *hooks[3], *settings, *settings_seen, *globals;
    PyObject *current_device, *stream, *tuner, *exact, *answer, *encode;
    PyObject *before;  // what calls a config's pre_hook; None where no config has one
    PyObject *live;    // (name, heuristic) pairs to evaluate on each call, because they read tensors
    void (*launch)(void), (*error_string)(void);  // CUDA's or HIP's
    ContextDevice context_device;
    Keywords keywords[4];
    int next_keywords;
    Entry **table, *last;
    uint32_t size, count, limit;
} Plan;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Plan *plan;  // NULL: every call goes to the fallback
    PyObject *fallback, *learn;
    unsigned long long hits;
} Launcher;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Launcher *launcher;
    PyObject *grid;
} Bound;

static PyTypeObject PlanType, LauncherType, BoundType;

// ---- Keys

static inline uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

// A number that equal values share, or 0 if there is none to give.
static uint64_t intern(PyObject *value) {
    PyObject *known = PyDict_GetItemWithError(interned, value);
    if (known) return PyLong_AsUnsignedLongLong(known);
    if (PyErr_Occurred() || PyDict_GET_SIZE(interned) >= MAX_INTERNED) {
        PyErr_Clear();
        return 0;
    }
    PyObject *number = PyLong_FromSsize_t(PyDict_GET_SIZE(interned) + 1);
    if (!number || PyDict_SetItem(interned, value, number) < 0) {
        Py_XDECREF(number);
        PyErr_Clear();
        return 0;
    }
    uint64_t found = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return found;
}

// An int of one digit, which nearly all are, without a call; 0 for others.
static inline int small_int(PyObject *value, long long *number) {
    PyLongObject *digits = (PyLongObject *)value;
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact(digits)) return 0;
    *number = PyUnstable_Long_CompactValue(digits);
#else
    Py_ssize_t size = Py_SIZE(digits);
    if (size < -1 || size > 1) return 0;
    *number = size ? size * (long long)digits->ob_digit[0] : 0;
#endif
    return 1;
}

// Word and value of an exact int; 0 if it fits no width that Triton has.
static inline uint64_t int_word(PyObject *value, uint64_t *raw) {
    int overflow = 0;
    long long number;
    if (!small_int(value, &number)) number = PyLong_AsLongLongAndOverflow(value, &overflow);
    *raw = (uint64_t)number;
    if (!overflow) {
        uint64_t class = number == 1 ? INT_ONE : number == (int32_t)number ? INT_32 : INT_64;
        return INT | class << 8 | (number % 16 ? 0 : DIVISIBLE);
    }
    if (overflow < 0) return 0;
    unsigned long long wide = PyLong_AsUnsignedLongLong(value);
    if (wide == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    *raw = wide;
    return INT | (uint64_t)INT_U64 << 8 | (wide % 16 ? 0 : DIVISIBLE);
}

// Whether the memory that a tensor lies in is below 2 GiB, as Triton asks for AMD; -1 with an exception set.
static int is_bounded(PyObject *tensor) {
    PyObject *storage = PyObject_CallMethodNoArgs(tensor, str_untyped_storage);
    PyObject *size = storage ? PyObject_CallMethodNoArgs(storage, str_size) : NULL;
    long long bytes = size ? PyLong_AsLongLong(size) : -1;
    Py_XDECREF(storage), Py_XDECREF(size);
    return bytes < 0 ? -1 : bytes <= INT32_MAX;
}

// A tensor of the plan's device with memory of its own; 0 if it is anything else.
static inline int add_tensor(const Plan *plan, Call *call, int slot, PyObject *value) {
    DLTensor t;
    if (plan->flags[slot] & BY_VALUE) return 0;
    if (exchange->borrow(value, &t)) {
        PyErr_Clear();
        return 0;
    }
    if (t.device_type != plan->device_type || (t.device_type != DL_CPU && t.device_id != call->device)) return 0;
    if (!t.data) {
        // Without elements it has no address; with elements it is one of torch's wrappers.
        int empty = 0;
        for (int i = 0; i < t.ndim; i++) empty |= t.shape[i] == 0;
        if (!empty) return 0;
    }
    uint64_t address = t.data ? (uint64_t)(uintptr_t)t.data + t.byte_offset : 0;
    uint64_t word = TENSOR | (address % 16 ? 0 : ALIGNED) | (uint64_t)t.code << 16 | (uint64_t)t.bits << 24 | (uint64_t)t.lanes << 32;
    if (plan->bounded) {
        int bounded = is_bounded(value);
        if (bounded < 0) {
            PyErr_Clear();
            return 0;
        }
        word |= bounded ? BOUNDED : 0;
    }
    call->raw[slot] = address;
    call->kind_words[slot] = call->words[call->n++] = word;
    if (t.bits == 8 && (t.code == DL_INT || t.code == DL_UINT)) {
        // torch's integers of 1 to 7 bits say 8 here.
        PyObject *dtype = PyObject_GetAttr(value, str_dtype);
        if (!dtype) {
            PyErr_Clear();
            return 0;
        }
        call->words[call->n++] = (uint64_t)(uintptr_t)dtype;
        // torch.dtype objects live as long as torch.
        Py_DECREF(dtype);
    }
    return 1;
}

// The numbers of a tuple or list of exact ints; their count, or -1.
static int numbers_of(PyObject *from, int64_t *out) {
    if (!from || !(PyTuple_Check(from) || PyList_Check(from))) return -1;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(from);
    if (n < 1 || n > MAX_RANK) return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(from, i);
        uint64_t number;
        if (!PyLong_CheckExact(item)) return -1;
        uint64_t word = int_word(item, &number);
        if (!word || INT_CLASS(word) == INT_U64) return -1;
        out[i] = (int64_t)number;
    }
    return (int)n;
}

// What a tensor descriptor says of its map and block; the rank, or -1 if that is not plain.
static int read_descriptor(PyObject *value, Map *map, int64_t *block) {
    PyObject *shape = PyObject_GetAttr(value, str_shape), *strides = PyObject_GetAttr(value, str_strides);
    PyObject *blocks = PyObject_GetAttr(value, str_block_shape), *padding = PyObject_GetAttr(value, str_padding);
    PyObject *rounds = descriptors_round ? PyObject_GetAttr(value, str_round) : Py_NewRef(Py_False);
    int rank = numbers_of(shape, map->extents), is_text = padding && PyUnicode_CheckExact(padding);
    if (rank != numbers_of(strides, map->strides) || rank != numbers_of(blocks, block)) rank = -1;
    // The launcher passes extents as 32 bits, and is not of one mind about wider ones.
    for (int i = 0; i < rank; i++)
        if (map->extents[i] != (int32_t)map->extents[i]) rank = -1;
    map->nan_padding = is_text && !PyUnicode_CompareWithASCIIString(padding, "nan");
    if (!is_text || !(map->nan_padding || !PyUnicode_CompareWithASCIIString(padding, "zero"))) rank = -1;
    map->rounds = rounds == Py_True;
    if (rounds != Py_True && rounds != Py_False) rank = -1;
    Py_XDECREF(shape), Py_XDECREF(strides), Py_XDECREF(blocks), Py_XDECREF(padding), Py_XDECREF(rounds);
    return rank;
}

// A tensor descriptor: Triton compiles by the type and the block; the rest says what map it becomes. 0: not for this tier.
static int add_descriptor(const Plan *plan, Call *call, int slot, PyObject *value) {
    if (call->map_count == MAX_MAPS) return 0;
    PyObject *base = PyObject_GetAttr(value, str_base);
    int is_plain = base && Py_TYPE(base) == tensor_type && add_tensor(plan, call, slot, base);
    Py_XDECREF(base);
    int64_t block[MAX_RANK];
    Map *map = &call->maps[call->map_count];
    memset(map, 0, sizeof *map);
    int rank = is_plain ? read_descriptor(value, map, block) : -1;
    if (rank < 0) {
        PyErr_Clear();
        return 0;
    }
    map->address = call->raw[slot], map->rank = (uint32_t)rank, map->index = (uint8_t)call->map_count;
    call->raw[slot] = (uint64_t)call->map_count++;
    call->kind_words[slot] = call->words[call->n++] = DESCRIPTOR | (uint64_t)rank << 8;
    for (int i = 0; i < rank; i++) call->words[call->n++] = (uint64_t)block[i];
    return 1;
}

// A run-time argument: its class is in the key, its value if the plan says so. 0: not for this tier.
static inline int add_runtime(const Plan *plan, Call *call, int slot, PyObject *value, uint64_t by_default) {
    PyTypeObject *type = Py_TYPE(value);
    uint64_t word;
    if (type == tensor_type || type == parameter_type) return add_tensor(plan, call, slot, value);
    if (type == &PyLong_Type) {
        word = int_word(value, &call->raw[slot]);
        if (!word) return 0;
    } else if (type == &PyFloat_Type) {
        word = FLOAT;
        call->raw[slot] = bits_of(PyFloat_AS_DOUBLE(value));
    } else if (type == &PyBool_Type) {
        word = BOOL;
        call->raw[slot] = value == Py_True;
    } else if (value == Py_None) {
        word = NONE;
        call->raw[slot] = 0;
    } else {
        return type == descriptor_type && add_descriptor(plan, call, slot, value);
    }
    word |= by_default;
    call->kind_words[slot] = call->words[call->n++] = word;
    if (plan->flags[slot] & BY_VALUE) call->words[call->n++] = call->raw[slot];
    return 1;
}

// A constexpr or option: in the key by type and value. 0: not for this tier.
static inline int add_constant(const Plan *plan, Call *call, uint64_t *kind_word, PyObject *value) {
    PyTypeObject *type = Py_TYPE(value);
    uint64_t word, content;
    if (type == &PyLong_Type) {
        word = int_word(value, &content);
        if (!word) return 0;
    } else if (type == &PyBool_Type) {
        word = BOOL, content = value == Py_True;
    } else if (value == Py_None) {
        word = NONE, content = 0;
    } else if (type == &PyFloat_Type) {
        word = FLOAT, content = bits_of(PyFloat_AS_DOUBLE(value));
    } else if (type == &PyUnicode_Type) {
        word = TEXT, content = intern(value);
        if (!content) return 0;
    } else if (type == dtype_type || type == jit_type) {
        // The entry made under this key keeps the object alive.
        word = OBJECT, content = (uint64_t)(uintptr_t)value;
    } else {
        PyObject *key = PyObject_CallOneArg(plan->exact, value);
        word = EXACT, content = key ? intern(key) : 0;
        Py_XDECREF(key);
        if (!content) {
            PyErr_Clear();
            return 0;
        }
    }
    *kind_word = call->words[call->n++] = word;
    call->words[call->n++] = content;
    return 1;
}

// Slots of the keyword arguments, remembered by the tuple of names that a call site always passes; NULL if one is unknown.
static const uint8_t *keyword_slots(Plan *plan, PyObject *names) {
    Py_ssize_t n = PyTuple_GET_SIZE(names);
    for (int i = 0; i < 4; i++)
        if (plan->keywords[i].names == names) return plan->keywords[i].slots;
    // A call of very many arguments, or one with **, makes a new tuple of the same names each time.
    for (int i = 0; i < 4; i++) {
        PyObject *known = plan->keywords[i].names;
        if (known && PyTuple_GET_SIZE(known) == n && !memcmp(&PyTuple_GET_ITEM(known, 0), &PyTuple_GET_ITEM(names, 0), n * sizeof known))
            return plan->keywords[i].slots;
    }
    uint8_t slots[MAX_SLOTS];
    if (n > MAX_SLOTS) return NULL;
    // The same objects first, and after the one found last.
    for (Py_ssize_t k = 0, from = 0; k < n; k++) {
        PyObject *name = PyTuple_GET_ITEM(names, k);
        int slot = -1;
        for (int i = 0; i < plan->slot_count && slot < 0; i++) {
            int at = (int)from + i < plan->slot_count ? (int)from + i : (int)from + i - plan->slot_count;
            if (PyTuple_GET_ITEM(plan->names, at) == name) slot = at;
        }
        for (int i = 0; i < plan->slot_count && slot < 0; i++)
            if (!PyUnicode_Compare(PyTuple_GET_ITEM(plan->names, i), name)) slot = i;
        if (slot < 0) return NULL;
        slots[k] = (uint8_t)slot;
        from = slot + 1;
    }
    Keywords *place = &plan->keywords[plan->next_keywords++ % 4];
    Py_INCREF(names);
    Py_XSETREF(place->names, names);
    memcpy(place->slots, slots, n);
    return place->slots;
}

// The arguments by slot; 0 if the call is wrong.
static inline int bind(Plan *plan, Call *call, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    if (nargs > plan->positional) return 0;
    memcpy(call->values, args, nargs * sizeof *args);
    memset(call->values + nargs, 0, (plan->slot_count - nargs) * sizeof *args);
    if (kwnames && PyTuple_GET_SIZE(kwnames)) {
        const uint8_t *slots = keyword_slots(plan, kwnames);
        if (!slots) return 0;
        Py_ssize_t n = PyTuple_GET_SIZE(kwnames);
        for (Py_ssize_t k = 0; k < n; k++) {
            if (call->values[slots[k]]) return 0;
            call->values[slots[k]] = args[nargs + k];
        }
    }
    return 1;
}

// What the caller passed, by name: all of it, or (`options` 0) the kernel's parameters alone.
static PyObject *passed_values(const Plan *plan, const Call *call, int options) {
    PyObject *values = PyDict_New();
    int n = options ? plan->slot_count : plan->named_count;
    for (int slot = 0; values && slot < n; slot++) {
        if (!call->values[slot] || call->kind_words[slot] & BY_DEFAULT) continue;
        if (PyDict_SetItem(values, PyTuple_GET_ITEM(plan->names, slot), call->values[slot]) < 0) Py_CLEAR(values);
    }
    return values;
}

// Evaluate the heuristics that read tensors; what they give is in the key. 0 if one raised or gave what has no key: the
// Python path evaluates it again and knows what to do.
static int add_live(const Plan *plan, Call *call) {
    PyObject *values = passed_values(plan, call, 0);
    int ok = values != NULL;
    for (Py_ssize_t i = 0; ok && i < PyTuple_GET_SIZE(plan->live); i++) {
        PyObject *pair = PyTuple_GET_ITEM(plan->live, i);
        PyObject *given = PyObject_CallOneArg(PyTuple_GET_ITEM(pair, 1), values);
        uint64_t word;
        ok = given && add_constant(plan, call, &word, given) && !PyDict_SetItem(values, PyTuple_GET_ITEM(pair, 0), given);
        Py_XDECREF(given);
    }
    Py_XDECREF(values);
    if (!ok) PyErr_Clear();
    return ok;
}

static inline int build_key(const Plan *plan, Call *call) {
    call->words[0] = (uint64_t)call->device;
    call->n = 1, call->map_count = 0;
    for (int slot = 0; slot < plan->slot_count; slot++) {
        PyObject *value = call->values[slot];
        int flags = plan->flags[slot], added;
        if (value) {
            added = flags & CONSTANT ? add_constant(plan, call, &call->kind_words[slot], value) : add_runtime(plan, call, slot, value, 0);
        } else if (!(flags & OPTIONAL)) {
            return 0;
        } else if (flags & CONSTANT) {
            call->kind_words[slot] = call->words[call->n++] = UNSET;
            added = 1;
        } else {
            call->values[slot] = PyTuple_GET_ITEM(plan->defaults, slot);
            added = add_runtime(plan, call, slot, call->values[slot], BY_DEFAULT);
        }
        if (!added) return 0;
    }
    return !PyTuple_GET_SIZE(plan->live) || add_live(plan, call);
}

// Four lanes: the multiplications of one would wait for each other.
static uint64_t hash_words(const uint64_t *words, int n) {
    uint64_t lanes[4] = {(uint64_t)n, 1, 2, 3};
    for (int i = 0; i < n; i++) {
        uint64_t mixed = (lanes[i & 3] ^ words[i]) * 0x9E3779B97F4A7C15u;
        lanes[i & 3] = mixed ^ mixed >> 29;
    }
    uint64_t hash = ((lanes[0] * 31 + lanes[1]) * 31 + lanes[2]) * 31 + lanes[3];
    return hash ^ hash >> 32;
}

// ---- The table

static inline int matches(const Entry *entry, const Call *call) {
    return entry->n == call->n && !memcmp(entry->words, call->words, call->n * sizeof *call->words);
}

static inline Entry *find(Plan *plan, const Call *call) {
    if (plan->last && matches(plan->last, call)) return plan->last;
    if (!plan->size) return NULL;
    uint64_t hash = hash_words(call->words, call->n);
    for (uint32_t i = (uint32_t)hash & (plan->size - 1); plan->table[i]; i = (i + 1) & (plan->size - 1))
        if (plan->table[i]->hash == hash && matches(plan->table[i], call)) return plan->last = plan->table[i];
    return NULL;
}

static void place(Plan *plan, Entry *entry) {
    uint32_t i = (uint32_t)entry->hash & (plan->size - 1);
    while (plan->table[i]) i = (i + 1) & (plan->size - 1);
    plan->table[i] = entry;
}

static int grow(Plan *plan) {
    uint32_t before = plan->size, size = before ? 2 * before : 16;
    Entry **old = plan->table, **table = PyMem_Calloc(size, sizeof *table);
    if (!table) return 0;
    plan->table = table, plan->size = size;
    for (uint32_t i = 0; i < before; i++)
        if (old[i]) place(plan, old[i]);
    PyMem_Free(old);
    return 1;
}

// A new entry without a kernel, or the one that is there; NULL if there is no room.
static Entry *add(Plan *plan, const Call *call) {
    Entry *entry = find(plan, call);
    if (entry) return entry;
    if (plan->count >= plan->limit || (2 * plan->count >= plan->size && !grow(plan))) return NULL;
    entry = PyMem_Calloc(1, sizeof *entry);
    uint64_t *words = entry ? PyMem_Malloc(call->n * sizeof *words) : NULL;
    if (!words) {
        PyMem_Free(entry);
        return NULL;
    }
    memcpy(words, call->words, call->n * sizeof *words);
    entry->words = words, entry->n = call->n, entry->hash = hash_words(words, call->n);
    plan->count++;
    place(plan, entry);
    return entry;
}

// ---- What was asked once

// Where an answer is remembered, or the free place where it would be; a table is never full.
static inline Answer *memo_place(const Memo *memo, const Answer *key) {
    uint64_t hash = hash_words(key->words, key->n) ^ (uint64_t)(uintptr_t)key->code >> 4;
    uint32_t i = (uint32_t)(hash ^ hash >> 16) & (memo->size - 1);
    for (;; i = (i + 1) & (memo->size - 1)) {
        Answer *at = &memo->places[i];
        if (!at->n || (at->code == key->code && at->n == key->n && !memcmp(at->words, key->words, key->n * sizeof *key->words))) return at;
    }
}

static inline const Answer *recall(const Memo *memo, const Answer *key) {
    const Answer *found = memo->size ? memo_place(memo, key) : NULL;
    return found && found->n ? found : NULL;
}

static void forget(Memo *memo) {
    Memo old = *memo;
    memset(memo, 0, sizeof *memo);
    for (uint32_t i = 0; i < old.size; i++) Py_XDECREF(old.places[i].code);
    PyMem_Free(old.places);
}

static void remember(Memo *memo, const Answer *answer) {
    if (4 * (memo->count + 1) > 3 * memo->size) {
        // At the limit all are asked again, rather than each in turn pushing out one that is in use.
        if (memo->size == MEMO_LIMIT) forget(memo);
        Memo old = *memo, grown = {NULL, old.size ? 2 * old.size : 4, old.count};
        if (!(grown.places = PyMem_Calloc(grown.size, sizeof *grown.places))) return;
        for (uint32_t i = 0; i < old.size; i++)
            if (old.places[i].n) *memo_place(&grown, &old.places[i]) = old.places[i];
        PyMem_Free(old.places);
        *memo = grown;
    }
    Answer *to = memo_place(memo, answer);
    // Asking may have run a launch that was answered the same.
    if (to->n) return;
    *to = *answer;
    Py_XINCREF(to->code);
    memo->count++;
}

static void free_entry(Entry *entry) {
    forget(&entry->grids);
    forget(&entry->maps);
    Py_XDECREF(entry->live_grid);
    Py_XDECREF(entry->kernel);
    Py_XDECREF(entry->record);
    Py_XDECREF(entry->config);
    Py_XDECREF(entry->supplied);
    PyMem_Free(entry->after);
    PyMem_Free(entry->slots);
    PyMem_Free(entry->words);
    PyMem_Free(entry);
}

// ---- What the Python side says of a call: an entry's contents

// How an argument of this kind is packed for a parameter of this type; -1 if only the Python path knows: stock Triton's
// launchers differ in what they make of an integer that the type does not hold.
static int packing(const char *type, uint64_t word) {
    static const struct { const char *name; int to; } floats[] = {{"fp16", F16}, {"bf16", BF16}, {"fp32", F32}, {"f32", F32}, {"fp64", F64}};
    int kind = word & 255, class = INT_CLASS(word);
    if (type[0] == '*') return kind == TENSOR ? COPY : -1;
    if (kind == DESCRIPTOR) return !strncmp(type, "tensordesc<", 11) ? MAP : -1;
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        if (strcmp(type, floats[i].name)) continue;
        if (kind == FLOAT) return floats[i].to | FROM_DOUBLE;
        if (kind == BOOL) return floats[i].to | FROM_I64;
        return kind == INT ? floats[i].to | (class == INT_U64 ? FROM_U64 : FROM_I64) : -1;
    }
    if (!strcmp(type, "u1") || !strcmp(type, "i1")) return kind == BOOL ? COPY : -1;
    if (kind == BOOL) return !strcmp(type, "i32") || !strcmp(type, "i64") ? COPY : -1;
    if (kind != INT) return -1;
    if (!strcmp(type, "i32")) return class <= INT_32 ? COPY : -1;
    if (!strcmp(type, "i64")) return class <= INT_64 ? COPY : -1;
    return !strcmp(type, "u64") && class == INT_U64 ? COPY : -1;
}

// A float's bits as the parameter's type has them; 0 with an exception set if a half cannot hold it.
static int pack_float(uint64_t raw, int how, uint64_t *out) {
    double number;
    uint16_t half = 0;
    uint32_t single;
    if (how & FROM_I64) number = (double)(int64_t)raw;
    else if (how & FROM_U64) number = (double)raw;
    else memcpy(&number, &raw, 8);
    float narrow = (float)number;
    memcpy(&single, &narrow, 4);
    switch (how & 7) {
    case F64: *out = bits_of(number); return 1;
    case F32: *out = single; return 1;
    case BF16: *out = single >> 16; return 1;
    default:
#if PY_VERSION_HEX >= 0x030B0000
        if (PyFloat_Pack2(number, (char *)&half, PY_LITTLE_ENDIAN)) return 0;
#else
        if (_PyFloat_Pack2(number, (unsigned char *)&half, PY_LITTLE_ENDIAN)) return 0;
#endif
        *out = half;
        return 1;
    }
}

static void set_attributes(Entry *entry, int cooperative, int serialize) {
    Attribute *a = entry->attributes;
    if (serialize) *a++ = (Attribute){.id = PROGRAMMATIC_SERIALIZATION, .value.on = 1};
    if (cooperative) *a++ = (Attribute){.id = COOPERATIVE, .value.on = 1};
    if (entry->clusters != 1) {
        *a++ = (Attribute){.id = CLUSTER_DIMENSION, .value.cluster = {entry->clusters, 1, 1}};
        *a++ = (Attribute){.id = CLUSTER_POLICY, .value.on = CLUSTER_SPREAD};
    }
    entry->attribute_count = (uint32_t)(a - entry->attributes);
}

// Fill an entry from (kernel, function, threads, shared, clusters, cooperative, serialize, arguments, config, supplied,
// record), arguments being (slot, type) pairs. 0 if an argument is of a type that only the Python path packs.
static int fill(Entry *entry, const Call *call, PyObject *from) {
    PyObject *kernel, *arguments, *config, *supplied, *record;
    unsigned long long function;
    int cooperative, serialize;
    if (!PyArg_ParseTuple(from, "OKIIIppO!OO!O", &kernel, &function, &entry->threads, &entry->shared, &entry->clusters, &cooperative,
                          &serialize, &PyTuple_Type, &arguments, &config, &PyDict_Type, &supplied, &record))
        return 0;
    Py_ssize_t n = PyTuple_GET_SIZE(arguments);
    uint8_t *slots = PyMem_Malloc(2 * n + 1), *how = slots + n;
    if (!slots) return 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        int slot;
        const char *type;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(arguments, i), "is", &slot, &type)) goto unknown;
        int packing_ = packing(type, call->kind_words[slot]);
        if (packing_ < 0) goto unknown;
        slots[i] = (uint8_t)slot, how[i] = (uint8_t)packing_;
    }
    entry->slots = slots, entry->how = how, entry->argument_count = (int)n;
    entry->function = (void *)(uintptr_t)function;
    set_attributes(entry, cooperative, serialize);
    Py_INCREF(config), Py_INCREF(supplied), Py_INCREF(record), Py_INCREF(kernel);
    entry->config = config, entry->supplied = supplied, entry->record = record, entry->kernel = kernel;
    return 1;
unknown:
    PyMem_Free(slots);
    return 0;
}

// ---- Tensor maps

// The map's bytes, made by Triton where they are not remembered; 0 with an exception set.
static int encode_map(const Plan *plan, Entry *entry, const Map *map, PyObject *descriptor, uint8_t *out) {
    Answer key = {.code = NULL, .n = MAP_WORDS};
    memcpy(key.words, map, sizeof *map);
    const Answer *known = recall(&entry->maps, &key);
    if (known) {
        memcpy(out, known->is.map, MAP_BYTES);
        return 1;
    }
    PyObject *made = PyObject_CallFunction(plan->encode, "OiO", entry->kernel, (int)map->index, descriptor);
    if (!made) return 0;
    int fits = PyBytes_Check(made) && PyBytes_GET_SIZE(made) == MAP_BYTES;
    if (fits) {
        memcpy(out, PyBytes_AS_STRING(made), MAP_BYTES);
        memcpy(key.is.map, out, MAP_BYTES);
        remember(&entry->maps, &key);
    } else {
        PyErr_SetString(PyExc_TypeError, "a tensor map has 128 bytes");
    }
    Py_DECREF(made);
    return fits;
}

// ---- Grids

// One number of a grid as `PyArg_ParseTuple("i")` in Triton's launcher reads it; 0 with an exception set.
static int grid_number(PyObject *value, int64_t *out) {
    long number = PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred()) return 0;
    if (number != (int32_t)number) {
        PyErr_SetString(PyExc_OverflowError, number > 0 ? "signed integer is greater than maximum" : "signed integer is less than minimum");
        return 0;
    }
    *out = number;
    return 1;
}

// A plain tuple or list of exact ints; 0 for anything else.
static inline int plain_dims(PyObject *grid, int64_t *dims) {
    Py_ssize_t n;
    PyObject **items;
    if (PyTuple_CheckExact(grid)) n = PyTuple_GET_SIZE(grid), items = &PyTuple_GET_ITEM(grid, 0);
    else if (PyList_CheckExact(grid)) n = PyList_GET_SIZE(grid), items = &PyList_GET_ITEM(grid, 0);
    else return 0;
    if (n == 0) return 0;
    for (int i = 0; i < 3; i++) {
        if (i >= n) {
            dims[i] = 1;
            continue;
        }
        int overflow;
        if (!PyLong_CheckExact(items[i])) return 0;
        long number = PyLong_AsLongAndOverflow(items[i], &overflow);
        if (overflow || number != (int32_t)number) return 0;
        dims[i] = number;
    }
    return 1;
}

// What the answer of a grid function depends on besides what belongs to the entry; 0 if it cannot be written down.
static int memo_key(const Entry *entry, const Call *call, PyObject *grid, Answer *out) {
    PyObject *cells = PyFunction_GET_CLOSURE(grid);
    Py_ssize_t n = cells ? PyTuple_GET_SIZE(cells) : 0;
    if (PyFunction_GET_DEFAULTS(grid) || PyFunction_GET_KW_DEFAULTS(grid)) return 0;
    if (1 + 2 * n + entry->read_count > MEMO_WORDS) return 0;
    out->code = PyFunction_GET_CODE(grid);
    uint64_t *word = out->words;
    *word++ = (uint64_t)(uintptr_t)PyFunction_GET_GLOBALS(grid);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *value = PyCell_GET(PyTuple_GET_ITEM(cells, i));
        if (!value) return 0;
        PyTypeObject *type = Py_TYPE(value);
        if (type == &PyLong_Type) {
            if (!(word[0] = int_word(value, &word[1]))) return 0;
        } else if (type == &PyBool_Type) {
            word[0] = BOOL, word[1] = value == Py_True;
        } else if (value == Py_None) {
            word[0] = NONE, word[1] = 0;
        } else if (type == &PyFloat_Type) {
            word[0] = FLOAT, word[1] = bits_of(PyFloat_AS_DOUBLE(value));
        } else if (type == &PyUnicode_Type) {
            word[0] = TEXT;
            if (!(word[1] = intern(value))) return 0;
        } else {
            return 0;
        }
        word += 2;
    }
    for (int i = 0; i < entry->read_count; i++) *word++ = call->raw[entry->reads[i]];
    out->n = (int)(word - out->words);
    return 1;
}

// Add the slots that a grid has read to those the entry's answers depend on; 0 if one is no number.
static int note_reads(const Plan *plan, Entry *entry, const Call *call, PyObject *names) {
    uint8_t fresh[MAX_SLOTS];
    int n = 0;
    for (int p = 0; p < plan->param_count; p++) {
        int slot = plan->param_slots[p];
        // Constants, and values that are in the key, belong to the entry.
        if (slot < 0 || plan->flags[slot] & (CONSTANT | BY_VALUE)) continue;
        int has = PySet_Contains(names, PyTuple_GET_ITEM(plan->params, p));
        if (has < 0) return 0;
        int kind = call->kind_words[slot] & 255;
        if (!has || kind == NONE) continue;
        if (kind != INT && kind != BOOL && kind != FLOAT) return 0;
        if (!memchr(entry->reads, slot, entry->read_count)) fresh[n++] = (uint8_t)slot;
    }
    if (!n) return 1;
    if (entry->read_count + n > MEMO_READS) return 0;
    memcpy(entry->reads + entry->read_count, fresh, n);
    entry->read_count += n;
    // Answers from before do not say what these were.
    forget(&entry->grids);
    return 1;
}

// What stock Triton shows a callable grid.
static PyObject *grid_argument(const Plan *plan, const Entry *entry, const Call *call) {
    PyObject *values = PyDict_New();
    for (int p = 0; values && p < plan->param_count; p++) {
        PyObject *name = PyTuple_GET_ITEM(plan->params, p);
        int slot = plan->param_slots[p];
        PyObject *value = slot < 0 ? PyDict_GetItemWithError(entry->supplied, name) : call->values[slot];
        if (slot >= 0 && !value) value = PyTuple_GET_ITEM(plan->defaults, slot);
        if (!value || PyDict_SetItem(values, name, value) < 0) {
            if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, name);
            Py_CLEAR(values);
        }
    }
    return values;
}

// The answer of a grid function, remembered or asked for; 0 with an exception set.
static int function_dims(const Plan *plan, Entry *entry, const Call *call, PyObject *grid, int64_t *dims) {
    Answer key;
    int may_remember = PyFunction_GET_CODE(grid) != entry->live_grid && memo_key(entry, call, grid, &key);
    const Answer *known = may_remember ? recall(&entry->grids, &key) : NULL;
    if (known) {
        memcpy(dims, known->is.dims, sizeof known->is.dims);
        return 1;
    }
    PyObject *values = grid_argument(plan, entry, call);
    if (!values) return 0;
    PyObject *found = PyObject_CallFunctionObjArgs(plan->answer, grid, values, may_remember ? Py_True : Py_False, NULL);
    Py_DECREF(values);
    if (!found) return 0;
    PyObject *numbers[3], *names;
    int ok = PyArg_ParseTuple(found, "(OOO)O", &numbers[0], &numbers[1], &numbers[2], &names);
    for (int i = 0; ok && i < 3; i++) ok = grid_number(numbers[i], &dims[i]);
    if (ok && may_remember) {
        if (names != Py_None && note_reads(plan, entry, call, names) && memo_key(entry, call, grid, &key)) {
            memcpy(key.is.dims, dims, sizeof key.is.dims);
            remember(&entry->grids, &key);
        } else {
            PyErr_Clear();
            Py_INCREF(PyFunction_GET_CODE(grid));
            Py_XSETREF(entry->live_grid, PyFunction_GET_CODE(grid));
        }
    }
    Py_DECREF(found);
    return ok;
}

// ---- The launch

static inline int guards_hold(const Plan *plan) {
    if (plan->runtime_seen) {
        int same = PyObject_RichCompareBool(plan->runtime, plan->runtime_seen, Py_EQ);
        if (same != 1) {
            PyErr_Clear();
            return 0;
        }
    } else if (PyDict_GET_SIZE(plan->runtime)) {
        return 0;
    }
    for (int i = 0; i < 3; i++)
        if (PyList_GET_SIZE(plan->hooks[i])) return 0;
    if (PyDict_GET_SIZE(plan->compilation) && PyDict_Contains(plan->compilation, str_instrumentation)) return 0;
    if (PyDict_GetItemWithError(plan->settings, str_current) != plan->settings_seen) return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(plan->globals); i++) {
        PyObject *watched = PyTuple_GET_ITEM(plan->globals, i);
        PyObject *now = PyDict_GetItemWithError(PyTuple_GET_ITEM(watched, 0), PyTuple_GET_ITEM(watched, 1));
        PyObject *then = PyTuple_GET_ITEM(watched, 2);
        // A name that was not there is watched as None.
        if (now != then && (now || then != Py_None)) return 0;
    }
    return 1;
}

// The current device's ordinal; 0 if it cannot be told.
static inline int read_device(const Plan *plan, int *device) {
    if (plan->is_cuda) return plan->context_device(device) == 0;
    *device = 0;
    if (plan->current_device == Py_None) return 1;
    PyObject *number = PyObject_CallNoArgs(plan->current_device);
    *device = number ? (int)PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return 1;
}

// The current stream of the device; 0 with an exception set.
static inline int read_stream(const Plan *plan, int device, void **stream) {
    if (plan->is_cuda) {
        if (!exchange->current_stream(DL_CUDA, device, stream)) return 1;
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "torch gave no current stream");
        return 0;
    }
    PyObject *ordinal = device ? PyLong_FromLong(device) : Py_NewRef(zero);
    PyObject *handle = ordinal ? PyObject_CallOneArg(plan->stream, ordinal) : NULL;
    Py_XDECREF(ordinal);
    if (!handle) return 0;
    *stream = (void *)(uintptr_t)PyLong_AsUnsignedLongLongMask(handle);
    Py_DECREF(handle);
    return !PyErr_Occurred();
}

static PyObject *raise_driver_error(const Plan *plan, int code) {
    const char *text = NULL;
    if (plan->is_hip) {
        text = ((ErrorStringHip)plan->error_string)(code);
        // As Triton's launcher spells it.
        return PyErr_Format(PyExc_RuntimeError, "Triton Error [HIP]:  Code: %d, Messsage: %s", code, text ? text : "unknown error");
    }
    ((ErrorString)plan->error_string)(code, &text);
    return PyErr_Format(PyExc_RuntimeError, "Triton Error [CUDA]: %s", text ? text : "unknown error");
}

// What HIP answers. Stock Triton asks for the product not to be zero: one number below zero is for HIP to refuse.
static int launch_hip(const Plan *plan, const Entry *entry, const int64_t *dims, void *stream, void **params) {
    if (!dims[0] || !dims[1] || !dims[2] || (dims[0] < 0) + (dims[1] < 0) + (dims[2] < 0) == 2) return 0;
    return ((LaunchHip)plan->launch)(entry->function, (uint32_t)dims[0], (uint32_t)dims[1], (uint32_t)dims[2], entry->threads, 1, 1, entry->shared, stream,
                                     params, NULL);
}

// Launch an entry: the kernel, or NULL with an exception set.
static PyObject *launch_entry(const Plan *plan, Entry *entry, const Call *call, const int64_t *dims) {
    void *stream;
    if (!read_stream(plan, call->device, &stream)) return NULL;
    // The two after the arguments are scratch memory that these kernels do not use.
    uint64_t storage[MAX_SLOTS + 2 * MAX_RANK * MAX_MAPS + 2];
    void *params[MAX_SLOTS + (2 * MAX_RANK + 1) * MAX_MAPS + 2];
    _Alignas(MAP_BYTES) uint8_t maps[MAX_MAPS][MAP_BYTES];
    int n = 0, words = 0;
    for (int i = 0; i < entry->argument_count; i++) {
        int slot = entry->slots[i], how = entry->how[i];
        if (how == MAP) {
            const Map *map = &call->maps[call->raw[slot]];
            if (!encode_map(plan, entry, map, call->values[slot], maps[map->index])) return NULL;
            params[n++] = maps[map->index];
            for (uint32_t k = 0; k < map->rank; k++) storage[words] = (uint64_t)map->extents[k], params[n++] = &storage[words++];
            for (uint32_t k = 0; k < map->rank; k++) storage[words] = (uint64_t)map->strides[k], params[n++] = &storage[words++];
            continue;
        }
        if (how == COPY) storage[words] = call->raw[slot];
        else if (!pack_float(call->raw[slot], how, &storage[words])) return NULL;
        params[n++] = &storage[words++];
    }
    for (int i = 0; i < 2; i++) storage[words] = 0, params[n++] = &storage[words++];
    if (plan->is_hip) {
        int code = launch_hip(plan, entry, dims, stream, params);
        return code ? raise_driver_error(plan, code) : Py_NewRef(entry->kernel);
    }
    // Stock Triton asks for the product to be above zero, in 32 bits: it drops (65535, 65535) and launches (-1, -1).
    if (dims[0] > 0 && dims[1] > 0 && dims[2] > 0) {
        Config config = {
            .grid = {(uint32_t)dims[0] * entry->clusters, (uint32_t)dims[1], (uint32_t)dims[2]},
            .block = {entry->threads, 1, 1},
            .shared = entry->shared,
            .stream = stream,
            .attributes = entry->attributes,
            .attribute_count = entry->attribute_count,
        };
        int code = ((LaunchKernel)plan->launch)(&config, entry->function, params, NULL);
        if (code) return raise_driver_error(plan, code);
    }
    return Py_NewRef(entry->kernel);
}

// The same call of the Python path.
static PyObject *fall_back(Launcher *self, PyObject *grid, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *fallback = Py_NewRef(self->fallback), *near[MAX_SLOTS + 2], **stack = near;
    Py_ssize_t n = nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    if (n > MAX_SLOTS && !(stack = PyMem_Malloc((n + 2) * sizeof *stack))) {
        Py_DECREF(fallback);
        return PyErr_NoMemory();
    }
    stack[0] = NULL;
    stack[1] = grid;
    memcpy(stack + 2, args, n * sizeof *args);
    PyObject *result = PyObject_Vectorcall(fallback, stack + 1, (size_t)(nargs + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames);
    if (stack != near) PyMem_Free(stack);
    Py_DECREF(fallback);
    return result;
}

// Ask the Python path how a call that it has just served is launched; `after` is the call once a pre_hook has run, or
// NULL. Never raises.
static void learn(Launcher *self, Plan *plan, const Call *call, const Call *after, PyObject *args, PyObject *kwargs) {
    Entry *entry = find(plan, call);
    // The Python path has taught it already.
    if (entry && entry->kernel) return;
    PyObject *found = PyObject_CallFunctionObjArgs(self->learn, (PyObject *)plan, args, kwargs, NULL);
    if (!found) PyErr_WriteUnraisable(self->learn);
    entry = add(plan, call);
    if (!entry || entry->kernel) goto done;
    if (found == Py_None) {
        // Not known now. Asking costs some microseconds, so it is done ever more seldom.
        entry->wait = entry->wait ? (entry->wait < 1 << 20 ? 2 * entry->wait : entry->wait) : 4;
        entry->retry = entry->wait;
    } else if (!found || !PyTuple_Check(found) || !fill(entry, call, found)) {
        entry->retry = 0;
    } else if (after && (entry->after = PyMem_Malloc(after->n * sizeof *after->words))) {
        memcpy(entry->after, after->words, after->n * sizeof *after->words);
        entry->after_n = after->n;
    }
done:
    PyErr_Clear();
    Py_XDECREF(found);
}

// The key of a call given as tuple and dict.
static int key_of(Plan *plan, Call *call, PyObject *args, PyObject *kwargs) {
    PyObject *stack[2 * MAX_SLOTS], *name, *value, *names = NULL;
    Py_ssize_t nargs = PyTuple_GET_SIZE(args), n = PyDict_GET_SIZE(kwargs), at = 0;
    if (nargs + n > 2 * MAX_SLOTS || !(names = PyTuple_New(n))) return 0;
    for (Py_ssize_t i = 0; i < nargs; i++) stack[i] = PyTuple_GET_ITEM(args, i);
    for (Py_ssize_t i = 0; PyDict_Next(kwargs, &at, &name, &value); i++) {
        PyTuple_SET_ITEM(names, i, Py_NewRef(name));
        stack[nargs + i] = value;
    }
    int ok = bind(plan, call, stack, nargs, names) && read_device(plan, &call->device) && build_key(plan, call);
    Py_DECREF(names);
    return ok;
}

// `learn` for a call without an entry, after the Python path has served it.
static void learn_call(Launcher *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    Call call;
    Plan *plan = self->plan;
    if (!plan) return;
    Py_INCREF(plan);
    PyObject *tuple = PyTuple_New(nargs), *dict = PyDict_New();
    for (Py_ssize_t i = 0; tuple && i < nargs; i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; dict && kwnames && i < PyTuple_GET_SIZE(kwnames); i++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0) Py_CLEAR(dict);
    // Where a pre_hook has changed a descriptor, only the miss path knows what it was.
    if (tuple && dict && key_of(plan, &call, tuple, dict) && !(plan->before != Py_None && call.map_count))
        learn(self, plan, &call, NULL, tuple, dict);
    PyErr_Clear();
    Py_XDECREF(tuple);
    Py_XDECREF(dict);
    Py_DECREF(plan);
}

// Call the config's pre_hook. 1; 0 if the call is no longer one that the entry is for; -1 with an exception set.
static int run_before(Plan *plan, Entry *entry, const Call *call, Call *after, PyObject *grid, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *values = passed_values(plan, call, 1);
    PyObject *done = values ? PyObject_CallFunctionObjArgs(plan->before, entry->record, values, grid, NULL) : NULL;
    Py_XDECREF(values);
    if (!done) return -1;
    Py_DECREF(done);
    after->device = call->device;
    if (!bind(plan, after, args, nargs, kwnames) || !build_key(plan, after)) return 0;
    const uint64_t *words = entry->after ? entry->after : entry->words;
    int n = entry->after ? entry->after_n : entry->n;
    return after->n == n && !memcmp(words, after->words, n * sizeof *words);
}

static PyObject *launch_planned(Launcher *self, Plan *plan, PyObject *grid, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    Call as_passed, after, *call = &as_passed;
    int64_t dims[3];
    if (!bind(plan, call, args, nargs, kwnames) || !read_device(plan, &call->device) || !build_key(plan, call))
        return fall_back(self, grid, args, nargs, kwnames);
    Entry *entry = find(plan, call);
    if (!entry || !entry->kernel) {
        int ask = entry ? entry->retry && !--entry->retry : plan->count < plan->limit;
        PyObject *result = fall_back(self, grid, args, nargs, kwnames);
        if (result && ask) learn_call(self, args, nargs, kwnames);
        return result;
    }
    int is_function = 0;
    if (!plain_dims(grid, dims)) {
        if (!(is_function = PyFunction_Check(grid))) return fall_back(self, grid, args, nargs, kwnames);
    }
    if (plan->tuner != Py_None && PyObject_SetAttr(plan->tuner, str_best_config, entry->config) < 0) return NULL;
    if (plan->before != Py_None) {
        PyObject *hook = PyObject_GetAttr(entry->config, str_pre_hook);
        if (!hook) return NULL;
        Py_DECREF(hook);
        if (hook != Py_None) {
            int same = run_before(plan, entry, call, &after, grid, args, nargs, kwnames);
            if (same <= 0) return same < 0 ? NULL : fall_back(self, grid, args, nargs, kwnames);
            call = &after;
        }
    }
    if (is_function && !function_dims(plan, entry, call, grid, dims)) return NULL;
    PyObject *kernel = launch_entry(plan, entry, call, dims);
    self->hits += kernel != NULL;
    return kernel;
}

static inline PyObject *launch(Launcher *self, PyObject *grid, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    Plan *plan = self->plan;
    if (!plan || !guards_hold(plan)) return fall_back(self, grid, args, nargs, kwnames);
    // A Python function called on the way may put another plan in force.
    Py_INCREF(plan);
    PyObject *result = launch_planned(self, plan, grid, args, nargs, kwnames);
    Py_DECREF(plan);
    return result;
}

// ---- Plan(...): the parts in the order of `native.plan`

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *names, *defaults, *params, *param_slots, *runtime, *runtime_seen, *compilation, *hooks, *settings, *settings_seen;
    PyObject *globals, *current_device, *stream, *tuner, *exact, *answer, *encode, *before, *live;
    const char *flags;
    Py_ssize_t flag_count;
    int named_count, positional, is_cuda, is_hip, bounded, device_type;
    unsigned int limit;
    unsigned long long functions[3];
    static char *keywords[] = {"names", "flags", "defaults", "named_count", "positional", "params", "param_slots", "runtime", "runtime_seen", "compilation",
                               "hooks", "settings", "settings_seen", "globals", "current_device", "stream", "tuner", "exact", "answer",
                               "encode", "before", "live", "is_cuda", "is_hip", "bounded", "device_type", "limit", "driver", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!y#O!iiO!O!O!OO!O!O!OO!OOOOOOOO!pppiI(KKK)", keywords, &PyTuple_Type, &names, &flags, &flag_count,
                                     &PyTuple_Type, &defaults, &named_count, &positional, &PyTuple_Type, &params, &PyTuple_Type, &param_slots,
                                     &PyDict_Type, &runtime, &runtime_seen, &PyDict_Type, &compilation, &PyTuple_Type, &hooks,
                                     &PyDict_Type, &settings, &settings_seen, &PyTuple_Type, &globals, &current_device, &stream, &tuner,
                                     &exact, &answer, &encode, &before, &PyTuple_Type, &live, &is_cuda, &is_hip, &bounded, &device_type, &limit, &functions[0], &functions[1], &functions[2]))
        return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(names), param_count = PyTuple_GET_SIZE(params);
    if (n > MAX_SLOTS || param_count > 2 * MAX_SLOTS || flag_count != n || PyTuple_GET_SIZE(defaults) != n || positional > n || named_count > n ||
        n + PyTuple_GET_SIZE(live) > MAX_SLOTS ||
        PyTuple_GET_SIZE(param_slots) != param_count || PyTuple_GET_SIZE(hooks) != 3 || !exchange) {
        PyErr_SetString(PyExc_ValueError, "parts of the plan do not fit each other, or there are too many arguments");
        return NULL;
    }
    Plan *self = (Plan *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->slot_count = (int)n, self->named_count = named_count, self->positional = positional, self->param_count = (int)param_count;
    self->is_cuda = is_cuda, self->is_hip = is_hip, self->bounded = bounded, self->device_type = device_type, self->limit = limit;
    memcpy(self->flags, flags, n);
    self->launch = (void (*)(void))(uintptr_t)functions[0];
    self->error_string = (void (*)(void))(uintptr_t)functions[1];
    self->context_device = (ContextDevice)(uintptr_t)functions[2];
    self->names = Py_NewRef(names), self->defaults = Py_NewRef(defaults), self->params = Py_NewRef(params);
    self->runtime = Py_NewRef(runtime), self->compilation = Py_NewRef(compilation), self->settings = Py_NewRef(settings);
    self->runtime_seen = runtime_seen == Py_None ? NULL : Py_NewRef(runtime_seen);
    self->settings_seen = Py_NewRef(settings_seen), self->globals = Py_NewRef(globals), self->tuner = Py_NewRef(tuner);
    self->current_device = Py_NewRef(current_device), self->stream = Py_NewRef(stream);
    self->exact = Py_NewRef(exact), self->answer = Py_NewRef(answer), self->encode = Py_NewRef(encode);
    self->before = Py_NewRef(before), self->live = Py_NewRef(live);
    for (int i = 0; i < 3; i++) {
        PyObject *list = PyTuple_GET_ITEM(hooks, i);
        self->hooks[i] = Py_NewRef(list);
        if (!PyList_Check(list)) PyErr_SetString(PyExc_TypeError, "hooks are kept in lists");
    }
    for (Py_ssize_t i = 0; i < param_count && !PyErr_Occurred(); i++) self->param_slots[i] = (int16_t)PyLong_AsLong(PyTuple_GET_ITEM(param_slots, i));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(globals) && !PyErr_Occurred(); i++) {
        PyObject *scope, *name, *value;
        if (PyArg_ParseTuple(PyTuple_GET_ITEM(globals, i), "O!UO", &PyDict_Type, &scope, &name, &value)) continue;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(live) && !PyErr_Occurred(); i++) {
        PyObject *name, *heuristic;
        if (PyArg_ParseTuple(PyTuple_GET_ITEM(live, i), "UO", &name, &heuristic)) continue;
    }
    if (PyErr_Occurred()) Py_CLEAR(self);
    return (PyObject *)self;
}

static int plan_traverse(Plan *self, visitproc visit, void *arg) {
    Py_VISIT(self->names); Py_VISIT(self->defaults); Py_VISIT(self->params);
    Py_VISIT(self->runtime); Py_VISIT(self->runtime_seen); Py_VISIT(self->compilation);
    for (int i = 0; i < 3; i++) Py_VISIT(self->hooks[i]);
    Py_VISIT(self->settings); Py_VISIT(self->settings_seen); Py_VISIT(self->globals);
    Py_VISIT(self->current_device); Py_VISIT(self->stream); Py_VISIT(self->tuner); Py_VISIT(self->exact); Py_VISIT(self->answer);
    Py_VISIT(self->encode); Py_VISIT(self->before); Py_VISIT(self->live);
    for (uint32_t i = 0; i < self->size; i++) {
        Entry *entry = self->table[i];
        if (!entry) continue;
        Py_VISIT(entry->kernel); Py_VISIT(entry->record); Py_VISIT(entry->config); Py_VISIT(entry->supplied);
    }
    return 0;
}

static int plan_clear(Plan *self) {
    Entry **table = self->table;
    uint32_t size = self->size;
    self->table = NULL, self->last = NULL, self->size = self->count = self->limit = 0;
    for (uint32_t i = 0; i < size; i++)
        if (table[i]) free_entry(table[i]);
    PyMem_Free(table);
    return 0;
}

static void plan_dealloc(Plan *self) {
    PyObject_GC_UnTrack(self);
    plan_clear(self);
    for (int i = 0; i < 4; i++) Py_XDECREF(self->keywords[i].names);
    for (int i = 0; i < 3; i++) Py_XDECREF(self->hooks[i]);
    PyObject *owned[] = {self->names, self->defaults, self->params, self->runtime, self->runtime_seen, self->compilation, self->settings,
                         self->settings_seen, self->globals, self->current_device, self->stream, self->tuner, self->exact, self->answer,
                         self->encode, self->before, self->live};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) Py_XDECREF(owned[i]);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *plan_settle(Plan *self, PyObject *settings) {
    Py_INCREF(settings);
    Py_XSETREF(self->settings_seen, settings);
    Py_RETURN_NONE;
}

static PyMethodDef plan_methods[] = {
    {"settle", (PyCFunction)plan_settle, METH_O, "settle(settings): take these settings for unchanged."},
    {NULL},
};
static PyMemberDef plan_members[] = {
    {"entries", T_UINT, offsetof(Plan, count), READONLY, "Keys in the table, those left to the Python path included."},
    {NULL},
};
static PyTypeObject PlanType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gems_runtime.native._launch.Plan",
    .tp_doc = "What a kernel's calls look like, and the table of its entries.",
    .tp_basicsize = sizeof(Plan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = plan_new,
    .tp_dealloc = (destructor)plan_dealloc,
    .tp_traverse = (traverseproc)plan_traverse,
    .tp_clear = (inquiry)plan_clear,
    .tp_methods = plan_methods,
    .tp_members = plan_members,
};

// ---- Launcher(learn): called as (grid, *args, **kwargs)

static PyObject *launcher_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "a launch needs a grid");
        return NULL;
    }
    return launch((Launcher *)self, args[0], args + 1, nargs - 1, kwnames);
}

static PyObject *launcher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *learn_;
    if (!PyArg_ParseTuple(args, "O", &learn_)) return NULL;
    Launcher *self = (Launcher *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->vectorcall = launcher_call;
    self->learn = Py_NewRef(learn_), self->fallback = Py_NewRef(Py_None);
    return (PyObject *)self;
}

static int launcher_traverse(Launcher *self, visitproc visit, void *arg) {
    Py_VISIT((PyObject *)self->plan); Py_VISIT(self->fallback); Py_VISIT(self->learn);
    return 0;
}

static int launcher_clear(Launcher *self) {
    // Calls through a Bound that outlives this still find something to call.
    Py_CLEAR(self->plan);
    Py_INCREF(Py_None);
    Py_XSETREF(self->fallback, Py_None);
    return 0;
}

static void launcher_dealloc(Launcher *self) {
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->plan);
    Py_CLEAR(self->fallback);
    Py_CLEAR(self->learn);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *launcher_serve(Launcher *self, PyObject *args) {
    PyObject *fallback, *plan;
    if (!PyArg_ParseTuple(args, "OO", &fallback, &plan)) return NULL;
    if (plan != Py_None && Py_TYPE(plan) != &PlanType) {
        PyErr_SetString(PyExc_TypeError, "serve(fallback, plan): plan is a Plan or None");
        return NULL;
    }
    Py_INCREF(fallback);
    Py_XSETREF(self->fallback, fallback);
    Plan *before = self->plan;
    self->plan = plan == Py_None ? NULL : (Plan *)Py_NewRef(plan);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *launcher_teach(Launcher *self, PyObject *from) {
    PyObject *named, *args, *kwargs;
    if (!PyArg_ParseTuple(from, "O!O!O!", &PyDict_Type, &named, &PyTuple_Type, &args, &PyDict_Type, &kwargs)) return NULL;
    Plan *plan = self->plan;
    PyObject *nothing = plan ? PyTuple_New(0) : NULL;
    if (nothing) {
        Call call, after;
        Py_INCREF(plan);
        int has_hook = plan->before != Py_None;
        if (key_of(plan, &call, nothing, named) && (!has_hook || key_of(plan, &after, args, kwargs)))
            learn(self, plan, &call, has_hook ? &after : NULL, nothing, named);
        Py_DECREF(plan);
        Py_DECREF(nothing);
    }
    PyErr_Clear();
    Py_RETURN_NONE;
}

static PyMethodDef launcher_methods[] = {
    {"teach", (PyCFunction)launcher_teach, METH_VARARGS,
     "teach(named, args, kwargs): learn how a call that was passed `named` is launched; args and kwargs are the same, as a "
     "pre_hook may have left it."},
    {"serve", (PyCFunction)launcher_serve, METH_VARARGS, "serve(fallback, plan): put a plan in force; None sends every call to the fallback."},
    {NULL},
};
static PyMemberDef launcher_members[] = {
    {"hits", T_ULONGLONG, offsetof(Launcher, hits), 0, "Launches made here."},
    {"plan", T_OBJECT, offsetof(Launcher, plan), READONLY, "The plan in force."},
    {NULL},
};
static PyTypeObject LauncherType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gems_runtime.native._launch.Launcher",
    .tp_doc = "Launches a kernel; called with the grid and then the kernel's arguments.",
    .tp_basicsize = sizeof(Launcher),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Launcher, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = launcher_new,
    .tp_dealloc = (destructor)launcher_dealloc,
    .tp_traverse = (traverseproc)launcher_traverse,
    .tp_clear = (inquiry)launcher_clear,
    .tp_methods = launcher_methods,
    .tp_members = launcher_members,
};

// ---- Bound: what `kernel[grid]` gives back

#define SPARE_LIMIT 16
static Bound *spare[SPARE_LIMIT];
static int spare_count;

static PyObject *bound_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    Bound *bound = (Bound *)self;
    return launch(bound->launcher, bound->grid, args, PyVectorcall_NARGS(nargsf), kwnames);
}

static PyObject *module_bind(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || Py_TYPE(args[0]) != &LauncherType) {
        PyErr_SetString(PyExc_TypeError, "bind(launcher, grid)");
        return NULL;
    }
    Bound *self;
    if (spare_count) {
        self = spare[--spare_count];
        PyObject_Init((PyObject *)self, &BoundType);
    } else if (!(self = PyObject_GC_New(Bound, &BoundType))) {
        return NULL;
    }
    self->vectorcall = bound_call;
    self->launcher = (Launcher *)Py_NewRef(args[0]);
    self->grid = Py_NewRef(args[1]);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int bound_traverse(Bound *self, visitproc visit, void *arg) {
    Py_VISIT((PyObject *)self->launcher); Py_VISIT(self->grid);
    return 0;
}

static void bound_dealloc(Bound *self) {
    PyObject_GC_UnTrack(self);
    Py_DECREF(self->launcher);
    Py_DECREF(self->grid);
    if (spare_count < SPARE_LIMIT) spare[spare_count++] = self;
    else PyObject_GC_Del(self);
}

static PyTypeObject BoundType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gems_runtime.native._launch.Bound",
    .tp_doc = "A kernel with its grid.",
    .tp_basicsize = sizeof(Bound),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(Bound, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_dealloc = (destructor)bound_dealloc,
    .tp_traverse = (traverseproc)bound_traverse,
};

// ---- The module

static PyObject *module_open(PyObject *module, PyObject *args) {
    PyObject *tensor, *parameter, *dtype, *jit, *descriptor, *capsule;
    if (!PyArg_ParseTuple(args, "OOOOOO", &tensor, &parameter, &dtype, &jit, &descriptor, &capsule)) return NULL;
    Exchange *found = dlpack_exchange(capsule);
    if (!found) return NULL;
    if (!PyType_Check(tensor) || !PyType_Check(parameter) || !PyType_Check(dtype) || !PyType_Check(jit) || !PyType_Check(descriptor)) {
        PyErr_SetString(PyExc_TypeError, "open(tensor, parameter, dtype, jit, descriptor, capsule) takes five types");
        return NULL;
    }
    Py_INCREF(tensor), Py_INCREF(parameter), Py_INCREF(dtype), Py_INCREF(jit), Py_INCREF(descriptor), Py_INCREF(capsule);
    descriptor_type = (PyTypeObject *)descriptor, descriptors_round = PyObject_HasAttr(descriptor, str_round);
    tensor_type = (PyTypeObject *)tensor, parameter_type = (PyTypeObject *)parameter;
    dtype_type = (PyTypeObject *)dtype, jit_type = (PyTypeObject *)jit;
    exchange = found;
    Py_RETURN_NONE;
}

// What this module reads from a tensor, for the check that it reads it right.
static PyObject *module_read(PyObject *module, PyObject *value) {
    DLTensor t;
    if (!exchange || (Py_TYPE(value) != tensor_type && Py_TYPE(value) != parameter_type)) {
        PyErr_SetString(PyExc_TypeError, "read(tensor) after open(...)");
        return NULL;
    }
    if (exchange->borrow(value, &t)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "torch lent no tensor");
        return NULL;
    }
    unsigned long long address = t.data ? (unsigned long long)(uintptr_t)t.data + t.byte_offset : 0;
    return Py_BuildValue("Kiiiiii", address, t.device_type, t.device_id, t.ndim, t.code, t.bits, t.lanes);
}

static PyMethodDef module_methods[] = {
    {"open", module_open, METH_VARARGS, "open(tensor, parameter, dtype, jit, descriptor, capsule): the types to know, and torch's DLPack exchange."},
    {"read", module_read, METH_O, "read(tensor): address, device type and ordinal, dimensions, type code, bits and lanes."},
    {"bind", (PyCFunction)(void (*)(void))module_bind, METH_FASTCALL, "bind(launcher, grid): a callable that takes the kernel's arguments."},
    {NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "gems_runtime.native._launch", .m_doc = "The native launch tier.", .m_size = -1, .m_methods = module_methods};

PyMODINIT_FUNC PyInit__launch(void) {
    str_current = PyUnicode_InternFromString("_current");
    str_instrumentation = PyUnicode_InternFromString("instrumentation_mode");
    str_best_config = PyUnicode_InternFromString("best_config");
    str_dtype = PyUnicode_InternFromString("dtype");
    str_base = PyUnicode_InternFromString("base");
    str_shape = PyUnicode_InternFromString("shape");
    str_strides = PyUnicode_InternFromString("strides");
    str_block_shape = PyUnicode_InternFromString("block_shape");
    str_padding = PyUnicode_InternFromString("padding");
    str_round = PyUnicode_InternFromString("round_f32_to_tf32");
    str_pre_hook = PyUnicode_InternFromString("pre_hook");
    str_untyped_storage = PyUnicode_InternFromString("untyped_storage");
    str_size = PyUnicode_InternFromString("size");
    zero = PyLong_FromLong(0);
    interned = PyDict_New();
    // Only for want of memory does one of them fail.
    if (PyErr_Occurred() || !zero || !interned) return NULL;
    if (PyType_Ready(&PlanType) < 0 || PyType_Ready(&LauncherType) < 0 || PyType_Ready(&BoundType) < 0) return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (PyModule_AddObjectRef(module, "Plan", (PyObject *)&PlanType) < 0 || PyModule_AddObjectRef(module, "Launcher", (PyObject *)&LauncherType) < 0 ||
        PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0 || PyModule_AddStringConstant(module, "SOURCE_HASH", SOURCE_HASH) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
