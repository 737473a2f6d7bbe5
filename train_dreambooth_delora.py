#!/usr/bin/env python
"""Fine-tune Stable Diffusion on a handful of photos of one subject, with DeLoRA or a rival.

    accelerate launch train_dreambooth_delora.py configs/train/delora.yaml data.subject=dog output_dir=runs/dog
    accelerate launch train_dreambooth_delora.py configs/train/delora.yaml \\
        data.photos=~/rex data.class_word=dog output_dir=runs/rex

Settings: YAML files left to right, then key=value. `--help` explains every one, `--dry-run` prints the resolved
ones and stops. To resume, run the same command again. Several processes share each step's batch:

    torchrun --nproc_per_node 2 train_dreambooth_delora.py configs/train/delora.yaml training.batch_size=2 ...

Then `delora-sd generate runs/dog`, `delora-sd score runs/dog`, `delora-sd report runs/dog`.
"""

import sys

from delora_sd.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
