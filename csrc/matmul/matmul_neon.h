/* Integer matrix multiplication for 64-bit ARM, compiled once per instruction set: EL_KERNEL names it, and the file that includes
 * this gives `dot`. A tile's 16 rows are four registers of four rows, each lane of which holds a row's next four columns. One token takes
 * a tile's rows together, so that memory is read in order; several take four rows at a time, unpacked once for all of them. */
#define INLINE static inline __attribute__((always_inline))
#define MAX_TOKENS 4

/* codes shifted right, or left where `right` is negative, and masked. */
INLINE uint8x16_t field(uint8x16_t codes, int right, int mask)
{
    return vandq_u8(vshlq_u8(codes, vdupq_n_s8((int8_t)-right)), vdupq_n_u8((uint8_t)mask));
}

/* Four rows of a block's plane: unpacked[q] holds columns 4q .. 4q + 3, as signed codes where they have 8 bits, else as unsigned ones. */
INLINE void unpack(int bits, const uint8_t *plane, int8x16_t unpacked[8])
{
    for (int q = 0; q < 8; q++) {
        if (bits == 8) {
            unpacked[q] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(plane + q * 64), vdupq_n_u8(0x80)));
        } else if (bits == 4) {
            unpacked[q] = vreinterpretq_s8_u8(field(vld1q_u8(plane + q / 2 * 64), q % 2 * 4, 15));
        } else {
            uint8x16_t code = field(vld1q_u8(plane + q / 4 * 64), q % 4 * 2, 3);
            unpacked[q] = vreinterpretq_s8_u8(bits == 2 ? code : vorrq_u8(code, field(vld1q_u8(plane + 128), q - 2, 4)));
        }
    }
}

INLINE float32x4_t widen(const uint16_t *halves) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))); }

/* acc[f][i] = rows 4 (four + f) .. of a tile times token first + i, as matmul_scalar.c defines it. */
INLINE void rows_times_tokens(const el_matmul *a, int scheme, int per_token, int64_t tile, int four, int fours, int64_t first, int tokens,
                              float32x4_t acc[4][MAX_TOKENS])
{
    int bits = el_code_bits(scheme), planes = el_planes(scheme);
    int64_t blocks = a->w.cols / EL_BLOCK, group_blocks = a->w.group / EL_BLOCK, group_begin = 0;
    const uint8_t *plane = a->w.codes + tile * blocks * el_block_bytes(scheme) + four * 16;
    const uint16_t *scales = a->w.scales + tile * el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE + four * 4;
    float32x4_t part[EL_MAX_PLANES][4][MAX_TOKENS] = {0};
    int32x4_t isum[EL_MAX_PLANES][4][MAX_TOKENS] = {0};
    for (int f = 0; f < fours; f++)
        for (int i = 0; i < tokens; i++)
            acc[f][i] = vdupq_n_f32(0.0f);
    for (int64_t b = 0; b < blocks; b++) {
        for (int p = 0; p < planes; p++, plane += el_plane_bytes(scheme))
            for (int f = 0; f < fours; f++) {
                int8x16_t unpacked[8];
                unpack(bits, plane + f * 16, unpacked);
                for (int i = 0; i < tokens; i++) {
                    int64_t at = (first + i) * blocks + b;
                    int32x4_t start = vdupq_n_s32(scheme == EL_INT8 ? 0 : el_start(scheme, a->x.offsets[at]));
                    if (per_token) {
                        isum[p][f][i] = dot(bits, unpacked, a->x.codes + at * EL_BLOCK, vaddq_s32(isum[p][f][i], start));
                    } else {
                        float32x4_t sum = vcvtq_f32_s32(dot(bits, unpacked, a->x.codes + at * EL_BLOCK, start));
                        part[p][f][i] = vfmaq_n_f32(part[p][f][i], sum, a->x.scales[at]);
                    }
                }
            }
        if (b + 1 < blocks && b + 1 < group_begin + group_blocks)
            continue;
        for (int f = 0; f < fours; f++)
            for (int i = 0; i < tokens; i++) {
                for (int p = 0; p < planes; p++) {
                    if (per_token)
                        part[p][f][i] = vmulq_n_f32(vcvtq_f32_s32(isum[p][f][i]), a->x.scales[first + i]);
                    acc[f][i] = vfmaq_f32(acc[f][i], widen(scales + p * EL_TILE + f * 4), part[p][f][i]);
                    part[p][f][i] = vdupq_n_f32(0.0f);
                    isum[p][f][i] = vdupq_n_s32(0);
                }
                for (int64_t m = group_begin; el_has_min(scheme) && m <= b; m++)
                    acc[f][i] = vfmaq_n_f32(acc[f][i], widen(scales + planes * EL_TILE + f * 4), a->x.scaled_sums[(first + i) * blocks + m]);
            }
        scales += el_scale_rows(scheme) * EL_TILE;
        group_begin = b + 1;
    }
}

/* out[0 .. valid - 1] (+)= acc. */
INLINE void store(float *out, int accumulate, int64_t valid, float32x4_t acc)
{
    float lanes[4] = {0};
    int64_t n = valid < 4 ? valid : 4;
    if (accumulate)
        memcpy(lanes, out, (size_t)n * sizeof *lanes);
    vst1q_f32(lanes, vaddq_f32(vld1q_f32(lanes), acc));
    memcpy(out, lanes, (size_t)n * sizeof *lanes);
}

INLINE void multiply_block(const el_matmul *a, int scheme, int per_token, int64_t tile, int four, int fours, int64_t first,
                           int tokens)
{
    float32x4_t acc[4][MAX_TOKENS];
    rows_times_tokens(a, scheme, per_token, tile, four, fours, first, tokens, acc);
    int64_t row = tile * EL_TILE + four * 4;
    for (int f = 0; f < fours && row < a->w.rows; f++, row += 4)
        for (int i = 0; i < tokens; i++)
            store(a->out + (first + i) * a->w.rows + row, a->accumulate, a->w.rows - row, acc[f][i]);
}

INLINE void multiply(const el_matmul *a, int scheme, int per_token, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
        int64_t token = 0;
        for (; token + MAX_TOKENS <= tokens; token += MAX_TOKENS)
            for (int four = 0; four < 4; four++)
                multiply_block(a, scheme, per_token, tile, four, 1, token, MAX_TOKENS);
        for (; token < tokens; token++)
            multiply_block(a, scheme, per_token, tile, 0, 4, token, 1);
    }
}

void EL_KERNEL(el_matmul)(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
#define MULTIPLY(scheme) multiply(a, scheme, a->x.group != EL_BLOCK, tiles, tokens)
    switch (a->w.scheme) { EL_SCHEME_CASES(MULTIPLY) }
}
