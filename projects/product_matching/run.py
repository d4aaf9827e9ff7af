"""Match products by their images: train every fold, pick thresholds honestly, report.

python -m projects.product_matching.run                             # digits as products, offline
python -m projects.product_matching.run data.folder=photos model.backbone.model_name=efficientnet_b3
python -m projects.product_matching.run -m data.batch_size=16,32,64
python -m projects.product_matching.run --config configs/grocery.yaml
python -m projects.product_matching.run --resume RUN
"""

import sys

from common.config import RunContext, launch
from projects.product_matching.core.config import Config


def run(config: Config, context: RunContext) -> float:
    """Match products by their images; returns the pooled out-of-fold F of the matches."""
    from common.utils.logging import setup_logger
    from projects.product_matching.core.places import open_place
    from projects.product_matching.core.report import summary_table
    from projects.product_matching.core.session import run_session

    setup_logger()  # what is said of the data comes before there is a directory with a log
    place = open_place(config, context)
    finished = run_session(config, context, place.directory, place.store)
    sys.stdout.write(f"{summary_table(finished.metrics)}\n")
    sys.stdout.write(f"report: {finished.directory / 'report.md'}\n")
    place.finish(finished.directory)  # after what is printed: a copy that fails ends the command
    source = list(finished.judged.values())[-1]
    return source.pooled["f_score"]


if __name__ == "__main__":
    launch(run, Config, __file__)
