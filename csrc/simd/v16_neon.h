/* Sixteen float32 or int32 lanes in four NEON registers. v16_scalar.h defines what each function gives. */
#include <arm_neon.h>

typedef float32x4x4_t v16;

enum { V_SUMS = 4 };

#define V_EACH for (int i = 0; i < 4; i++)
#define V_MAP(expression) \
    do {                  \
        v16 r;            \
        V_EACH r.val[i] = (expression); \
        return r;         \
    } while (0)

static inline v16 v_set1(float a) { V_MAP(vdupq_n_f32(a)); }
static inline v16 v_load(const float *p) { V_MAP(vld1q_f32(p + 4 * i)); }
static inline v16 v_load_f16(const uint16_t *p) { V_MAP(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))); }
static inline void v_store(float *p, v16 a) { V_EACH vst1q_f32(p + 4 * i, a.val[i]); }
static inline void v_store_f16(uint16_t *p, v16 a) { V_EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.val[i]))); }

/* NEON loads and stores whole registers only: parts of sixteen lanes go through memory. */
static inline v16 v_load_n(const float *p, int64_t n)
{
    if (n >= 16)
        return v_load(p);
    float lanes[16] = {0};
    memcpy(lanes, p, (size_t)n * sizeof *lanes);
    return v_load(lanes);
}

static inline void v_store_n(float *p, v16 a, int64_t n)
{
    float lanes[16];
    v_store(lanes, a);
    memcpy(p, lanes, (size_t)(n < 16 ? n : 16) * sizeof *lanes);
}

static inline v16 v_add(v16 a, v16 b) { V_MAP(vaddq_f32(a.val[i], b.val[i])); }
static inline v16 v_sub(v16 a, v16 b) { V_MAP(vsubq_f32(a.val[i], b.val[i])); }
static inline v16 v_mul(v16 a, v16 b) { V_MAP(vmulq_f32(a.val[i], b.val[i])); }
static inline v16 v_div(v16 a, v16 b) { V_MAP(vdivq_f32(a.val[i], b.val[i])); }
static inline v16 v_fma(v16 a, v16 b, v16 c) { V_MAP(vfmaq_f32(c.val[i], a.val[i], b.val[i])); }
static inline v16 v_abs(v16 a) { V_MAP(vabsq_f32(a.val[i])); }
static inline v16 v_rint(v16 a) { V_MAP(vrndnq_f32(a.val[i])); }

/* Not fmax and fmin, which give the NaN or the number where x86 gives b. */
static inline float32x4_t v_max4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline float32x4_t v_min4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline v16 v_max(v16 a, v16 b) { V_MAP(v_max4(a.val[i], b.val[i])); }
static inline v16 v_min(v16 a, v16 b) { V_MAP(v_min4(a.val[i], b.val[i])); }

static inline v16 v_keep_n(v16 a, int64_t n, v16 b)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int32x4_t limit = vdupq_n_s32(n > 16 ? 16 : (int32_t)n);
    V_MAP(vbslq_f32(vcltq_s32(vld1q_s32(lanes + 4 * i), limit), a.val[i], b.val[i]));
}

static inline v16 v_pow2(v16 a)
{
    int32x4_t bias = vdupq_n_s32(127);
    V_MAP(vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(a.val[i]), bias), 23)));
}

/* The lanes, integral, as integers, each added to *sum. */
static inline int8x16_t v_to_i8(v16 a, int32x4_t *sum)
{
    int32x4_t part[4];
    V_EACH *sum = vaddq_s32(*sum, part[i] = vcvtq_s32_f32(a.val[i]));
    int16x8_t low = vcombine_s16(vmovn_s32(part[0]), vmovn_s32(part[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(part[2]), vmovn_s32(part[3]));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

static inline int32_t v_store_i8(int8_t *p, v16 a, v16 b)
{
    int32x4_t sum = vdupq_n_s32(0);
    vst1q_s8(p, v_to_i8(a, &sum));
    vst1q_s8(p + 16, v_to_i8(b, &sum));
    return vaddvq_s32(sum);
}

static inline float v_hsum(v16 a)
{
    float32x4_t four = vaddq_f32(vaddq_f32(a.val[0], a.val[2]), vaddq_f32(a.val[1], a.val[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline float v_hmax(v16 a)
{
    float32x4_t four = v_max4(v_max4(a.val[0], a.val[2]), v_max4(a.val[1], a.val[3]));
    float32x4_t two = v_max4(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(v_max4(two, vextq_f32(two, two, 1)), 0);
}

typedef int32x4x4_t rows;

static inline rows r_set1(int32_t a) { return (rows){{vdupq_n_s32(a), vdupq_n_s32(a), vdupq_n_s32(a), vdupq_n_s32(a)}}; }

static inline rows r_add(rows a, rows b)
{
    for (int i = 0; i < 4; i++)
        a.val[i] = vaddq_s32(a.val[i], b.val[i]);
    return a;
}

static inline v16 r_float(rows a)
{
    v16 r;
    for (int i = 0; i < 4; i++)
        r.val[i] = vcvtq_f32_s32(a.val[i]);
    return r;
}

#undef V_MAP
#undef V_EACH
