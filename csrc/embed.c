/* Embedding: one row of the packed matrix for each token. It moves one row a token, so the same code serves every
 * instruction set. */
#include "edgellm.h"

void el_embed__any(const el_args *args, const el_step *step, el_team team)
{
    const el_embed *a = &args->embed;
    int64_t groups = a->table.cols / EL_GROUP, group_bytes = el_group_bytes(a->table.scheme);
    int64_t parts = el_scale_rows(a->table.scheme);
    el_range share = el_share(step->n_tokens * groups, team);
    for (int64_t u = share.begin; u < share.end; u++) {
        int64_t row = a->tokens[u / groups], at = row / EL_TILE * groups + u % groups;
        int r = (int)(row % EL_TILE);
        const uint16_t *scales = a->table.scales + at * parts * EL_TILE;
        float scale = el_f32_from_f16(scales[r]), minimum = parts == 2 ? el_f32_from_f16(scales[EL_TILE + r]) : 0.0f;
        for (int k = 0; k < EL_GROUP; k++)
            a->out[u * EL_GROUP + k] = scale * (float)el_code_at(a->table.scheme, a->table.codes + at * group_bytes, r, k) + minimum;
    }
}
