"""Names of other libraries that these do not promise to keep: every one that padd uses, one module a library.

What can be done in a public way is done so, where it is needed. The rest is here, each with a probe that asks the
installed library, in milliseconds, whether it still does what padd takes it for. Commands run the probes of what they
use before they start, `padd doctor` runs all.
"""
