// The native router: what runs before every routed call of an operator. It turns the arguments into a key on the C stack,
// finds the decision that the Python side made for such calls, and makes the call: a plan, or the native kernel.
//
// It decides nothing. An unknown key goes to `decide`, an argument that it cannot read (a subclass, a symbolic size, a
// generator) to `fallback`, the router written in Python, which serves every call. A key here tells apart at least
// what the key of the Python router tells apart.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#include "dlpack.h"

#ifndef SOURCE_HASH
#define SOURCE_HASH ""
#endif
#define MAX_SLOTS 64
#define MAX_WORDS 256
#define MAX_INTERNED 65536

static PyTypeObject *tensor_type, *parameter_type, *plain_types[8];
static int plain_count;
static Exchange *exchange;
static PyObject *interned, *str_dtype;

// Set while an implementation runs on this thread: calls it makes itself go to the native kernels.
static _Thread_local int busy;

// ---- Types

// How an argument takes part in the key; the Python side names them by these numbers.
enum { TENSOR, TENSORS, NUMBER, VALUE, INTS };
// What a word of the key says first.
enum { A_TENSOR = 1, A_NUMBER, NOTHING, A_BOOL, AN_INT, A_FLOAT, PLAIN, A_LIST };

typedef struct {
    uint64_t words[MAX_WORDS];
    int n;
} Key;

typedef struct {
    uint64_t hash, *words;
    int n;
    PyObject *plan, *native;  // owned; plan None: the native kernel serves
} Decision;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    int slots, positional;
    uint8_t kinds[MAX_SLOTS];
    PyObject *names, *defaults;               // one per slot; a default of NotImplemented: the argument is required
    PyObject *decide, *fallback, *declined;   // declined: the exception that sends one call to the native kernel
    PyObject *keyset;                         // what the fallback and native kernels get before the arguments; NULL: nothing
    Py_buffer counts;                         // two int64: served, declined
    Decision *table;
    uint32_t size, count, limit;
} Router;

static PyTypeObject RouterType;

// ---- Keys

static inline int add(Key *key, uint64_t word) {
    if (key->n == MAX_WORDS) return 0;
    key->words[key->n++] = word;
    return 1;
}

// 0: not for this router.
static int add_tensor(Key *key, PyObject *value) {
    DLTensor t;
    if (exchange->borrow(value, &t)) {
        PyErr_Clear();
        return 0;
    }
    if (key->n + 3 + 2 * t.ndim > MAX_WORDS || t.ndim > 255) return 0;
    uint64_t *w = key->words + key->n;
    *w++ = A_TENSOR | (uint64_t)t.code << 8 | (uint64_t)t.bits << 16 | (uint64_t)(uint8_t)t.lanes << 24 | (uint64_t)t.ndim << 32 |
           (uint64_t)(uint8_t)t.device_type << 40 | (uint64_t)(uint8_t)t.device_id << 48;
    if (t.bits == 8 && (t.code == DL_INT || t.code == DL_UINT)) {
        // torch's integers of 1 to 7 bits say 8 here.
        PyObject *dtype = PyObject_GetAttr(value, str_dtype);
        if (!dtype) {
            PyErr_Clear();
            return 0;
        }
        *w++ = (uint64_t)(uintptr_t)dtype;
        // torch.dtype objects live as long as torch.
        Py_DECREF(dtype);
    }
    memcpy(w, t.shape, t.ndim * sizeof *w);
    w += t.ndim;
    memcpy(w, t.strides, t.ndim * sizeof *w);
    w += t.ndim;
    key->n = (int)(w - key->words);
    return 1;
}

static inline int is_tensor(PyObject *value) {
    return Py_TYPE(value) == tensor_type || Py_TYPE(value) == parameter_type;
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
    uint64_t found = 0;
    if (number && !PyDict_SetItem(interned, value, number)) found = PyLong_AsUnsignedLongLong(number);
    Py_XDECREF(number);
    PyErr_Clear();
    return found;
}

// By type and value.
static int add_value(Key *key, PyObject *value) {
    PyTypeObject *type = Py_TYPE(value);
    if (value == Py_None) return add(key, NOTHING);
    if (type == &PyBool_Type) return add(key, A_BOOL | (uint64_t)(value == Py_True) << 8);
    if (type == &PyLong_Type) {
        int overflow;
        int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return !overflow && add(key, AN_INT) && add(key, (uint64_t)number);
    }
    if (type == &PyFloat_Type) {
        double number = PyFloat_AS_DOUBLE(value);
        uint64_t bits;
        memcpy(&bits, &number, 8);
        return add(key, A_FLOAT) && add(key, bits);
    }
    for (int i = 0; i < plain_count; i++)
        if (type == plain_types[i]) {
            uint64_t number = intern(value);
            return number && add(key, PLAIN | number << 8);
        }
    return 0;
}

