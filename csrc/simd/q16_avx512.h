/* Quads, four bytes for each of 16 rows, in one AVX-512 register. q16_avx2.h says what each function gives. */
typedef __m512i quad;
typedef __m512i pairs;

#define Q_KEEP(sum) __asm__("" : "+v"(sum))

static inline quad q_load(const uint8_t *p) { return _mm512_loadu_si512(p); }

static inline quad q_set1(const int8_t *p)
{
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return r_set1(bytes);
}

static inline quad q_field(quad a, int right, int mask)
{
    quad moved = right < 0 ? _mm512_slli_epi16(a, (unsigned)-right) : right ? _mm512_srli_epi16(a, (unsigned)right) : a;
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)mask));
}

static inline quad q_or(quad a, quad b) { return _mm512_or_si512(a, b); }
static inline quad q_less_128(quad a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
static inline pairs q_products(quad a, quad x) { return _mm512_maddubs_epi16(a, x); }

static inline pairs q_signed_products(quad a, quad x)
{
    return _mm512_maddubs_epi16(_mm512_abs_epi8(a), _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(a), _mm512_setzero_si512(), x));
}

static inline pairs p_add(pairs a, pairs b) { return _mm512_add_epi16(a, b); }
static inline rows p_sum(pairs a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
