/* Bytes for table lookup, four chunks in an AVX-512 register. b16_scalar.h defines what each function gives. */
#define B_CHUNKS 4

typedef __m512i bytes;

typedef struct { /* of rows 0 .. 7 and 8 .. 15, each chunk by chunk */
    __m512i low, high;
} words;

static inline bytes b_zero(void) { return _mm512_setzero_si512(); }
static inline bytes b_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline bytes b_low_half(bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
static inline bytes b_high_half(bytes a) { return b_low_half(_mm512_srli_epi16(a, 4)); }
static inline bytes b_add(bytes a, bytes b) { return _mm512_add_epi8(a, b); }
static inline bytes b_lookup(bytes table, bytes index) { return _mm512_shuffle_epi8(table, index); }

static inline words w_zero(void) { return (words){_mm512_setzero_si512(), _mm512_setzero_si512()}; }

static inline words w_add(words a, bytes x, int f, bytes y, int g)
{
    __m512i factors = _mm512_set1_epi16((int16_t)(f | g << 8));
    return (words){_mm512_add_epi16(a.low, _mm512_maddubs_epi16(factors, _mm512_unpacklo_epi8(x, y))),
                   _mm512_add_epi16(a.high, _mm512_maddubs_epi16(factors, _mm512_unpackhi_epi8(x, y)))};
}

static inline rows r_sum(words a)
{
    __m256i low = _mm256_add_epi16(_mm512_castsi512_si256(a.low), _mm512_extracti64x4_epi64(a.low, 1));
    __m256i high = _mm256_add_epi16(_mm512_castsi512_si256(a.high), _mm512_extracti64x4_epi64(a.high, 1));
    __m256i first = _mm256_permute2x128_si256(low, high, 0x20), second = _mm256_permute2x128_si256(low, high, 0x31);
    return _mm512_cvtepi16_epi32(_mm256_add_epi16(first, second));
}
