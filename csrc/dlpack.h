/* What a tensor is, asked without a call of Python: the part of DLPack's C exchange API that is needed here (DLPack 1.3,
 * https://dmlc.github.io/dlpack, as torch has it from 2.10 on). Its layout is the standard's. */
#pragma once

#include <stdint.h>

enum { DLPACK_CUDA = 2 };                                                       /* a kind of device */
enum { DLPACK_INT = 0, DLPACK_UINT = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4, DLPACK_BOOL = 6 }; /* a code */

typedef struct {
    void *data;
    struct {
        int32_t kind;
        int32_t index;
    } device;
    int32_t dimensions;
    struct {
        uint8_t code;
        uint8_t bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} dlpack_tensor;

#define DLPACK_EXCHANGE "dlpack_exchange_api" /* the capsule's name */
#define DLPACK_MAJOR 1

typedef struct {
    struct {
        uint32_t major;
        uint32_t minor;
    } version;
    void *previous;
    void *unused[3];
    /* 0, and what borrows from the tensor; else an error is set. May be NULL. */
    int (*tensor_of)(void *object, dlpack_tensor *out);
    int (*current_stream)(int32_t kind, int32_t index, void **out);
} dlpack_exchange;
