/* Packing: from the row-major file layout to tiles of 16 rows, in which a lane is a row.
 *
 * int4 codes: [tile][group][block 0..3][lane 0..15][byte 0..3]; byte j of block b holds column 8b + j of the group in its
 * low nibble and column 8b + 4 + j in its high one. int8 codes: [tile][group][block 0..7][lane][byte]; byte j of block b is
 * column 4b + j, stored as code + 128 (unsigned, as vpdpbusd wants its first operand). Scales: [tile][group][lane], with
 * int4-min [tile][group][scale, minimum][lane]. */
#include "edgellm.h"

int64_t el_packed_codes_bytes(int scheme, int64_t rows, int64_t cols)
{
    return el_tiles(rows) * (cols / EL_GROUP) * el_group_bytes(scheme);
}

int64_t el_packed_scales_bytes(int scheme, int64_t rows, int64_t cols)
{
    return el_tiles(rows) * (cols / EL_GROUP) * el_scale_rows(scheme) * EL_TILE * (int64_t)sizeof(uint16_t);
}

static void pack_int4_group(const uint8_t *pairs, uint8_t *lane)
{
    for (int b = 0; b < 4; b++, pairs += 4, lane += 4 * EL_TILE) { /* columns 0 1, 2 3, 4 5, 6 7 -> 0 4, 1 5, 2 6, 3 7 */
        lane[0] = (uint8_t)((pairs[0] & 15) | pairs[2] << 4);
        lane[1] = (uint8_t)(pairs[0] >> 4 | (pairs[2] & 0xf0));
        lane[2] = (uint8_t)((pairs[1] & 15) | pairs[3] << 4);
        lane[3] = (uint8_t)(pairs[1] >> 4 | (pairs[3] & 0xf0));
    }
}

static void pack_int8_group(const uint8_t *codes, uint8_t *lane)
{
    for (int b = 0; b < 8; b++)
        for (int j = 0; j < 4; j++)
            lane[b * 4 * EL_TILE + j] = codes[4 * b + j] ^ 0x80;
}

void el_pack(int scheme, int64_t rows, int64_t cols, const uint8_t *codes, const uint16_t *scales, const uint16_t *minimums,
             uint8_t *packed_codes, uint16_t *packed_scales)
{
    int64_t groups = cols / EL_GROUP, parts = el_scale_rows(scheme), group_bytes = el_group_bytes(scheme);
    int64_t source_bytes = scheme == EL_INT8 ? EL_GROUP : EL_GROUP / 2;
    memset(packed_codes, 0, (size_t)el_packed_codes_bytes(scheme, rows, cols));
    memset(packed_scales, 0, (size_t)el_packed_scales_bytes(scheme, rows, cols));
    for (int64_t row = 0; row < rows; row++) {
        int64_t first = row / EL_TILE * groups, lane = row % EL_TILE;
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t *source = codes + (row * groups + g) * source_bytes;
            if (scheme == EL_INT8)
                pack_int8_group(source, packed_codes + (first + g) * group_bytes + lane * 4);
            else
                pack_int4_group(source, packed_codes + (first + g) * group_bytes + lane * 4);
            packed_scales[(first + g) * parts * EL_TILE + lane] = scales[row * groups + g];
            if (minimums)
                packed_scales[((first + g) * parts + 1) * EL_TILE + lane] = minimums[row * groups + g];
        }
    }
}
