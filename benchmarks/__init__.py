"""Side-by-side measurements that anyone can repeat; what they gave is in ``docs/performance.md``.

    uv sync --group bench                    # the peers; a suite leaves out what is not installed
    python -m benchmarks.step_overhead       # a training step over a loop written by hand; calls
    python -m benchmarks.whole_fit           # epochs per second with validation
    python -m benchmarks.import_time         # imports, the first optimizer, a config error
    python -m benchmarks.checkpoints         # stall, MB/s and loading of 1.2 GB
    python -m benchmarks.decoding            # greedy and beam decoding, tokens per second
    python -m benchmarks.image_pipeline      # JPEG files to normalised batches, images per second
    python -m benchmarks.metric_losses       # losses of metric learning, forward and backward
    python -m benchmarks.report              # write benchmarks/results/*.json into the docs

Every suite takes ``--repeats N``, ``--json FILE`` and ``--quick``, computes on one thread of the
CPU, lets its variants take turns within each round, and prints a Markdown table of medians. For
the record: nothing else runs on the machine, the tree is committed, and the result goes to
``--json benchmarks/results/NAME.json``, which is committed too.

What a training loses when it is killed again and again, and whether it ends where it would have:

    python -m common.testing.torture papers.attention_is_all_you_need.train --kills 50 --seed 0
"""
