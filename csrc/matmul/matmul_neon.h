/* Integer matrix multiplication for 64-bit ARM, compiled once per instruction set. The file that includes this names it in EL_KERNEL and
 * gives `dot` and TOKENS_AT_ONCE. A tile's 16 rows are four registers of four rows, each lane of which holds a row's next four columns.
 * One token takes a tile's rows together, so that memory is read in order; several take four rows at a time, unpacked once for all. */

/* The fields of so many bits that begin at bit `first` of each byte. */
INLINE uint8x16_t field(uint8x16_t codes, int first, int bits)
{
    uint8x16_t shifted = first ? vshlq_u8(codes, vdupq_n_s8((int8_t)-first)) : codes;
    return first + bits == 8 ? shifted : vandq_u8(shifted, vdupq_n_u8((uint8_t)((1 << bits) - 1)));
}

/* Four rows of a block's plane: unpacked[q] holds columns 4q .. 4q + 3, as signed codes where they have 8 bits, else as unsigned ones. */
INLINE void unpack(int bits, const uint8_t *plane, int8x16_t unpacked[8])
{
    for (int q = 0; q < 8; q++) {
        if (bits == 8) {
            unpacked[q] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(plane + q * 64), vdupq_n_u8(0x80)));
        } else if (bits == 4) {
            unpacked[q] = vreinterpretq_s8_u8(field(vld1q_u8(plane + q / 2 * 64), q % 2 * 4, 4));
        } else {
            uint8x16_t code = field(vld1q_u8(plane + q / 4 * 64), q % 4 * 2, 2);
            if (bits == 3)
                code = vsliq_n_u8(code, field(vld1q_u8(plane + 128), q, 1), 2);
            unpacked[q] = vreinterpretq_s8_u8(code);
        }
    }
}

INLINE float32x4_t widen(const uint16_t *halves) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))); }

/* part[p][f][i] of a group as matmul_scalar.c defines it: of rows 4f .. of the codes given, and of token i, whose blocks of activations
 * begin at at + i * row_blocks. */
INLINE void group_parts(const el_matmul *a, int scheme, int per_token, const uint8_t *codes, int64_t at, int64_t row_blocks,
                        int64_t group_blocks, int fours, int tokens, float32x4_t part[EL_MAX_PLANES][4][TOKENS_AT_ONCE])
{
    int bits = el_code_bits(scheme), planes = el_planes(scheme);
    int32x4_t isum[EL_MAX_PLANES][4][TOKENS_AT_ONCE];
    for (int p = 0; p < planes; p++)
        for (int f = 0; f < fours; f++)
            for (int i = 0; i < tokens; i++) {
                isum[p][f][i] = vdupq_n_s32(0);
                part[p][f][i] = vdupq_n_f32(0.0f);
            }
    for (int64_t b = 0; b < group_blocks; b++)
        for (int p = 0; p < planes; p++, codes += el_plane_bytes(scheme))
            for (int f = 0; f < fours; f++) {
                int8x16_t unpacked[8];
                unpack(bits, codes + f * 16, unpacked);
                for (int i = 0; i < tokens; i++) {
                    int64_t x = at + b + i * row_blocks;
                    int32x4_t before = vdupq_n_s32(bits == 8 ? 0 : el_start(scheme, a->x.offsets[x]));
                    if (per_token)
                        before = vaddq_s32(before, isum[p][f][i]);
                    isum[p][f][i] = dot(bits, unpacked, a->x.codes + x * EL_BLOCK, before);
                    if (!per_token) {
                        float32x4_t sum = vcvtq_f32_s32(isum[p][f][i]);
                        part[p][f][i] = vfmaq_n_f32(part[p][f][i], sum, a->x.scales[x]);
                    }
                }
            }
    for (int p = 0; per_token && p < planes; p++)
        for (int f = 0; f < fours; f++)
            for (int i = 0; i < tokens; i++)
                part[p][f][i] = vmulq_n_f32(vcvtq_f32_s32(isum[p][f][i]), a->x.scales[at / row_blocks + i]);
}