static int add_sequence(Key *key, PyObject *value, int of_tensors) {
    if (!PyList_CheckExact(value) && !PyTuple_CheckExact(value)) return 0;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(value);
    if (!add(key, A_LIST | (uint64_t)n << 8)) return 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(value, i);
        int added = is_tensor(item) ? of_tensors && add_tensor(key, item) : of_tensors ? item == Py_None && add(key, NOTHING) : add_value(key, item);
        if (!added) return 0;
    }
    return 1;
}

// The class of a bare number, whose value is an argument and no decision.
static int add_number(Key *key, PyObject *value) {
    PyTypeObject *type = Py_TYPE(value);
    uint64_t class = type == &PyFloat_Type ? A_FLOAT : type == &PyLong_Type ? AN_INT : type == &PyBool_Type ? A_BOOL : value == Py_None ? NOTHING : 0;
    return class && add(key, A_NUMBER | class << 8);
}

static inline int add_argument(Key *key, int kind, PyObject *value) {
    switch (kind) {
    case TENSOR:
        if (is_tensor(value)) return add_tensor(key, value);
        return add_number(key, value);
    case TENSORS:
        return add_sequence(key, value, 1);
    case NUMBER:
        return add_number(key, value);
    case INTS:
        return value == Py_None ? add(key, NOTHING) : add_sequence(key, value, 0);
    default:
        return add_value(key, value);
    }
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

// ---- The table of decisions: open addressing, never more than half full

static Decision *find(Router *self, uint64_t hash, const Key *key) {
    if (!self->size) return NULL;
    for (uint32_t i = (uint32_t)hash & (self->size - 1); self->table[i].words; i = (i + 1) & (self->size - 1)) {
        Decision *d = &self->table[i];
        if (d->hash == hash && d->n == key->n && !memcmp(d->words, key->words, key->n * sizeof *key->words)) return d;
    }
    return NULL;
}

static void forget_all(Router *self) {
    Decision *table = self->table;
    uint32_t size = self->size;
    self->table = NULL, self->size = self->count = 0;
    for (uint32_t i = 0; i < size; i++) {
        if (!table[i].words) continue;
        PyMem_Free(table[i].words);
        Py_DECREF(table[i].plan);
        Py_DECREF(table[i].native);
    }
    PyMem_Free(table);
}

static int grow(Router *self) {
    uint32_t size = self->size ? 2 * self->size : 16;
    Decision *table = PyMem_Calloc(size, sizeof *table);
    if (!table) return 0;
    for (uint32_t i = 0; i < self->size; i++) {
        if (!self->table[i].words) continue;
        uint32_t at = (uint32_t)self->table[i].hash & (size - 1);
        while (table[at].words) at = (at + 1) & (size - 1);
        table[at] = self->table[i];
    }
    PyMem_Free(self->table);
    self->table = table, self->size = size;
    return 1;
}

static void keep(Router *self, uint64_t hash, const Key *key, PyObject *plan, PyObject *native) {
    if (self->count >= self->limit) forget_all(self);
    if (find(self, hash, key)) return;  // another thread was faster
    if (2 * (self->count + 1) > self->size && !grow(self)) return;
    uint64_t *words = PyMem_Malloc(key->n * sizeof *words);
    if (!words) return;
    memcpy(words, key->words, key->n * sizeof *words);
    uint32_t at = (uint32_t)hash & (self->size - 1);
    while (self->table[at].words) at = (at + 1) & (self->size - 1);
    self->table[at] = (Decision){hash, words, key->n, Py_NewRef(plan), Py_NewRef(native)};
    self->count++;
}

// ---- The call

// The arguments by slot, and their key. 0: not for this router.
static int bind(Router *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **values, Key *key) {
    if (nargs > self->positional) return 0;
    memcpy(values, args, nargs * sizeof *values);
    memset(values + nargs, 0, (self->slots - nargs) * sizeof *values);
    Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t k = 0; k < named; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        int slot = 0;
        while (slot < self->slots && PyTuple_GET_ITEM(self->names, slot) != name) slot++;
        for (int i = 0; slot == self->slots && i < self->slots; i++)
            if (!PyUnicode_Compare(PyTuple_GET_ITEM(self->names, i), name)) slot = i;
        if (slot == self->slots || values[slot]) return 0;
        values[slot] = args[nargs + k];
    }
    key->n = 0;
    for (int slot = 0; slot < self->slots; slot++) {
        if (!values[slot]) values[slot] = PyTuple_GET_ITEM(self->defaults, slot);
        if (values[slot] == Py_NotImplemented || !add_argument(key, self->kinds[slot], values[slot])) return 0;
    }
    return 1;
}

