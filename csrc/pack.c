/* Packing: from the row-major file layout to tiles of 16 rows, in which a lane is a row.
 *
 * A tile is its blocks of 32 columns in order, a block its planes. In a plane, 64 bytes hold 4 columns (a quad, one byte
 * each) of the 16 lanes, [lane][column % 4], and where codes are narrower than a byte, several quads share those 64 bytes:
 *   int8   8 x 64 bytes: quad q is bytes 64 q..; code + 128 (unsigned, as vpdpbusd wants its first operand)
 *   int4   4 x 64 bytes: quad q is in bytes 64 (q / 2).., even quads in the low nibbles
 *   int2, trits   2 x 64 bytes: quad q is in bytes 64 (q / 4).., at bit 2 (q % 4); a trit is stored as trit + 1
 *   int3   3 x 64 bytes: the low two bits as int2, then the high bit of quad q at bit q
 * For table lookup the 64 bytes are [column % 4][lane] instead: each half of a byte is then an index into the sums of the columns whose
 * codes it holds, and the 16 rows, side by side, look theirs up in one table (lookup/tables.h).
 * Scales: [tile][group][plane, then minimum][lane]. */
#include "edgellm.h"

#define TRITS_A_BYTE 5

int64_t el_packed_codes_bytes(const el_matrix *shape)
{
    return el_tiles(shape->rows) * (shape->cols / EL_BLOCK) * el_block_bytes(shape->scheme);
}

int64_t el_packed_scales_bytes(const el_matrix *shape)
{
    return el_tiles(shape->rows) * el_groups(shape) * el_scale_rows(shape->scheme) * EL_TILE * (int64_t)sizeof(uint16_t);
}

static int64_t row_bytes(const el_matrix *m)
{
    if (m->scheme >= EL_TERNARY)
        return el_planes(m->scheme) * (int64_t)((m->cols + TRITS_A_BYTE - 1) / TRITS_A_BYTE);
    return (int64_t)m->cols * el_code_bits(m->scheme) / 8;
}

/* Each byte's trits, in order. */
typedef struct {
    uint8_t of[256][TRITS_A_BYTE];
} trit_table;

static void fill_trits(trit_table *trits)
{
    for (int byte = 0; byte < 256; byte++)
        for (int i = 0, digits = byte; i < TRITS_A_BYTE; i++, digits /= 3)
            trits->of[byte][i] = (uint8_t)(digits % 3);
}

/* The trits of a plane's columns first .. first + 31, which begin and end within bytes. */
static void read_trits(const trit_table *trits, const uint8_t *bytes, int64_t first, uint8_t code[EL_BLOCK])
{
    uint8_t whole[EL_BLOCK + 2 * TRITS_A_BYTE], *end = whole;
    for (int64_t byte = first / TRITS_A_BYTE; byte * TRITS_A_BYTE < first + EL_BLOCK; byte++, end += TRITS_A_BYTE)
        memcpy(end, trits->of[bytes[byte]], TRITS_A_BYTE);
    memcpy(code, whole + first % TRITS_A_BYTE, EL_BLOCK);
}

/* Nibbles of 32 columns, in the file and in a lane's bytes. */
static inline void pack_nibbles(const uint8_t *pairs, int column_step, uint8_t *lane)
{
    for (int i = 0; i < 4; i++, pairs += 4, lane += 64) { /* columns 0 1, 2 3, 4 5, 6 7 -> 0 4, 1 5, 2 6, 3 7 */
        lane[0] = (uint8_t)((pairs[0] & 15) | pairs[2] << 4);
        lane[column_step] = (uint8_t)(pairs[0] >> 4 | (pairs[2] & 0xf0));
        lane[2 * column_step] = (uint8_t)((pairs[1] & 15) | pairs[3] << 4);
        lane[3 * column_step] = (uint8_t)(pairs[1] >> 4 | (pairs[3] & 0xf0));
    }
}

