/* Bytes for table lookup, two chunks in an AVX2 register. b16_scalar.h defines what each function gives. */
#define B_CHUNKS 2

typedef __m256i bytes;

typedef struct { /* of rows 0 .. 7 and 8 .. 15, each chunk by chunk */
    __m256i low, high;
} words;

static inline bytes b_zero(void) { return _mm256_setzero_si256(); }
static inline bytes b_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline bytes b_low_half(bytes a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
static inline bytes b_high_half(bytes a) { return b_low_half(_mm256_srli_epi16(a, 4)); }
static inline bytes b_add(bytes a, bytes b) { return _mm256_add_epi8(a, b); }
static inline bytes b_lookup(bytes table, bytes index) { return _mm256_shuffle_epi8(table, index); }

static inline words w_zero(void) { return (words){_mm256_setzero_si256(), _mm256_setzero_si256()}; }

static inline words w_add(words a, bytes x, int f, bytes y, int g)
{
    __m256i factors = _mm256_set1_epi16((int16_t)(f | g << 8));
    return (words){_mm256_add_epi16(a.low, _mm256_maddubs_epi16(factors, _mm256_unpacklo_epi8(x, y))),
                   _mm256_add_epi16(a.high, _mm256_maddubs_epi16(factors, _mm256_unpackhi_epi8(x, y)))};
}

static inline rows r_sum(words a)
{
    __m256i first = _mm256_permute2x128_si256(a.low, a.high, 0x20), second = _mm256_permute2x128_si256(a.low, a.high, 0x31);
    __m256i sum = _mm256_add_epi16(first, second);
    return (rows){_mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum)), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum, 1))};
}
