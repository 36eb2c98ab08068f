"""Interfaces of other libraries without a promise of stability: every one that padd uses, one module a library.

Where there is a public way, it is taken in the place of use. The rest is here, each with a probe that checks in
milliseconds whether the installed library still behaves as padd assumes. Commands run the probes of what they
use before they start, `padd doctor` runs all.
"""

import logging

# transformers imports torchao where it is installed, which warns of kernels that padd does not use
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