/* The unsigned codes of 32 columns of a row's plane, in order; not of 4 bits. */
static inline void read_block(const el_matrix *m, const trit_table *trits, const uint8_t *row, int64_t block, int plane,
                              uint8_t code[EL_BLOCK])
{
    int bits = el_code_bits(m->scheme);
    if (m->scheme >= EL_TERNARY) {
        read_trits(trits, row + plane * ((m->cols + TRITS_A_BYTE - 1) / TRITS_A_BYTE), block * EL_BLOCK, code);
    } else if (bits == 8) {
        for (int k = 0; k < EL_BLOCK; k++)
            code[k] = row[block * EL_BLOCK + k] ^ 0x80;
    } else {
        for (int k = 0; k < EL_BLOCK; k++)
            code[k] = row[block * 8 + k / 4] >> k % 4 * 2 & 3;
        if (bits == 3)
            for (int k = 0; k < EL_BLOCK; k++)
                code[k] |= (uint8_t)((row[m->cols / 4 + block * 4 + k / 8] >> k % 8 & 1) << 2);
    }
}

/* Writes a lane's 32 codes into its bytes of a plane; not those of 4 bits. */
static inline void place_block(int bits, int column_step, const uint8_t code[EL_BLOCK], uint8_t *lane)
{
    int width = bits == 3 ? 2 : bits, quads = 8 / width; /* bits of a code in a byte, quads that share it */
    for (int i = 0; i < EL_BLOCK / quads; i++) {
        unsigned byte = 0;
        for (int q = 0; q < quads; q++)
            byte |= (code[(i / 4 * quads + q) * 4 + i % 4] & ((1u << width) - 1)) << q * width;
        lane[i / 4 * 64 + i % 4 * column_step] = (uint8_t)byte;
    }
    for (int i = 0; bits == 3 && i < 4; i++) {
        unsigned byte = 0;
        for (int q = 0; q < 8; q++)
            byte |= (code[q * 4 + i] >> 2u) << q;
        lane[128 + i * column_step] = (uint8_t)byte;
    }
}

static void pack_row(const el_matrix *m, const trit_table *trits, const uint8_t *row, uint8_t *lane)
{
    int bits = el_code_bits(m->scheme), planes = el_planes(m->scheme), step = el_column_step(m->layout);
    for (int64_t b = 0; b < m->cols / EL_BLOCK; b++)
        for (int p = 0; p < planes; p++, lane += el_plane_bytes(m->scheme)) {
            uint8_t code[EL_BLOCK];
            if (bits == 4) {
                pack_nibbles(row + b * 16, step, lane);
                continue;
            }
            read_block(m, trits, row, b, p, code);
            switch (bits) { /* constants, so that the loops unroll */
            case 8: place_block(8, step, code, lane); break;
            case 3: place_block(3, step, code, lane); break;
            default: place_block(2, step, code, lane); break;
            }
        }
}

void el_pack(const el_matrix *m, const uint8_t *codes, const uint16_t *scales, const uint16_t *minimums, uint8_t *packed_codes,
             uint16_t *packed_scales)
{
    int64_t groups = el_groups(m), planes = el_planes(m->scheme), parts = el_scale_rows(m->scheme);
    int64_t tile_bytes = m->cols / EL_BLOCK * el_block_bytes(m->scheme), tile_scales = groups * parts * EL_TILE;
    if (m->rows % EL_TILE) {
        memset(packed_codes + m->rows / EL_TILE * tile_bytes, 0, (size_t)tile_bytes);
        memset(packed_scales + m->rows / EL_TILE * tile_scales, 0, (size_t)tile_scales * sizeof *packed_scales);
    }
    trit_table trits;
    fill_trits(&trits);
    for (int64_t row = 0; row < m->rows; row++) {
        int64_t tile = row / EL_TILE, lane = row % EL_TILE;
        pack_row(m, &trits, codes + row * row_bytes(m), packed_codes + tile * tile_bytes + lane * el_row_step(m->layout));
        for (int64_t g = 0; g < groups; g++) {
            uint16_t *packed = packed_scales + (tile * groups + g) * parts * EL_TILE + lane;
            for (int64_t p = 0; p < planes; p++)
                packed[p * EL_TILE] = scales[(row * groups + g) * planes + p];
            if (minimums)
                packed[planes * EL_TILE] = minimums[row * groups + g];
        }
    }
}
