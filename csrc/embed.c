/* Embedding: one row of the packed matrix for each token. It moves one row a token, so the same code serves every
 * instruction set. */
#include "edgellm.h"

/* weights[k] of a row's block: scale * code for each plane, added in order, and the minimum; times `factor`. */
static void dequantize_block(const el_matrix *m, int64_t row, int64_t block, float factor, float weights[EL_BLOCK])
{
    int planes = el_planes(m->scheme), lane = (int)(row % EL_TILE);
    int64_t tile = row / EL_TILE;
    const uint8_t *codes = m->codes + (tile * (m->cols / EL_BLOCK) + block) * el_block_bytes(m->scheme);
    int64_t group = tile * el_groups(m) + block * EL_BLOCK / m->group;
    const uint16_t *scales = m->scales + group * el_scale_rows(m->scheme) * EL_TILE + lane;
    for (int k = 0; k < EL_BLOCK; k++) {
        float weight = el_has_min(m->scheme) ? el_f32_from_f16(scales[planes * EL_TILE]) : 0.0f;
        for (int p = 0; p < planes; p++) {
            int32_t code = el_code_at(m->scheme, m->layout, codes + p * el_plane_bytes(m->scheme), lane, k);
            weight += el_f32_from_f16(scales[p * EL_TILE]) * (float)code;
        }
        weights[k] = factor * weight;
    }
}

void el_embed__any(const el_args *args, const el_step *step, el_team team)
{
    const el_embed *a = &args->embed;
    int64_t blocks = a->table.cols / EL_BLOCK;
    el_range share = el_share(step->n_tokens * blocks, team);
    for (int64_t u = share.begin; u < share.end; u++)
        dequantize_block(&a->table, a->tokens[u / blocks], u % blocks, a->scale, a->out + u * EL_BLOCK);
}
