/* Bytes for table lookup, B_CHUNKS times 16 of them, as an array: what the other b16_*.h are compared with, and the definition of each
 * function. A chunk's 16 bytes belong to a tile's 16 rows; chunks are of different columns. */
#define B_CHUNKS 1

typedef struct {
    uint8_t byte[16];
} bytes;

typedef struct { /* a sum of 16 bits for each row and chunk */
    int16_t word[16];
} words;

#define B_MAP(type, member, expression)     \
    do {                                    \
        type r;                             \
        for (int i = 0; i < 16; i++)        \
            r.member[i] = (expression);     \
        return r;                           \
    } while (0)

static inline bytes b_zero(void) { B_MAP(bytes, byte, 0); }
static inline bytes b_load(const uint8_t *p) { B_MAP(bytes, byte, p[i]); }
static inline bytes b_low_half(bytes a) { B_MAP(bytes, byte, a.byte[i] & 15); }
static inline bytes b_high_half(bytes a) { B_MAP(bytes, byte, a.byte[i] >> 4); }
static inline bytes b_add(bytes a, bytes b) { B_MAP(bytes, byte, (uint8_t)(a.byte[i] + b.byte[i])); }
static inline bytes b_lookup(bytes table, bytes index) { B_MAP(bytes, byte, table.byte[index.byte[i]]); } /* within each chunk */

static inline words w_zero(void) { B_MAP(words, word, 0); }

/* a + f * x + g * y, x and y taken as signed; f and g in 1..255, and no sum of two products beyond 16 bits. */
static inline words w_add(words a, bytes x, int f, bytes y, int g)
{
    B_MAP(words, word, (int16_t)(a.word[i] + f * (int8_t)x.byte[i] + g * (int8_t)y.byte[i]));
}

static inline rows r_sum(words a) { B_MAP(rows, row, a.word[i]); } /* over the chunks; it fits 16 bits */

#undef B_MAP
