/* Internal declarations shared by the C files. The public ones, with shapes, are in edgellm.cdef.h. */
#ifndef EDGELLM_H
#define EDGELLM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "edgellm.cdef.h"

#define EL_TILE 16   /* rows of a packed tile, lanes of a float vector */
#define EL_BLOCK 32  /* columns that kernels handle at a time: groups of weights and of activations are made of blocks */
#define EL_MAX_PLANES 3

#if defined(__x86_64__)
#define EL_X86 1
#else
#define EL_X86 0
#endif

#if defined(__aarch64__)
#define EL_ARM64 1
#else
#define EL_ARM64 0
#endif

/* EL_TARGET_BEGIN("avx2,fma,f16c") ... EL_TARGET_END: compile what lies between for that instruction set. */
#define EL_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define EL_TARGET_BEGIN(isa) EL_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define EL_TARGET_DOTPROD "dotprod"
#define EL_TARGET_END EL_PRAGMA(clang attribute pop)
#else
#define EL_TARGET_BEGIN(isa) EL_PRAGMA(GCC push_options) EL_PRAGMA(GCC target(isa))
#define EL_TARGET_DOTPROD "arch=armv8.2-a+dotprod"
#define EL_TARGET_END EL_PRAGMA(GCC pop_options)
#endif

#define INLINE static inline __attribute__((always_inline))
#define EL_AHEAD 8192 /* bytes of codes that are asked for before they are read: far enough for memory to answer */

/* Asks the caches for bytes that will be read a while from now; where they lie beyond an array, nothing happens. */
INLINE void el_prefetch(const void *base, int64_t at, int64_t nbytes)
{
    uintptr_t first = (uintptr_t)base + (uintptr_t)at;
    for (int64_t line = 0; line < nbytes; line += 64)
        __builtin_prefetch((const void *)(first + (uintptr_t)line));
}

/* One thread's part of an op. */
typedef struct {
    int thread, threads;
} el_team;

typedef void (*el_kernel)(const el_args *args, const el_step *step, el_team team);

typedef struct {
    int64_t begin, end;
} el_range;

/* The thread's contiguous share of n units of work. */
static inline el_range el_share(int64_t n, el_team team)
{
    return (el_range){n * team.thread / team.threads, n * (team.thread + 1) / team.threads};
}

static inline int64_t el_tiles(int64_t rows)
{
    return (rows + EL_TILE - 1) / EL_TILE;
}

/* each(scheme) for every scheme. A function for each, with the scheme a constant in it, compiles many times as quickly as one with all. */
#define EL_SCHEMES(each)                                                                          \
    each(EL_INT8) each(EL_INT4) each(EL_INT4_MIN) each(EL_INT3) each(EL_INT3_MIN) each(EL_INT2)   \
    each(EL_INT2_MIN) each(EL_TERNARY) each(EL_TRITPLANES2) each(EL_TRITPLANES3)

/* The cases of a switch over schemes, each with its scheme as a constant: `call` is a macro or function of one. */
#define EL_SCHEME_CASES(call)                           \
    case EL_INT8: call(EL_INT8); break;                 \
    EL_NARROW_SCHEME_CASES(call)

/* Those of less than 8 bits, which table lookup takes. */
#define EL_NARROW_SCHEME_CASES(call)                    \
    case EL_INT4: call(EL_INT4); break;                 \
    case EL_INT4_MIN: call(EL_INT4_MIN); break;         \
    case EL_INT3: call(EL_INT3); break;                 \
    case EL_INT3_MIN: call(EL_INT3_MIN); break;         \
    case EL_INT2: call(EL_INT2); break;                 \
    case EL_INT2_MIN: call(EL_INT2_MIN); break;         \
    case EL_TERNARY: call(EL_TERNARY); break;           \
    case EL_TRITPLANES2: call(EL_TRITPLANES2); break;   \
    case EL_TRITPLANES3: call(EL_TRITPLANES3); break;

