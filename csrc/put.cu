// Copies numbers, each of its own type and from its own place on a GPU, as float64 into page-locked memory of the host.
// One thread a value. Of a value goes out a pair: its bits, and these XORed with the key of the copy (slab.h).
// `make ptx` compiles it into advlog_fast/engine/put.ptx.
#include <cuda_fp16.h>

struct put_values {
    const void *at[128];
    unsigned long long key;
    ulonglong2 *out;
    unsigned char type[128]; // enum device_type of device.h
    unsigned count;
};

extern "C" __global__ void advlog_put(const __grid_constant__ put_values values) {
    const unsigned i = threadIdx.x;
    if (i >= values.count) return;
    const void *at = values.at[i];
    double value = 0;
    switch (values.type[i]) {
    case 0: value = *(const double *)at; break;
    case 1: value = *(const float *)at; break;
    case 2: value = __half2float(*(const __half *)at); break;
    case 3: value = __uint_as_float((unsigned)*(const unsigned short *)at << 16); break; // bfloat16: a float's upper half
    case 4: value = (double)*(const long long *)at; break;
    case 5: value = *(const int *)at; break;
    case 6: value = *(const short *)at; break;
    case 7: value = *(const signed char *)at; break;
    case 8: value = *(const unsigned char *)at; break;
    case 9: value = *(const unsigned char *)at != 0; break;
    }
    const unsigned long long bits = __double_as_longlong(value);
    values.out[i] = make_ulonglong2(bits, bits ^ values.key);
}
