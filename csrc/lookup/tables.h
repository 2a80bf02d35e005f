/* The sums that lookup kernels look up (T-MAC: Wei et al., 2024), of one activation vector.
 *
 * An index is half a byte of codes in the lookup layout (pack.c): 4 / bits codes of 1, 2 or 4 bits, a code at bit `bits * i` for the column
 * that many quads further on. Its entry is the sum of (code - zero) * x over these columns, exactly: zero makes it one of at most 10 bits
 * and a sign, or 11 where bits is 4. It is kept in two bytes, high and low, of which kernels can add several before either overflows:
 *   bits 1, 2   sum = 32 high + low + 13, both -16..15: eight of them are at most 128 from 0, and never +128
 *   bits 4      sum = 64 high + low, -16..16 and -32..31: four of them
 * Tables of 64 bytes of codes: [half of the byte][low, high][column % 4][16 entries]; a block has `bits` times 64 bytes. */
#define EL_UNIT 64          /* bytes of codes that share the 16 rows and, column by column, two tables */
#define EL_UNIT_TABLES 256  /* bytes of their tables */
#define EL_TABLE_BIAS 13    /* of sums of 1- and 2-bit codes */

INLINE void el_build_unit(int bits, const int8_t *x, uint8_t *tables)
{
    int codes = 4 / bits, zero = bits == 1 ? 0 : 1 << (bits - 1), shift = bits == 4 ? 6 : 5, up = bits == 4 ? 32 : 16 - EL_TABLE_BIAS;
    for (int half = 0; half < 2; half++)
        for (int c = 0; c < 4; c++) {
            uint8_t *low = tables + half * 128 + c * 16, *high = low + 64;
            for (int index = 0; index < 16; index++) {
                int sum = up;
                for (int i = 0; i < codes; i++)
                    sum += ((index >> bits * i & ((1 << bits) - 1)) - zero) * x[(half * codes + i) * 4 + c];
                high[index] = (uint8_t)(sum >> shift);
                low[index] = (uint8_t)((sum & ((1 << shift) - 1)) - (1 << shift) / 2);
            }
        }
}

/* The tables that `out` has room for, of a block of its first vector's codes. */
static inline void el_build_tables(el_activation out, int64_t block)
{
    const int8_t *x = out.codes + block * EL_BLOCK;
#define BUILD(table)                                                                  \
    if (out.tables[table])                                                            \
        for (int unit = 0; unit < 1 << table; unit++)                                 \
            el_build_unit(1 << table, x + unit * (EL_BLOCK >> table),                 \
                          out.tables[table] + ((block << table) + unit) * EL_UNIT_TABLES)
    BUILD(EL_QUADS);
    BUILD(EL_PAIRS);
    BUILD(EL_SINGLES);
#undef BUILD
}
