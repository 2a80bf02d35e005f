/* Quads, four bytes for each of 16 rows, in two AVX2 registers, and their products in 16 bits. */
typedef rows quad;
typedef rows pairs; /* two sums of 16 bits for each row */

/* Keeps gcc from moving other sums before this one: it would compute all products first, in more registers than there are. */
#define Q_KEEP(sum) __asm__("" : "+x"((sum).lo), "+x"((sum).hi))

static inline quad q_load(const uint8_t *p)
{
    return (quad){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}

/* The same four bytes for every row. */
static inline quad q_set1(const int8_t *p)
{
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return r_set1(bytes);
}

static inline __m256i q_field_half(__m256i a, int right, int mask)
{
    __m256i moved = right < 0 ? _mm256_slli_epi16(a, -right) : right ? _mm256_srli_epi16(a, right) : a;
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}

/* Each byte moved right by some bits (left where negative), and masked: the mask holds none that came from a neighbour. */
static inline quad q_field(quad a, int right, int mask) { return (quad){q_field_half(a.lo, right, mask), q_field_half(a.hi, right, mask)}; }

static inline quad q_or(quad a, quad b) { return (quad){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }

/* 0..255 less 128, as signed bytes. */
static inline quad q_less_128(quad a)
{
    __m256i top = _mm256_set1_epi8(-128);
    return (quad){_mm256_xor_si256(a.lo, top), _mm256_xor_si256(a.hi, top)};
}

/* a unsigned, x signed; no pair's sum exceeds 16 bits. */
static inline pairs q_products(quad a, quad x) { return (pairs){_mm256_maddubs_epi16(a.lo, x.lo), _mm256_maddubs_epi16(a.hi, x.hi)}; }

/* Both signed: |a| times sign(a) x; x is not -128. */
static inline pairs q_signed_products(quad a, quad x)
{
    return (pairs){_mm256_maddubs_epi16(_mm256_abs_epi8(a.lo), _mm256_sign_epi8(x.lo, a.lo)),
                   _mm256_maddubs_epi16(_mm256_abs_epi8(a.hi), _mm256_sign_epi8(x.hi, a.hi))};
}

static inline pairs p_add(pairs a, pairs b) { return (pairs){_mm256_add_epi16(a.lo, b.lo), _mm256_add_epi16(a.hi, b.hi)}; }

/* Each row's two sums, added. */
static inline rows p_sum(pairs a)
{
    __m256i ones = _mm256_set1_epi16(1);
    return (rows){_mm256_madd_epi16(a.lo, ones), _mm256_madd_epi16(a.hi, ones)};
}
