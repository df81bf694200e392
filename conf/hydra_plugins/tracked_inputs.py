"""A plugin of Hydra, by which `dvc exp run --queue` and `--temp` refuse data that their copies will lack."""

import contextlib
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

ROOT = Path(__file__).parents[2]


class TrackedInputs(SearchPathPlugin):
    """It leaves the search path alone: this is what Hydra calls first, when nothing is queued yet."""

    is_checked = False

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if TrackedInputs.is_checked or not {"--queue", "--temp"} & {*sys.argv}:
            return
        TrackedInputs.is_checked = True  # Hydra calls for each composition, those below among them

        from dvc.cli import parse_args
        from dvc.exceptions import InvalidArgumentError
        from dvc.utils.cli_parse import to_path_overrides
        from dvc.utils.hydra import get_hydra_sweeps

        from stages.commands import tracked
        from stages.core import settings
        from stages.core.errors import UserError

        arguments = parse_args(sys.argv[1:])
        if arguments.copy_paths:
            return
        try:
            with contextlib.chdir(ROOT):
                for overrides in get_hydra_sweeps(to_path_overrides(arguments.set_param)):
                    tracked.check(settings.compose(overrides.get("params.yaml", [])))
        except UserError as error:
            raise InvalidArgumentError(str(error)) from None
