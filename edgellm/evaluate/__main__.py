"""lm-eval's own command line, with this engine among its models: `python -m edgellm.evaluate --model edgellm --model_args ...`.

lm-eval does not look for models in other packages: who has one imports it before that command line runs. That is all that happens here.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

import edgellm.evaluate.adapter  # noqa: F401  it registers itself

if __name__ == "__main__":
    cli_evaluate()