/* Those whose tables the ablation lut8 rounds. */
#define EL_LUT8_SCHEME_CASES(call)                      \
    case EL_INT4: call(EL_INT4); break;                 \
    case EL_INT4_MIN: call(EL_INT4_MIN); break;         \
    case EL_INT2: call(EL_INT2); break;                 \
    case EL_INT2_MIN: call(EL_INT2_MIN); break;         \
    case EL_TERNARY: call(EL_TERNARY); break;           \
    case EL_TRITPLANES2: call(EL_TRITPLANES2); break;   \
    case EL_TRITPLANES3: call(EL_TRITPLANES3); break;

/* Trit-planes of a scheme; 1 for integers. */
static inline int el_planes(int scheme)
{
    return scheme == EL_TRITPLANES2 ? 2 : scheme == EL_TRITPLANES3 ? 3 : 1;
}

static inline int el_has_min(int scheme)
{
    return scheme == EL_INT4_MIN || scheme == EL_INT3_MIN || scheme == EL_INT2_MIN;
}

/* Bits of a code as packed; a trit takes 2. */
static inline int el_code_bits(int scheme)
{
    switch (scheme) {
    case EL_INT8: return 8;
    case EL_INT4: case EL_INT4_MIN: return 4;
    case EL_INT3: case EL_INT3_MIN: return 3;
    default: return 2;
    }
}

/* The packed code that stands for 0 where there is no minimum. */
static inline int el_zero(int scheme)
{
    switch (scheme) {
    case EL_INT8: return 128;
    case EL_INT4: return 8;
    case EL_INT3: return 4;
    case EL_INT2: return 2;
    default: return el_has_min(scheme) ? 0 : 1;
    }
}

/* -zero * (sum of a block's codes), from the activation's offset, which is -8 * that sum: what an integer sum over
 * unsigned codes starts from, so that it ends as the signed one. */
static inline int32_t el_start(int scheme, int32_t offset)
{
    return el_zero(scheme) == 8 ? offset : (offset >> 3) * el_zero(scheme);
}

/* Bytes of one plane of a tile's block. */
static inline int64_t el_plane_bytes(int scheme)
{
    return EL_TILE * EL_BLOCK / 8 * el_code_bits(scheme);
}

/* Bytes of a tile's block: all its planes. */
static inline int64_t el_block_bytes(int scheme)
{
    return el_planes(scheme) * el_plane_bytes(scheme);
}

/* Rows of EL_TILE scales that a tile's group has: one for each plane, and the minimums. */
static inline int64_t el_scale_rows(int scheme)
{
    return el_planes(scheme) + el_has_min(scheme);
}

static inline int64_t el_groups(const el_matrix *w)
{
    return (w->cols + w->group - 1) / w->group;
}

/* A quad's 64 bytes: how far apart its rows are, and how far its columns. */
static inline int el_row_step(int layout)
{
    return layout == EL_LOOKUP ? 1 : 4;
}

static inline int el_column_step(int layout)
{
    return layout == EL_LOOKUP ? EL_TILE : 1;
}

/* The packed code of lane r, column k of a block's plane, less the zero: an integer weight before its scale. */
static inline int32_t el_code_at(int scheme, int layout, const uint8_t *plane, int r, int k)
{
    int bits = el_code_bits(scheme), lane = r * el_row_step(layout) + k % 4 * el_column_step(layout), quad = k / 4;
    int32_t code;
    if (bits == 8)
        code = plane[quad * 64 + lane];
    else if (bits == 4)
        code = plane[quad / 2 * 64 + lane] >> quad % 2 * 4 & 15;
    else
        code = plane[quad / 4 * 64 + lane] >> quad % 4 * 2 & 3;
    if (bits == 3)
        code |= (plane[128 + lane] >> quad & 1) << 2;
    return code - el_zero(scheme);
}

/* dispatch.c: the kernel for each op and instruction set, with its name as debuggers show it; NULL where this build has none. */
typedef struct {
    el_kernel run;
    const char *name;
} el_named_kernel;
extern const el_named_kernel el_kernels[EL_ISA_COUNT][EL_OP_COUNT];

