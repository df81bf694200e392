"""Has Hydra know the resolver `watched` wherever it composes conf/, in `dvc exp run` too."""

import stages.core.watched  # noqa: F401