// Ask the Python side; both results are new references. 0: an exception is set.
static int ask(Router *self, PyObject **values, uint64_t hash, const Key *key, PyObject **plan, PyObject **native) {
    PyObject *given = PyTuple_New(self->slots);
    if (!given) return 0;
    for (int slot = 0; slot < self->slots; slot++) PyTuple_SET_ITEM(given, slot, Py_NewRef(values[slot]));
    PyObject *answer = PyObject_CallOneArg(self->decide, given);
    Py_DECREF(given);
    int keeps;
    if (!answer || !PyArg_ParseTuple(answer, "OOp", plan, native, &keeps)) {
        Py_XDECREF(answer);
        return 0;
    }
    Py_INCREF(*plan), Py_INCREF(*native);
    Py_DECREF(answer);
    if (keeps) keep(self, hash, key, *plan, *native);
    return 1;
}

// Call with the arguments as they came.
static PyObject *pass_on(Router *self, PyObject *callable, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *with_keyset[MAX_SLOTS + 1] = {self->keyset};
    Py_ssize_t n = nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    if (n > MAX_SLOTS) return PyErr_Format(PyExc_TypeError, "%zd arguments, at most %d are taken", n, MAX_SLOTS);
    if (self->keyset) memcpy(with_keyset + 1, args, n * sizeof *args), args = with_keyset, nargs++;
    Py_INCREF(callable);  // a fallback may put another in its place
    PyObject *result = PyObject_Vectorcall(callable, args, nargs, kwnames);
    Py_DECREF(callable);
    return result;
}

static PyObject *route(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    Router *self = (Router *)object;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyObject *values[MAX_SLOTS], *plan, *native, *result;
    Key key;
    if (!bind(self, args, nargs, kwnames, values, &key)) return pass_on(self, self->fallback, args, nargs, kwnames);
    uint64_t hash = hash_words(key.words, key.n);
    Decision *known = find(self, hash, &key);
    if (known) plan = Py_NewRef(known->plan), native = Py_NewRef(known->native);
    else if (busy) return pass_on(self, self->fallback, args, nargs, kwnames);  // nobody asks for a plan that would not be used
    else if (!ask(self, values, hash, &key, &plan, &native)) return NULL;
    int64_t *counts = self->counts.buf;
    if (plan == Py_None || busy) {
        counts[1]++;
        result = pass_on(self, native, args, nargs, kwnames);
    } else {
        busy = 1;
        result = PyObject_Vectorcall(plan, values, self->slots, NULL);
        busy = 0;
        if (result) counts[0]++;
        else if (PyErr_ExceptionMatches(self->declined)) {
            PyErr_Clear();
            counts[1]++;
            result = pass_on(self, native, args, nargs, kwnames);
        }
    }
    Py_DECREF(plan);
    Py_DECREF(native);
    return result;
}

static PyObject *router_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"names", "defaults", "kinds", "positional", "decide", "fallback", "declined", "keyset", "counts", "limit", NULL};
    PyObject *slot_names, *defaults, *decide, *fallback, *declined, *keyset, *counts;
    Py_buffer kinds;
    int positional;
    unsigned int limit;
    if (!exchange) return PyErr_Format(PyExc_RuntimeError, "open(...) first");
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!y*iOOOOOI", names, &PyTuple_Type, &slot_names, &PyTuple_Type, &defaults, &kinds, &positional,
                                     &decide, &fallback, &declined, &keyset, &counts, &limit))
        return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(slot_names);
    Router *self = NULL;
    if (n > MAX_SLOTS || n != kinds.len || n != PyTuple_GET_SIZE(defaults) || positional > n) PyErr_SetString(PyExc_ValueError, "one name, default and kind per slot");
    else self = (Router *)type->tp_alloc(type, 0);
    if (self && PyObject_GetBuffer(counts, &self->counts, PyBUF_WRITABLE) < 0) Py_CLEAR(self);
    if (self) {
        self->vectorcall = route;
        self->slots = (int)n, self->positional = positional, self->limit = limit;
        memcpy(self->kinds, kinds.buf, n);
        self->names = Py_NewRef(slot_names), self->defaults = Py_NewRef(defaults);
        self->decide = Py_NewRef(decide), self->fallback = Py_NewRef(fallback), self->declined = Py_NewRef(declined);
        self->keyset = keyset == Py_None ? NULL : Py_NewRef(keyset);
    }
    PyBuffer_Release(&kinds);
    return (PyObject *)self;
}