#define EL_DECLARE_FLOAT_KERNELS(isa)                                                       \
    void el_rmsnorm__##isa(const el_args *, const el_step *, el_team);                      \
    void el_rmsnorm_add__##isa(const el_args *, const el_step *, el_team);                  \
    void el_rmsnorm_quantize__##isa(const el_args *, const el_step *, el_team);             \
    void el_quantize__##isa(const el_args *, const el_step *, el_team);                     \
    void el_add_bias__##isa(const el_args *, const el_step *, el_team);                     \
    void el_rope__##isa(const el_args *, const el_step *, el_team);                         \
    void el_cache_append__##isa(const el_args *, const el_step *, el_team);                 \
    void el_attention__##isa(const el_args *, const el_step *, el_team);                    \
    void el_gate_quantize__##isa(const el_args *, const el_step *, el_team);                \
    void el_relu2_gate__##isa(const el_args *, const el_step *, el_team);                   \
    void el_check_finite__##isa(const el_args *, const el_step *, el_team);                 \
    void el_check_cache__##isa(const el_args *, const el_step *, el_team);                  \
    void el_exp__##isa(const float *x, float *out, int64_t n);                              \
    void el_score__##isa(const float *x, int64_t n, int64_t target, double *nll, uint8_t *greedy);

EL_DECLARE_FLOAT_KERNELS(scalar)
EL_DECLARE_FLOAT_KERNELS(avx2)
EL_DECLARE_FLOAT_KERNELS(avx512)
EL_DECLARE_FLOAT_KERNELS(neon)

void el_embed__any(const el_args *, const el_step *, el_team);
#define EL_DECLARE_LOOKUP_KERNELS(isa)                                              \
    void el_lookup__##isa(const el_args *, const el_step *, el_team);               \
    void el_lut8_tables__##isa(const el_args *, const el_step *, el_team);          \
    void el_lut8__##isa(const el_args *, const el_step *, el_team);

EL_DECLARE_LOOKUP_KERNELS(scalar)
EL_DECLARE_LOOKUP_KERNELS(avx2)
EL_DECLARE_LOOKUP_KERNELS(avx512)
EL_DECLARE_LOOKUP_KERNELS(avx512vnni)
EL_DECLARE_LOOKUP_KERNELS(neon)
EL_DECLARE_LOOKUP_KERNELS(neon_dotprod)

void el_matmul__scalar(const el_args *, const el_step *, el_team);
void el_matmul__avx2(const el_args *, const el_step *, el_team);
void el_matmul__avx512(const el_args *, const el_step *, el_team);
void el_matmul__avx512vnni(const el_args *, const el_step *, el_team);
void el_matmul__neon(const el_args *, const el_step *, el_team);
void el_matmul__neon_dotprod(const el_args *, const el_step *, el_team);

/* The natural logarithm of x >= 2^-1022, within 1 ulp: of double arithmetic alone, so that every machine has the same bits (score.c). */
double el_log(double x);

/* IEEE binary16 -> binary32, exact. */
static inline float el_f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff, bits;
    float value;
    if (magnitude >= 0x7c00) { /* infinity and NaN */
        bits = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
    } else if (magnitude >= 0x0400) {
        bits = sign | ((magnitude << 13) + 0x38000000);
    } else { /* subnormal: an integer times 2^-24 */
        value = (float)magnitude * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, 4);
    return value;
}

/* IEEE binary32 -> binary16, round to nearest even; overflow gives infinity. */
static inline uint16_t el_f16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) /* NaN stays one, quiet, with its leading bits */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x47800000)
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits */
        float absolute, shifted;
        memcpy(&absolute, &magnitude, 4);
        shifted = absolute + 0.5f;
        uint32_t shifted_bits;
        memcpy(&shifted_bits, &shifted, 4);
        return (uint16_t)(sign | (shifted_bits - 0x3f000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
}

#endif
