/* Bytes for table lookup, one chunk in a NEON register. b16_scalar.h defines what each function gives. */
#define B_CHUNKS 1

typedef uint8x16_t bytes;

typedef struct { /* of rows 0 .. 7 and 8 .. 15 */
    int16x8_t low, high;
} words;

static inline bytes b_zero(void) { return vdupq_n_u8(0); }
static inline bytes b_load(const uint8_t *p) { return vld1q_u8(p); }
static inline bytes b_low_half(bytes a) { return vandq_u8(a, vdupq_n_u8(15)); }
static inline bytes b_high_half(bytes a) { return vshrq_n_u8(a, 4); }
static inline bytes b_add(bytes a, bytes b) { return vaddq_u8(a, b); }
static inline bytes b_lookup(bytes table, bytes index) { return vqtbl1q_u8(table, index); }

static inline words w_zero(void) { return (words){vdupq_n_s16(0), vdupq_n_s16(0)}; }

static inline words w_add(words a, bytes x, int f, bytes y, int g)
{
    int8x16_t first = vreinterpretq_s8_u8(x), second = vreinterpretq_s8_u8(y);
    a.low = vmlaq_n_s16(a.low, vmovl_s8(vget_low_s8(first)), (int16_t)f);
    a.high = vmlaq_n_s16(a.high, vmovl_high_s8(first), (int16_t)f);
    a.low = vmlaq_n_s16(a.low, vmovl_s8(vget_low_s8(second)), (int16_t)g);
    a.high = vmlaq_n_s16(a.high, vmovl_high_s8(second), (int16_t)g);
    return a;
}

static inline rows r_sum(words a)
{
    return (rows){{vmovl_s16(vget_low_s16(a.low)), vmovl_high_s16(a.low), vmovl_s16(vget_low_s16(a.high)), vmovl_high_s16(a.high)}};
}
