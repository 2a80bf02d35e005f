/* Sixteen float32 or int32 lanes as an array: the bit oracle for the other v16_*.h, and the definition of each function. */
typedef struct {
    float lane[16];
} v16;

/* Vectors of sums that fit in registers beside what they are multiplied with: a matter of speed alone. */
enum { V_SUMS = 1 };

#define V_EACH for (int i = 0; i < 16; i++)
#define V_MAP(expression) \
    do {                  \
        v16 r;            \
        V_EACH r.lane[i] = (expression); \
        return r;         \
    } while (0)

static inline v16 v_set1(float a) { V_MAP(a); }
static inline v16 v_load(const float *p) { V_MAP(p[i]); }
static inline v16 v_load_n(const float *p, int64_t n) { V_MAP(i < n ? p[i] : 0.0f); } /* lanes from n on are +0 */
static inline v16 v_load_f16(const uint16_t *p) { V_MAP(el_f32_from_f16(p[i])); }
static inline void v_store(float *p, v16 a) { V_EACH p[i] = a.lane[i]; }
static inline void v_store_n(float *p, v16 a, int64_t n) { V_EACH if (i < n) p[i] = a.lane[i]; }
static inline v16 v_add(v16 a, v16 b) { V_MAP(a.lane[i] + b.lane[i]); }
static inline v16 v_sub(v16 a, v16 b) { V_MAP(a.lane[i] - b.lane[i]); }
static inline v16 v_mul(v16 a, v16 b) { V_MAP(a.lane[i] * b.lane[i]); }
static inline v16 v_div(v16 a, v16 b) { V_MAP(a.lane[i] / b.lane[i]); }
static inline v16 v_fma(v16 a, v16 b, v16 c) { V_MAP(fmaf(a.lane[i], b.lane[i], c.lane[i])); }      /* a * b + c */
static inline v16 v_max(v16 a, v16 b) { V_MAP(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }     /* b if either is NaN */
static inline v16 v_min(v16 a, v16 b) { V_MAP(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }     /* b if either is NaN */
static inline v16 v_abs(v16 a) { V_MAP(fabsf(a.lane[i])); }
static inline v16 v_rint(v16 a) { V_MAP(rintf(a.lane[i])); }
static inline v16 v_keep_n(v16 a, int64_t n, v16 b) { V_MAP(i < n ? a.lane[i] : b.lane[i]); }       /* a below lane n, else b */

/* 2^a for integral a in -126..127. */
static inline v16 v_pow2(v16 a)
{
    v16 r;
    V_EACH {
        int32_t bits = ((int32_t)a.lane[i] + 127) << 23;
        memcpy(&r.lane[i], &bits, 4);
    }
    return r;
}

/* Stores the lanes of a, then b, integral and in -127..127, as int8 and gives their sum. */
static inline int32_t v_store_i8(int8_t *p, v16 a, v16 b)
{
    int32_t sum = 0;
    V_EACH sum += p[i] = (int8_t)(int32_t)a.lane[i];
    V_EACH sum += p[i + 16] = (int8_t)(int32_t)b.lane[i];
    return sum;
}

static inline void v_store_f16(uint16_t *p, v16 a) { V_EACH p[i] = el_f16_from_f32(a.lane[i]); }

/* The fixed tree: lane i with i + 8, then i + 4, i + 2, i + 1. */
#define V_TREE(combine)                                  \
    for (int half = 8; half; half /= 2)                  \
        for (int i = 0; i < half; i++) {                 \
            float x = a.lane[i], y = a.lane[i + half];   \
            a.lane[i] = combine;                         \
        }                                                \
    return a.lane[0]

static inline float v_hsum(v16 a) { V_TREE(x + y); }
static inline float v_hmax(v16 a) { V_TREE(x > y ? x : y); }

typedef struct { /* an integer for each lane */
    int32_t row[16];
} rows;

#define R_MAP(expression) \
    do {                  \
        rows r;           \
        V_EACH r.row[i] = (expression); \
        return r;         \
    } while (0)

static inline rows r_set1(int32_t a) { R_MAP(a); }
static inline rows r_add(rows a, rows b) { R_MAP(a.row[i] + b.row[i]); }
static inline v16 r_float(rows a) { V_MAP((float)a.row[i]); }

#undef R_MAP
#undef V_TREE
#undef V_MAP
#undef V_EACH
