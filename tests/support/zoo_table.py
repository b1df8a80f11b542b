# SPDX-License-Identifier: Apache-2.0
"""Commands that count something of each model of the zoo."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from absl import app, flags, logging

from sirius_tf.tools.models import zoo


def run(
    columns: Sequence[str],
    wrong: Collection[str],
    count: Callable[[str, bool], Counter[str]],
    width: int,
) -> None:
    """Run the command of this process: a row for each model, by its name, and whether it is to be
    small. The exit code is 1 if something was counted in a column that is `wrong`."""

    def main(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
        print(f"{'model':16}" + "".join(f"{c:>{width}}" for c in columns), flush=True)
        bad = 0
        for name in argv[1:] or sorted(zoo.ZOO):
            found = count(name, flags.FLAGS.small)
            row = "".join(f"{found[c]:{width}}" for c in columns)
            print(f"{Path(name).name:16}{row}", flush=True)
            bad += sum(found[c] for c in wrong)
        return int(bad > 0)

    flags.DEFINE_bool("small", False, "Small versions of the models.")
    app.run(main)
