/* What matmul_x86.h wants, by vpmaddubsw: products are added in 16 bits, and in 32 at the end of a block.
 *
 * vpmaddubsw saturates at 16 bits, so the operands are kept small enough: codes 0..15 against -127..127 give pair sums of
 * at most 3810, and the 8 of a block 30480; int8 uses |w| (at most 128) against sign(w) x, pairs of at most 32512. */
INLINE int32_t start(int scheme, int32_t offset) { return scheme == EL_INT8 ? 0 : el_start(scheme, offset); }

INLINE void add_block(int bits, const uint8_t *plane, int64_t tile_bytes, int tiles, const int8_t *x, int64_t cols, int tokens,
                      rows sums[SUMS_AT_ONCE])
{
    pairs products[SUMS_AT_ONCE];
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++)
#pragma GCC unroll 8
        for (int i = 0; i < tokens; i++) {
            quad four = q_set1(x + i * cols + q * 4);
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++) {
                int j = t * tokens + i;
                quad w = unpack(bits, plane + t * tile_bytes, q);
                if (bits == 8) {
                    sums[j] = r_add(sums[j], p_sum(q_signed_products(q_less_128(w), four)));
                    Q_KEEP(sums[j]);
                } else {
                    products[j] = q ? p_add(products[j], q_products(w, four)) : q_products(w, four);
                    Q_KEEP(products[j]);
                }
            }
        }
    if (bits != 8)
#pragma GCC unroll 8
        for (int j = 0; j < tiles * tokens; j++)
            sums[j] = r_add(sums[j], p_sum(products[j]));
}
