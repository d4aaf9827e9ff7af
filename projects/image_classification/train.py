"""Train a classifier: what ``ml-train`` runs, for ``accelerate launch -m`` and ``torchrun -m``.

python -m projects.image_classification.train --config configs/digits_config.yaml
accelerate launch --multi_gpu --num_processes 2 -m projects.image_classification.train --config C
"""

from projects.image_classification.cli.train import main

if __name__ == "__main__":
    main()