/* sums[i][4f ..] = rows 4 (four + f) .. of a tile times token first + i. */
INLINE void rows_times_tokens(const el_matmul *a, int scheme, int per_token, int64_t group_blocks, int64_t tile, int four, int fours,
                              int64_t first, int tokens, float sums[TOKENS_AT_ONCE][EL_TILE])
{
    int planes = el_planes(scheme);
    int64_t blocks = a->w.cols / EL_BLOCK;
    const uint8_t *codes = a->w.codes + tile * blocks * el_block_bytes(scheme) + four * 16;
    const uint16_t *scales = a->w.scales + tile * el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE + four * 4;
    float32x4_t acc[4][TOKENS_AT_ONCE], part[EL_MAX_PLANES][4][TOKENS_AT_ONCE];
    for (int f = 0; f < fours; f++)
        for (int i = 0; i < tokens; i++)
            acc[f][i] = vdupq_n_f32(0.0f);
    for (int64_t b = 0; b < blocks; b += group_blocks, scales += el_scale_rows(scheme) * EL_TILE) {
        int64_t at = first * blocks + b, n = group_blocks == 1 || b + group_blocks <= blocks ? group_blocks : blocks - b;
        group_parts(a, scheme, per_token, codes + b * el_block_bytes(scheme), at, blocks, n, fours, tokens, part);
        for (int p = 0; p < planes; p++)
            for (int f = 0; f < fours; f++)
                for (int i = 0; i < tokens; i++)
                    acc[f][i] = vfmaq_f32(acc[f][i], widen(scales + p * EL_TILE + f * 4), part[p][f][i]);
        for (int64_t m = at; el_has_min(scheme) && m < at + n; m++)
            for (int f = 0; f < fours; f++)
                for (int i = 0; i < tokens; i++)
                    acc[f][i] = vfmaq_n_f32(acc[f][i], widen(scales + planes * EL_TILE + f * 4), a->x.scaled_sums[m + i * blocks]);
    }
    for (int f = 0; f < fours; f++)
        for (int i = 0; i < tokens; i++)
            vst1q_f32(sums[i] + f * 4, acc[f][i]);
}

INLINE void multiply_block(const el_matmul *a, int scheme, int per_token, int64_t group_blocks, int64_t tile, int four, int fours,
                           int64_t first, int tokens)
{
    float sums[TOKENS_AT_ONCE][EL_TILE];
    rows_times_tokens(a, scheme, per_token, group_blocks, tile, four, fours, first, tokens, sums);
    int64_t row = tile * EL_TILE + four * 4, rows = a->w.rows - row < fours * 4 ? a->w.rows - row : fours * 4;
    for (int i = 0; i < tokens; i++)
        for (int64_t r = 0; r < rows; r++) {
            float *out = a->out + (first + i) * a->out_cols + row + r;
            *out = (a->accumulate ? *out : 0.0f) + sums[i][r];
        }
}

INLINE void multiply(const el_matmul *a, int scheme, int per_token, int64_t group_blocks, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
        int64_t token = 0;
        for (; TOKENS_AT_ONCE > 1 && token + TOKENS_AT_ONCE <= tokens; token += TOKENS_AT_ONCE)
            for (int four = 0; four < 4; four++)
                multiply_block(a, scheme, per_token, group_blocks, tile, four, 1, token, TOKENS_AT_ONCE);
        for (; token < tokens; token++)
            multiply_block(a, scheme, per_token, group_blocks, tile, 0, 4, token, 1);
    }
}

/* The usual group is one block, and known as a constant saves a loop. */
#define DEFINE_MULTIPLY(scheme)                                                                   \
    static void multiply_##scheme(const el_matmul *a, el_range tiles, int64_t tokens)             \
    {                                                                                             \
        if (a->x.group != EL_BLOCK)                                                               \
            multiply(a, scheme, 1, a->w.group / EL_BLOCK, tiles, tokens);                         \
        else if (a->w.group != EL_BLOCK)                                                          \
            multiply(a, scheme, 0, a->w.group / EL_BLOCK, tiles, tokens);                         \
        else                                                                                      \
            multiply(a, scheme, 0, 1, tiles, tokens);                                             \
    }
EL_SCHEMES(DEFINE_MULTIPLY)

void EL_KERNEL(el_matmul)(const el_args *args, const el_step *step, el_team team)
{
#define ENTRY(scheme) [scheme] = multiply_##scheme,
    static void (*const multiply_scheme[EL_SCHEME_COUNT])(const el_matmul *, el_range, int64_t) = {EL_SCHEMES(ENTRY)};
    const el_matmul *a = &args->matmul;
    multiply_scheme[a->w.scheme](a, el_share(el_tiles(a->w.rows), team), a->outputs_only ? step->n_outputs : step->n_tokens);
}