static int router_traverse(Router *self, visitproc visit, void *arg) {
    Py_VISIT(self->decide);
    Py_VISIT(self->fallback);
    Py_VISIT(self->declined);
    for (uint32_t i = 0; i < self->size; i++) {
        Py_VISIT(self->table[i].plan);
        Py_VISIT(self->table[i].native);
    }
    return 0;
}

static int router_clear(Router *self) {
    forget_all(self);
    Py_CLEAR(self->decide);
    Py_CLEAR(self->fallback);
    Py_CLEAR(self->declined);
    return 0;
}

static void router_dealloc(Router *self) {
    PyObject_GC_UnTrack(self);
    router_clear(self);
    Py_CLEAR(self->keyset);
    Py_CLEAR(self->names);
    Py_CLEAR(self->defaults);
    if (self->counts.obj) PyBuffer_Release(&self->counts);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef router_members[] = {
    {"decisions", T_UINT, offsetof(Router, count), READONLY, "How many signatures it knows."},
    {"fallback", T_OBJECT_EX, offsetof(Router, fallback), 0, "What takes the calls that it cannot read."},
    {NULL},
};
static PyTypeObject RouterType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gems_ops.routing._route.Router",
    .tp_doc = "Serves one overload at one backend key.",
    .tp_basicsize = sizeof(Router),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Router, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = router_new,
    .tp_dealloc = (destructor)router_dealloc,
    .tp_traverse = (traverseproc)router_traverse,
    .tp_clear = (inquiry)router_clear,
    .tp_members = router_members,
};

// ---- Busy: this thread's switch, for the Python side

typedef struct {
    PyObject_HEAD
} Busy;

static PyObject *busy_get(PyObject *self, void *closure) {
    return PyBool_FromLong(busy);
}

static int busy_set(PyObject *self, PyObject *value, void *closure) {
    int on = value ? PyObject_IsTrue(value) : 0;
    if (on < 0) return -1;
    busy = on;
    return 0;
}

static PyGetSetDef busy_members[] = {{"busy", busy_get, busy_set, "True while an implementation runs on this thread.", NULL}, {NULL}};
static PyTypeObject BusyType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gems_ops.routing._route.Busy",
    .tp_doc = "Whether an implementation runs on the calling thread.",
    .tp_basicsize = sizeof(Busy),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_getset = busy_members,
};

// ---- The module

static PyObject *module_open(PyObject *module, PyObject *args) {
    PyObject *tensor, *parameter, *plain, *capsule;
    if (!PyArg_ParseTuple(args, "OOO!O", &tensor, &parameter, &PyTuple_Type, &plain, &capsule)) return NULL;
    Exchange *found = dlpack_exchange(capsule);
    if (!found) return NULL;
    if (!PyType_Check(tensor) || !PyType_Check(parameter) || PyTuple_GET_SIZE(plain) > 8) return PyErr_Format(PyExc_TypeError, "open(types...)");
    Py_INCREF(tensor), Py_INCREF(parameter), Py_INCREF(plain), Py_INCREF(capsule);
    tensor_type = (PyTypeObject *)tensor, parameter_type = (PyTypeObject *)parameter;
    plain_count = (int)PyTuple_GET_SIZE(plain);
    for (int i = 0; i < plain_count; i++) plain_types[i] = (PyTypeObject *)PyTuple_GET_ITEM(plain, i);
    exchange = found;
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"open", module_open, METH_VARARGS, "open(tensor, parameter, plain, capsule): the types to know, and torch's DLPack exchange."},
    {NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "gems_ops.routing._route", .m_doc = "The native router.", .m_size = -1, .m_methods = module_methods};

PyMODINIT_FUNC PyInit__route(void) {
    str_dtype = PyUnicode_InternFromString("dtype");
    interned = PyDict_New();
    if (!str_dtype || !interned || PyType_Ready(&RouterType) < 0 || PyType_Ready(&BusyType) < 0) return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (PyModule_AddObjectRef(module, "Router", (PyObject *)&RouterType) < 0 || PyModule_AddObjectRef(module, "Busy", (PyObject *)&BusyType) < 0 ||
        PyModule_AddStringConstant(module, "SOURCE_HASH", SOURCE_HASH) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
